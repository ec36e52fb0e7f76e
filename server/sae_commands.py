"""`tiller sae …`: bring an SAE in, take one out, judge one, go back to an earlier one. Puts files, model and measures together; heavy imports wait."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from server.store.sqlite import SqliteStore
    from steering.chat import Message
    from steering.formats import Imported
    from steering.revisions import Revisions
    from steering.sae import SAE
    from steering.splice import Spliced
    from steering.train.measures import Measures

LONGEST = 512
SAMPLE = Path(__file__).parent / "sample.txt"
app = typer.Typer(no_args_is_help=True, help="Import, export and measure sparse autoencoders.")
console, problems = Console(), Console(stderr=True)

Place = Annotated[str, typer.Argument(help="Folder, file, or hub id such as org/name/folder.")]
Text = Annotated[
    Path | None,
    typer.Option(help="Text to measure on: lines, or JSONL with `text` or `messages`. A sample if not given."),
]
Hook = Annotated[str | None, typer.Option(help="Where it reads, such as layers.12, if its files don't say.")]
Bundle_ = Annotated[Path | None, typer.Option("--bundle", envvar="TILLER_BUNDLE", help="The bundle's folder.")]
Data = Annotated[Path | None, typer.Option(envvar="TILLER_DATA_DIR", help="Where the server keeps its settings.")]
K = Annotated[int | None, typer.Option(min=1, help="Features per token of a TopK, if its files don't say.")]


@app.command("import")
def import_(
    place: Place,
    model: Annotated[str, typer.Option(help="Folder or hub id of the model that it reads.")],
    out: Annotated[Path, typer.Option(help="The bundle's folder, which must not exist yet; its name is the bundle's.")],
    hook: Hook = None,
    k: K = None,
    text: Text = None,
    labels: Annotated[Path | None, typer.Option(help="Folder of Neuronpedia's export of this SAE.")] = None,
    revision: Annotated[str | None, typer.Option(help="Revision of the SAE's repository.")] = None,
) -> None:
    """Make a bundle of somebody's SAE, checked and measured on the model.

    Reads SAELens, Gemma Scope, dictionary_learning, sparsify, OpenAI (ReLU), Goodfire, Llama Scope and Qwen-Scope.

    Example: tiller sae import google/gemma-scope-2b-pt-res/layer_12/width_16k/average_l0_82 --model google/gemma-2-2b-it --out gemma
    """
    from server.hub import find
    from steering import neuronpedia
    from steering.catalogue import Bundle, BundleInfo, Feature
    from steering.errors import SteeringError

    try:
        if out.exists():
            raise SteeringError(f"{str(out)!r} exists; give --out a new folder")
        found, hook = _read(find(place, revision=revision), hook, k)
        subject = Subject.read(model, hook, text, found.sae.d_in)
        sae = subject.calibrated(found)
        measures, spliced = subject.judge(sae)
        info = BundleInfo(
            name=out.name,
            model=str(Path(model).resolve()) if Path(model).is_dir() else model,
            hook=hook,
            revision="r1",
            typical_norm=float(subject.rows.norm(dim=1).median()),
            metrics={"explained_variance": measures.explained_variance, "l0": measures.l0, "tokens": measures.tokens},
        )
        features = [Feature(id=f"{out.name}/{i}", index=i) for i in range(sae.d_sae)]
        features = neuronpedia.read(labels, features, found.unit.tolist()) if labels else features
        Bundle.create(out, info, sae, features=features, about={"imported_from": place, "format": found.format})
        _same_again(sae, Bundle.open(out).sae, subject.rows)
    except (SteeringError, OSError) as error:
        _fail(str(error))
    _summary(found.format, hook, sae, measures, spliced)
    if labels:
        console.print(f"{sum(bool(f.label) for f in features):,} features have a label.")
    if found.k is not None:
        console.print(f"It was a TopK of {found.k}: one threshold now keeps {measures.l0:.1f} features a token.")
    console.print(f"Serve it: tiller serve --bundle {out}", soft_wrap=True)


@app.command()
def export(
    out: Annotated[Path, typer.Argument(help="The folder to write.")],
    bundle: Annotated[Path, typer.Option(envvar="TILLER_BUNDLE")] = Path("sae_weights/harbor"),
    labels: Annotated[bool, typer.Option("--labels", help="The catalogue, too, as Neuronpedia exports it.")] = False,
) -> None:
    """Write a bundle's SAE as SAELens reads it.

    Example: tiller sae export ./harbor-sae --labels
    """
    from steering import neuronpedia
    from steering.catalogue import Bundle
    from steering.errors import SteeringError

    try:
        if out.exists() and any(out.iterdir()):
            raise SteeringError(f"{str(out)!r} is not empty; give a new folder")
        opened = Bundle.open(bundle)
        about = {"hf_hook_name": f"model.{opened.info.hook}"}
        opened.sae.save(out, hook=f"blocks.{opened.layer}.hook_resid_post", model=opened.info.model, about=about)
        if labels:
            neuronpedia.write(
                out, opened.features, model=opened.info.model, source=f"{opened.layer}-{opened.info.name}"
            )
    except (SteeringError, OSError) as error:
        _fail(str(error))
    console.print(f"{out}: SAELens 6, jumprelu, {opened.sae.d_sae} features", soft_wrap=True)


@app.command()
def revisions(bundle: Bundle_ = None, data_dir: Data = None) -> None:
    """List the revisions of the SAE: figures, parents, and which one is served.

    Example: tiller sae revisions
    """
    from steering.errors import SteeringError

    with _revisions(bundle, data_dir) as (found, store):
        served = _wanted(found, store)
        table = Table("revision", "parent", "published", "features", "figures", "")
        for name in found.names():
            try:
                m = found.manifest(name)
            except SteeringError as error:
                table.add_row(name, "", "", "", str(error), "damaged")
                continue
            figures = ", ".join(f"{k} {v:.4g}" for k, v in m.figures.items())
            when = datetime.fromtimestamp(m.created, UTC).strftime("%Y-%m-%d %H:%M")
            table.add_row(name, m.parent or "–", when, str(m.d_sae), figures, "served" if name == served else "")
        console.print(table)


@app.command()
def rollback(
    to: Annotated[
        str | None, typer.Option(help="The revision to serve; the parent of the served one if not given.")
    ] = None,
    bundle: Bundle_ = None,
    data_dir: Data = None,
) -> None:
    """Serve an earlier revision of the SAE; a running server follows within a second.

    Example: tiller sae rollback --to r3
    """
    from server.swap import setting_of
    from steering.errors import BadBundle

    with _revisions(bundle, data_dir) as (found, store):
        served = _wanted(found, store)
        target = to or found.manifest(served).parent
        if target is None:
            raise BadBundle(f"{served!r} came with the bundle, there is nothing before it; name another with --to")
        found.open(target)  # what cannot be opened is not asked for
        asyncio.run(store.set_setting(setting_of(found.info.name), target))
    console.print(f"{served} → {target}: new replies come from {target}; replies that run end on {served}.")


@app.command("eval")
def evaluate(
    place: Annotated[str | None, typer.Argument(help="An SAE of any known layout; the bundle's if not given.")] = None,
    bundle: Annotated[Path, typer.Option(envvar="TILLER_BUNDLE")] = Path("sae_weights/harbor"),
    model: Annotated[str | None, typer.Option(help="Instead of the bundle's model.")] = None,
    hook: Hook = None,
    k: K = None,
    text: Text = None,
) -> None:
    """Measure an SAE on a model's stream.

    Example: tiller sae eval --text chats.jsonl
    """
    from server.hub import find
    from steering.catalogue import Bundle
    from steering.errors import SteeringError

    try:
        opened = Bundle.open(bundle) if place is None or model is None else None
        if place is None and opened:
            layout, sae, hook = opened.info.name, opened.sae, opened.info.hook
            subject = Subject.read(model or opened.model_path, hook, text, sae.d_in)
        else:
            found, hook = _read(find(str(place)), hook, k)
            subject = Subject.read(model or (opened.model_path if opened else ""), hook, text, found.sae.d_in)
            layout, sae = found.format, subject.calibrated(found)
        measures, spliced = subject.judge(sae)
    except (SteeringError, OSError) as error:
        _fail(str(error))
    _summary(layout, hook, sae, measures, spliced)


def _read(place: Path, hook: str | None, k: int | None) -> "tuple[Imported, str]":
    from steering.errors import SteeringError
    from steering.formats import read
    from steering.hooks import layer_number

    found = read(place, hook=hook, k=k)
    if found.hook is None:
        raise SteeringError("its files don't say which layer it reads; add --hook layers.<number>")
    layer_number(found.hook)
    return found, found.hook


@dataclass(frozen=True, eq=False)
class Subject:
    """A model, the tokens of a text, and the stream of those tokens at one hook point."""

    model: "PreTrainedModel"
    tokens: list[list[int]]
    hook: str
    rows: "Tensor"
    """`[tokens, d_in]`, first tokens and sinks left out."""

    @staticmethod
    def read(name: str, hook: str, text: Path | None, width: int) -> "Subject":
        """Load a model and let it read. Raises SteeringError that says what does not fit."""
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils import logging

        from steering.activations import activations, padded_batches, tokenize_chats
        from steering.errors import SteeringError

        logging.disable_progress_bar()
        try:
            tokenizer = AutoTokenizer.from_pretrained(name)
            model = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32).eval()
        except (OSError, ValueError) as error:
            raise SteeringError(f"the model {name!r} cannot be loaded: {str(error).splitlines()[0]}") from error
        if (its := model.config.get_text_config().hidden_size) != width:
            raise SteeringError(f"the SAE reads a stream of width {width}; that of {name!r} is {its}")
        tokens: list[list[int]] = []
        for item in _texts(text or SAMPLE):
            one = [tokenizer(item)["input_ids"]] if isinstance(item, str) else tokenize_chats(tokenizer, [item])
            tokens.extend(t for t in one if len(t) > 2)
        if not tokens:
            raise SteeringError("no text of three tokens or more to measure on")
        batches = padded_batches(tokens, batch=16, longest=LONGEST, pad=0)
        return Subject(model, tokens, hook, torch.cat(list(activations(model, batches, hook))))

    def calibrated(self, found: "Imported") -> "SAE":
        """The SAE as it is served: a TopK gets its threshold here."""
        return found.sae if found.k is None else found.sae.calibrated(self.rows, found.k)

    def judge(self, sae: "SAE") -> "tuple[Measures, Spliced]":
        """How well the SAE reconstructs, and what the model loses by it."""
        from steering.activations import padded_batches
        from steering.splice import splice
        from steering.train.measures import measure

        batches = padded_batches(self.tokens, batch=4, longest=LONGEST, pad=0)
        return measure(sae, self.rows.split(4096)), splice(self.model, sae, batches, self.hook)


def _texts(path: Path) -> "Iterator[str | list[Message]]":
    from steering.errors import SteeringError

    some = False
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip():
            continue
        some = True
        if path.suffix != ".jsonl":
            yield line
            continue
        try:
            row = json.loads(line)
            yield row["text"] if "text" in row else row["messages"]
        except (ValueError, KeyError, TypeError) as error:
            raise SteeringError(
                f"line {number} of {path.name} must be an object with `text` or `messages`: {error}"
            ) from error
    if not some:
        raise SteeringError(f"{str(path)!r} holds no text")


def _same_again(sae: "SAE", written: "SAE", rows: "Tensor") -> None:
    """Raise if what was written does not reconstruct what was read."""
    from steering.errors import BadBundle

    here, there = sae.decode(sae.encode(rows[:256])), written.decode(written.encode(rows[:256]))
    if not here.equal(there):
        raise BadBundle("the SAE on disk does not reconstruct what the one that was read did")


@contextmanager
def _revisions(bundle: Path | None, data_dir: Path | None) -> "Iterator[tuple[Revisions, SqliteStore]]":
    """The revisions and the store of a server, running or not; what a person can mend ends with its message."""
    from server.settings import Settings
    from server.store.sqlite import SqliteStore
    from server.store.store import BadStore
    from server.swap import revisions_of
    from steering.errors import SteeringError

    given = {"bundle": bundle, "data_dir": data_dir}
    settings = Settings(**{k: v for k, v in given.items() if v is not None})  # type: ignore[arg-type]
    try:
        found, store = revisions_of(settings), SqliteStore(settings.data_dir / "tiller.db")
        try:
            yield found, store
        finally:
            asyncio.run(store.close())
    except (SteeringError, BadStore, OSError) as error:
        _fail(str(error))


def _wanted(found: "Revisions", store: "SqliteStore") -> str:
    from server.swap import setting_of

    return asyncio.run(store.setting(setting_of(found.info.name))) or found.info.revision


def _summary(layout: str, hook: str, sae: "SAE", m: "Measures", s: "Spliced") -> None:
    table = Table(show_header=False)
    for name, value in (
        ("layout", layout),
        ("reads", f"{hook}, width {sae.d_in}"),
        ("features", f"{sae.d_sae:,}"),
        ("explained variance", f"{m.explained_variance:.3f}"),
        ("L0", f"{m.l0:.1f}"),
        ("reconstruction bias", f"{m.bias:.3f}"),
        ("loss, with the reconstruction", f"{s.clean:.3f} {s.rise:+.3f} nats ({s.recovered:.1%} recovered)"),
        ("KL of the next token", f"{s.kl:.3f} nats"),
        (f"never fired on {m.tokens:,} tokens", f"{m.dead:.1%}"),
        ("fire on <10⁻⁵ … ≥10⁻¹ of tokens", " ".join(f"{n:,}" for n in m.densities)),
        ("cosine to the nearest other", f"{m.cosine:.2f} on average"),
    ):
        table.add_row(name, value)
    console.print(table)
    if m.explained_variance < 0:
        problems.print(
            "warning: it explains less than the mean does. Is this the model, the layer and the file that belong together?",
            soft_wrap=True,
        )


def _fail(message: str) -> NoReturn:
    problems.print(f"tiller: {message}", highlight=False, markup=False, soft_wrap=True)
    raise typer.Exit(1)
