"""`tiller describe`, `label`, `map` and `features`: work on the feature catalogue."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import torch
import typer
from pydantic import ValidationError
from rich.table import Column, Table
from torch import Tensor
from transformers import AutoTokenizer

from server import validation
from server.cli.errors import exit_with_error, or_exit
from server.cli.options import Corpus_, Text_, settings_from_options
from server.cli.tables import AsJson, print_list, print_table
from server.cli.terminal import TerminalConsole
from server.features.search import Hits, Index, search_features
from server.jobs.tasks.describe import DescribeConfig, describe_features
from server.jobs.tasks.label import LabelConfig, label_features, llm_client_from_settings
from server.jobs.tasks.publish import Measurement, OnProgress, write_bundle
from server.sae.model_loading import load_model
from server.schemas.features import FeatureQuery
from server.settings import Settings
from steering.catalogue.bundle import Bundle
from steering.catalogue.feature import Feature
from steering.catalogue.resolve import Catalogue
from steering.interpret.label_embeddings import Encode
from steering.model.hooks import read_stream
from steering.model.input_embeddings import read_input_embeddings
from steering.model.passage import Passage, chat_passage, text_passage

T = TypeVar("T")
console = TerminalConsole()
DETAIL_FIELDS = {"examples", "samples", "histogram", "top_logits"}
"""Fields of a single feature that lists leave out, as the HTTP API does."""
Bundle_ = Annotated[Path | None, typer.Option("--bundle", envvar="TILLER_BUNDLE", help="Folder with bundle.json.")]


def describe(
    bundle: Bundle_ = None,
    text: Text_ = None,
    corpus: Corpus_ = None,
    texts: Annotated[int | None, typer.Option(min=1, help="Maximum number of texts.")] = None,
) -> None:
    """Measure every feature on text: maximum, density, examples and logit lens. Writes the bundle.

    Doses, notes and labels by people or models are kept. A running server does the same with: tiller jobs submit describe
    Example: tiller describe --bundle my-bundle --text chats.jsonl
    """
    order = DescribeConfig(texts=texts)
    found = _run_with_status(
        "reading texts",
        lambda told: write_bundle(
            _settings(bundle, [*(text or ()), *(corpus or ())]),
            lambda ground, t: describe_features(ground, order, t),
            told,
        ),
    )
    _print_figures(found.figures)


def label(
    features: Annotated[list[str] | None, typer.Argument(help="Ids of features; default: all.")] = None,
    bundle: Bundle_ = None,
    text: Text_ = None,
    corpus: Corpus_ = None,
    endpoint: Annotated[
        str | None,
        typer.Option(
            envvar="TILLER_LABEL_URL",
            help="Base URL of an OpenAI-compatible API whose model names features, https://host/v1.",
        ),
    ] = None,
    model: Annotated[str | None, typer.Option(envvar="TILLER_LABEL_MODEL", help="Model of the endpoint.")] = None,
) -> None:
    """Label features and score the labels on held-out text. Writes the bundle.

    Without --endpoint a label is the words that occur where the feature is active. The key is read from TILLER_LABEL_KEY.
    Example: tiller label smollm2/12 --endpoint http://127.0.0.1:9000/v1 --model some-model
    """
    order = LabelConfig(features=tuple(features or ()))

    def work(told: OnProgress) -> Measurement:
        settings = _settings(bundle, [*(text or ()), *(corpus or ())], label_url=endpoint, label_model=model)
        asked = llm_client_from_settings(settings)
        return write_bundle(settings, lambda ground, t: label_features(ground, order, asked, t), told)

    found = _run_with_status("naming", work)
    table = Table(Column("feature", no_wrap=True), "label", "detection", "fuzzing", "control", "specificity")
    for f in [f for f in found.features if f.label][:20]:
        s = f.label_scores
        shown = [s.detection, s.fuzzing, s.control, s.specificity] if s else [None] * 4
        table.add_row(f.id, f.label[:70], *("" if v is None else f"{v:.2f}" for v in shown))
    print_table(console, table)
    _print_figures(found.figures)


def map_(
    bundle: Bundle_ = None,
    method: Annotated[str | None, typer.Option(help="umap or pca; default: umap if it is installed.")] = None,
) -> None:
    """Draw the feature map: similar directions lie close together, clusters are named.

    Example: tiller map --method pca
    """
    from server.jobs.tasks.map import MapConfig, map_bundle

    if method not in (None, "umap", "pca"):
        exit_with_error(f"--method must be umap or pca, got {method!r}")
    drawn = or_exit(lambda: map_bundle(_settings(bundle, None), MapConfig.model_validate({"method": method}).method))
    table = Table("cluster", "features")
    for c in drawn.about.clusters:
        table.add_row(c.name, str(c.size))
    print_table(console, table)
    console.print(f"{len(drawn.points)} features by {drawn.about.method}")


def features(
    words: Annotated[
        list[str] | None, typer.Argument(help="The query: words, a prompt, or an id, depending on --mode.")
    ] = None,
    mode: Annotated[str, typer.Option(help="text, meaning, prompt, common or id.")] = "text",
    prompt: Annotated[
        list[str] | None, typer.Option(help="For common: a prompt in which the features are active.")
    ] = None,
    without: Annotated[
        list[str] | None, typer.Option(help="For common: a prompt in which they are not active.")
    ] = None,
    min_density: Annotated[float | None, typer.Option(help="Minimum share of tokens on which it is active.")] = None,
    max_density: Annotated[float | None, typer.Option(help="Maximum share of tokens.")] = None,
    labelled: Annotated[bool | None, typer.Option("--labelled/--unlabelled", help="Whether it has a label.")] = None,
    calibrated: Annotated[
        bool | None, typer.Option("--calibrated/--uncalibrated", help="Whether its dose is calibrated.")
    ] = None,
    works: Annotated[
        bool | None,
        typer.Option("--works/--no-effect", help="Whether steering with it was measured to have an effect."),
    ] = None,
    kind: Annotated[str | None, typer.Option(help="dead, dense, input-only or plain.")] = None,
    sort: Annotated[str, typer.Option(help="score, density, max or label.")] = "score",
    limit: Annotated[int, typer.Option(min=1, max=500)] = 20,
    bundle: Bundle_ = None,
    model: Annotated[str | None, typer.Option("--model", envvar="TILLER_MODEL")] = None,
    as_json: AsJson = False,
) -> None:
    """Search the features.

    Example: tiller features bridge
    Example: tiller features --mode common --prompt "Tell me about fog" --prompt "Describe the sea" --without "Who are you?"
    """
    asked = {"mode": mode, "q": " ".join(words or ()), "prompts": prompt or [], "without": without or []}
    asked |= {"min_density": min_density, "max_density": max_density, "labelled": labelled}
    asked |= {"calibrated": calibrated, "works": works}
    try:
        query = FeatureQuery.model_validate({**asked, "kind": kind, "sort": sort, "limit": limit})
    except ValidationError as error:
        problem, message = validation.first_error(error.errors())
        exit_with_error(f"--{str(problem['loc'][0]).replace('_', '-')}: {message}")
    hits = or_exit(lambda: _search(_settings(bundle, None, model=model), query))
    table = Table(Column("feature", no_wrap=True), "label", "score", "fires on", "typical max", "dose 1.0", "kind")
    for f, score in hits[:limit]:
        table.add_row(
            f.id,
            f.label,
            "" if score is None else f"{score:.2f}",
            f"{f.density:.2%}",
            f"{f.typical_max:.2f}",
            f"{f.dose:.2f}" if f.dose else "not measured",
            ", ".join(f.kind),
        )
    print_list(console, table, [_summary(f, score) for f, score in hits[:limit]], as_json=as_json)
    if not as_json:
        console.print(f"{min(limit, len(hits))} of {len(hits)} features")


def _summary(f: Feature, score: float | None) -> dict[str, Any]:
    starred = bool(f.edited and f.edited.starred)
    rounded = score and float(f"{score:.4g}")
    return f.model_dump(mode="json", exclude=DETAIL_FIELDS) | {
        "object": "feature",
        "starred": starred,
        "score": rounded,
    }


def _search(settings: Settings, query: FeatureQuery) -> Hits:
    bundle = Bundle.open(settings.bundle)
    loaded = []  # loads the model on first use

    async def read(text: str, chat: bool) -> tuple[Passage, Tensor]:
        if not loaded:
            loaded.extend(load_model(settings.model or bundle.model_path, "cpu"))
        model, tokenizer = loaded
        asked = [{"role": "user", "content": text}]
        passage = chat_passage(tokenizer, asked) if chat and tokenizer.chat_template else text_passage(tokenizer, text)
        return passage, read_stream(model, torch.tensor([passage.ids]), bundle.info.hook)[0]

    def embeddings() -> tuple[torch.Tensor, Encode]:
        name = settings.model or bundle.model_path
        tokenizer = AutoTokenizer.from_pretrained(name)
        return read_input_embeddings(name), lambda word: tokenizer(word, add_special_tokens=False)["input_ids"]

    index = Index(Catalogue([bundle]), settings.meaning_model, embeddings)
    return asyncio.run(search_features(index, query, read))


def _settings(bundle: Path | None, corpus: Sequence[Path] | None, **more: object) -> Settings:
    options = {"bundle": bundle, "corpus": tuple(corpus) if corpus else None, **more}
    return settings_from_options(**options)


def _run_with_status(says: str, work: Callable[[OnProgress], T]) -> T:
    with console.status(says) as status:
        return or_exit(lambda: work(lambda n, of: status.update(f"{says}: {n} of {of}")))


def _print_figures(figures: Mapping[str, float]) -> None:
    console.print(", ".join(f"{name} {value:g}" for name, value in figures.items()), highlight=False, soft_wrap=True)
