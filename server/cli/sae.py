"""`tiller sae …`: import, export, train, evaluate and seal SAEs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, cast, get_args

import typer
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table

from server.cli import revisions
from server.cli.errors import errors_exit
from server.cli.options import ShippedBundle
from server.cli.tables import print_table
from server.cli.terminal import TerminalConsole
from server.sae.evaluation import EvaluationInputs, evaluation_figures, length_ratio, read_sae, same_after_round_trip
from server.sae.hub import resolve_sae_files
from server.sae.model_loading import resolve_device
from server.sae.training_run import Kind, TrainConfig, TrainingRun
from server.settings import EMBEDDED
from steering.catalogue import neuronpedia
from steering.catalogue.bundle import Bundle
from steering.catalogue.bundle import seal as write_sums
from steering.catalogue.feature import BundleInfo, Feature
from steering.errors import SteeringError
from steering.evaluate.loss_recovered import LossRecovered
from steering.evaluate.sae_metrics import SaeMetrics
from steering.sae import SAE, WEIGHTS
from steering.train.distributed import process_group
from steering.train.trainer import Progress

SCALES = {"none": (), "length": (("each token over", "its length"),), "spread": (("each token over", "its spread"),)}
app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Import, export, train and evaluate sparse autoencoders."
)
app.command()(revisions.revisions)
app.command()(revisions.rollback)
console, problems = TerminalConsole(), TerminalConsole(stderr=True)

Place = Annotated[str, typer.Argument(help="Folder, file, or hub id such as org/name/folder.")]
Text = Annotated[
    Path | None,
    typer.Option(help="Text to measure on: lines, or JSONL with `text` or `messages`. Default: a sample."),
]
Hook = Annotated[str | None, typer.Option(help="Hook point, such as layers.12, if its files don't name it.")]
K = Annotated[int | None, typer.Option(min=1, help="Active features per token of a TopK, if its files don't name it.")]
NewBundle = Annotated[Path, typer.Option(help="The bundle's folder, which must not exist yet; the run lies beside it.")]
TrainingText = Annotated[
    list[Path] | None, typer.Option(help="Lines, or JSONL with `text` or `messages`; may be repeated.")
]
Start = Annotated[str | None, typer.Option(help="Initialize from this SAE: a folder or hub id in any known format.")]


@app.command("import")
def import_(
    place: Place,
    model: Annotated[str, typer.Option(help="Folder or hub id of its model.")],
    out: Annotated[Path, typer.Option(help="The bundle's folder, which must not exist yet; its name is the bundle's.")],
    hook: Hook = None,
    k: K = None,
    text: Text = None,
    labels: Annotated[Path | None, typer.Option(help="Folder with Neuronpedia's export of this SAE.")] = None,
    revision: Annotated[str | None, typer.Option(help="Revision of the SAE's repository.")] = None,
) -> None:
    """Import an SAE as a bundle, checked and measured on the model.

    Reads SAELens, Gemma Scope, dictionary_learning, sparsify, OpenAI, Goodfire, Llama Scope and Qwen-Scope. Of
    transcoders and the like, only the directions: they can be added, but not measured.

    Example: tiller sae import google/gemma-scope-2b-pt-res/layer_12/width_16k/average_l0_82 --model google/gemma-2-2b-it --out gemma
    """
    with errors_exit():
        if out.exists():
            raise SteeringError(f"{str(out)!r} exists; give --out a new folder")
        found, hook = read_sae(resolve_sae_files(place, revision=revision), hook, k)
        subject = EvaluationInputs.load(model, hook, text, found.sae.d_in)
        sae, norm = subject.calibrated(found), float(subject.rows.norm(dim=1).median())
        judged = subject.evaluate(sae) if sae.reads else None
        info = BundleInfo(
            name=out.name,
            model=str(Path(model).resolve()) if Path(model).is_dir() else model,
            hook=hook,
            revision="r1",
            typical_norm=norm,
            skip_special=True,
            metrics=evaluation_figures(judged[0]) if judged else {},
        )
        features = [Feature(id=f"{out.name}/{i}", index=i) for i in range(sae.d_sae)]
        if labels:
            features = neuronpedia.read_export(labels, features, length_ratio(found, norm))
        Bundle.create(out, info, sae, features=features, about={"imported_from": place, "format": found.format})
        same_after_round_trip(sae, Bundle.open(out).sae, subject.rows)
    if judged:
        _summary(found.format, hook, sae, *judged)
    else:
        _directions(found.format, hook, sae)
    if labels:
        console.print(f"{sum(bool(f.label) for f in features):,} features have a label.")
    if found.k is not None and judged:
        console.print(f"It was a TopK of {found.k}: one threshold now keeps {judged[0].l0:.1f} features a token.")
    console.print(f"Serve it: tiller serve --bundle {out}", soft_wrap=True)


@app.command()
def train(
    out: NewBundle,
    text: TrainingText = None,
    dataset: Annotated[str | None, typer.Option(help="A dataset of the hub, or its folder.")] = None,
    split: Annotated[str, typer.Option(help="Of the dataset.")] = "train",
    column: Annotated[str | None, typer.Option(help="Column of the dataset: text, messages or conversation.")] = None,
    bundle: ShippedBundle = EMBEDDED,
    model: Annotated[str | None, typer.Option(help="Folder or hub id that replaces the bundle's.")] = None,
    hook: Hook = None,
    start: Start = None,
    objective: Annotated[str, typer.Option(help="batchtopk, topk, relu, jumprelu or jumprelu-l0.")] = "batchtopk",
    features: Annotated[int, typer.Option(min=16)] = 2048,
    k: Annotated[int, typer.Option(min=1, help="Active features per token; not for relu and jumprelu.")] = 32,
    l1: Annotated[float, typer.Option(min=0, help="λ of relu.")] = 5.0,
    sparsity: Annotated[float, typer.Option(min=0, help="λ of jumprelu.")] = 10.0,
    tokens: Annotated[int | None, typer.Option(min=1, help="Maximum number of tokens; default: all.")] = None,
    passes: Annotated[int, typer.Option(min=1, help="Number of epochs.")] = 1,
    rows: Annotated[int, typer.Option(min=16, help="Tokens a step.")] = 2048,
    buffer: Annotated[int, typer.Option(min=1, help="Size of the shuffle buffer, in tokens.")] = 200_000,
    context: Annotated[int, typer.Option(min=8, help="Maximum length of a text, in tokens.")] = 512,
    lr: Annotated[float | None, typer.Option(min=0, help="Default: by the number of features.")] = None,
    seed: int = 0,
    device: Annotated[str, typer.Option(envvar="TILLER_DEVICE")] = "auto",
    checkpoint: Annotated[int, typer.Option(min=50, help="Steps between checkpoints, a multiple of 50.")] = 500,
) -> None:
    """Train an SAE on a model's residual stream; run again, the same command resumes from the last checkpoint.

    Example: tiller sae train --out mine --text chats.jsonl --text prose.txt --features 4096
    Several processes: torchrun --nproc-per-node 2 -m server sae train --out mine --text chats.jsonl
    """
    with errors_exit():
        _check_options(out, objective, checkpoint)
        model, hook = _model_and_hook(bundle, model, hook)
        order = TrainConfig(
            model=model,
            hook=hook,
            text=tuple(map(str, text or ())),
            dataset=dataset,
            split=split,
            column=column,
            start=start,
            objective=cast("Kind", objective),
            features=features,
            k=k,
            l1=l1,
            sparsity=sparsity,
            tokens=tokens,
            passes=passes,
            rows=rows,
            buffer=buffer,
            context=context,
            lr=lr,
            seed=seed,
        )
        trained = _train(order, out, device=device, every=checkpoint)
    if trained:
        _trained_summary(out, *trained)


def _check_options(out: Path, objective: str, checkpoint: int) -> None:
    """Raise SteeringError for what typer cannot check."""
    if out.exists():
        raise SteeringError(f"{str(out)!r} exists; give --out a new folder")
    if checkpoint % 50:
        raise SteeringError(f"--checkpoint must be a multiple of 50, got {checkpoint}")
    if objective not in get_args(Kind):
        raise SteeringError(f"unknown objective {objective!r}; choose one of {', '.join(get_args(Kind))}")


def _model_and_hook(bundle: Path, model: str | None, hook: str | None) -> tuple[str, str]:
    """The model and its hook point; the bundle's where they are not given. Raises SteeringError."""
    opened = Bundle.open(bundle) if model is None or hook is None else None
    if model and not hook:
        raise SteeringError("the layer is missing: give --hook layers.<number>")
    return model or (opened.model_path if opened else ""), hook or (opened.info.hook if opened else "")


def _train(
    order: TrainConfig, out: Path, *, device: str, every: int
) -> tuple[TrainingRun, SAE, SaeMetrics, LossRecovered] | None:
    """Train, write the bundle and evaluate it; None in all processes but the first."""
    place = resolve_device(device)
    with process_group("nccl" if place.type == "cuda" else "gloo") as ranks:
        order = replace(order, ranks=ranks.size)
        run = TrainingRun(order, out.with_name(f"{out.name}.run"), device=place, ranks=ranks)
        with _bar(run.steps, begin=run.training.steps, quiet=ranks.rank > 0) as tell:
            run.train(tell, every=every)
    return None if ranks.rank else (run, *run.finish(out, "tiller sae train"))


def _trained_summary(out: Path, run: TrainingRun, sae: SAE, measures: SaeMetrics, spliced: LossRecovered) -> None:
    _summary(f"{run.order.objective}, trained here", run.order.hook, sae, measures, spliced)
    console.print(f"Metrics and plot: {run.folder}", soft_wrap=True)
    console.print(f"Serve it: tiller serve --bundle {out}", soft_wrap=True)


@app.command()
def export(
    out: Annotated[Path, typer.Argument(help="The folder to write.")],
    bundle: ShippedBundle = EMBEDDED,
    labels: Annotated[
        bool, typer.Option("--labels", help="Also write the catalogue, in Neuronpedia's export format.")
    ] = False,
) -> None:
    """Export a bundle's SAE in SAELens' format.

    Example: tiller sae export ./my-sae --labels
    """
    with errors_exit():
        if out.exists() and any(out.iterdir()):
            raise SteeringError(f"{str(out)!r} is not empty; give a new folder")
        opened = Bundle.open(bundle)
        if not opened.sae.reads:
            raise SteeringError(
                f"{opened.info.name!r} is directions only, for which SAELens has no format; as plain rows of length 1 "
                f"they are W_dec in {str(opened.files / WEIGHTS)!r}"
            )
        about = {"hf_hook_name": f"model.{opened.info.hook}"}
        opened.sae.save(out, hook=f"blocks.{opened.layer}.hook_resid_post", model=opened.info.model, about=about)
        if labels:
            neuronpedia.write_export(
                out,
                opened.features,
                model=opened.info.model,
                source=f"{opened.layer}-{opened.info.name}",
                unit=opened.sae.typical_scale(opened.info.typical_norm),
            )
    console.print(f"{out}: SAELens 6, jumprelu, {opened.sae.d_sae} features", soft_wrap=True)


@app.command()
def seal(bundle: Annotated[Path, typer.Argument(help="The bundle's folder.")]) -> None:
    """Write the SHA-256 of SAE and model into bundle.json; a server then rejects files that differ.

    Example: tiller sae seal my-bundle
    """
    with errors_exit():
        sealed = write_sums(bundle)
    for name, digest in sealed.sha256.items():
        console.print(f"{digest}  {name}", highlight=False, soft_wrap=True)


@app.command("eval")
def evaluate(
    place: Annotated[str | None, typer.Argument(help="An SAE in any known format; default: the bundle's.")] = None,
    bundle: ShippedBundle = EMBEDDED,
    model: Annotated[str | None, typer.Option(help="Instead of the bundle's model.")] = None,
    hook: Hook = None,
    k: K = None,
    text: Text = None,
) -> None:
    """Evaluate an SAE on a model's residual stream.

    Example: tiller sae eval --text chats.jsonl
    """
    with errors_exit():
        opened = Bundle.open(bundle) if place is None or model is None else None
        if place is None and opened:
            layout, sae, hook = opened.info.name, opened.sae, opened.info.hook
            sae.check_reads()
            subject = EvaluationInputs.load(model or opened.model_path, hook, text, sae.d_in)
        else:
            found, hook = read_sae(resolve_sae_files(str(place)), hook, k)
            found.sae.check_reads()
            subject = EvaluationInputs.load(model or (opened.model_path if opened else ""), hook, text, found.sae.d_in)
            layout, sae = found.format, subject.calibrated(found)
        measures, spliced = subject.evaluate(sae)
    _summary(layout, hook, sae, measures, spliced)


def _summary(layout: str, hook: str, sae: SAE, m: SaeMetrics, s: LossRecovered) -> None:
    table = Table(show_header=False)
    for name, value in (
        ("layout", layout),
        ("reads", f"{hook}, width {sae.d_in}"),
        *SCALES[sae.scaling],
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
    print_table(console, table)
    if m.explained_variance < 0:
        problems.print(
            "warning: it explains less than the mean does. Is this the model, the layer and the file that belong together?",
            soft_wrap=True,
        )


def _directions(layout: str, hook: str, sae: SAE) -> None:
    table = Table(show_header=False)
    for name, value in (("layout", layout), ("writes", f"{hook}, width {sae.d_in}"), ("features", f"{sae.d_sae:,}")):
        table.add_row(name, value)
    print_table(console, table)
    console.print(
        "Directions only: features can be pushed along (mode 'add'), not read, clamped or scaled, for the stream here does "
        "not decide what they do. So there is no explained variance and no L0, and a dose is a share of the stream's length.",
        soft_wrap=True,
    )


@contextmanager
def _bar(steps: int, *, begin: int, quiet: bool) -> Iterator[Callable[[Progress], None]]:
    """A progress bar with the remaining time on a terminal; otherwise a line now and then."""
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    if begin and not quiet:
        problems.print(f"resuming from step {begin} of {steps}")
    with Bar(*columns, console=problems, disable=quiet or not problems.is_terminal) as bar:
        task = bar.add_task("", total=steps, completed=begin)

        def update(now: Progress) -> None:
            figures = f"loss {now.loss:.4f}  EV {now.explained_variance:.3f}  L0 {now.l0:.1f}  dead {now.dead}"
            bar.update(task, completed=now.step, description=figures)
            if not problems.is_terminal and now.step % 500 == 0:
                problems.print(f"step {now.step} of {steps}  {figures}", highlight=False)

        yield update
