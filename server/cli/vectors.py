"""`tiller vectors …`: import and export steering directions as control vectors."""

import json
import re
import time
from pathlib import Path
from typing import Annotated, Literal

import torch
import typer

from server.cli.errors import errors_exit, exit_with_error, or_exit
from server.cli.options import Bundle_, Model_, settings_from_options
from server.cli.store_access import Data, Redis, with_store, write_audit
from server.cli.terminal import TerminalConsole
from server.sae.model_loading import load_model, measuring_dtype
from server.settings import Settings
from server.store.base import Conflict, Store
from server.store.encryption import pseudonym
from server.user_data.documents import FARTHEST
from server.user_data.vectors import MAX_VECTORS
from steering.calibration import dose_at, raw_at
from steering.catalogue.bundle import Bundle
from steering.catalogue.feature import dose_of, knots_of
from steering.catalogue.resolve import Catalogue
from steering.doses.vectors import measure_vector_dose, vector_of
from steering.edits import as_vector
from steering.errors import ModelUnavailable, SteeringError
from steering.formats.control_vectors import ControlVector, format_of, read_control_vector, write_control_vector
from steering.interpret.directions import Direction
from steering.spec import VECTOR, VECTOR_NAME, Vector

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Control vectors: import and export steering directions."
)
console = TerminalConsole()
User = Annotated[
    str | None,
    typer.Option(
        "--user",
        help="Whose vector it is: the `user` of requests, or <tenant>/<owner> of a key; both are case-sensitive.",
    ),
]


@app.command("import")
def import_(
    file: Annotated[
        Path, typer.Argument(help="A control vector: GGUF, as llama.cpp and repeng write it, or safetensors.")
    ],
    user: User = None,
    name: Annotated[str | None, typer.Option(help="Name; it is steered as vector/<name>. Default: the file's.")] = None,
    layer: Annotated[
        int | None, typer.Option(min=0, help="Layer whose direction is taken. Default: the one that the bundle steers.")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace a vector of this name.")] = False,
    measure: Annotated[
        bool, typer.Option("--measure/--no-measure", help="Measure its dose 1.0 with the model, as for a feature.")
    ] = True,
    bundle: Bundle_ = None,
    model: Model_ = None,
    data_dir: Data = None,
    redis_url: Redis = None,
) -> None:
    """Import a control vector as a user's vector; unit `max` then is llama.cpp's scale.

    Only one layer is steered here: of a file with several, its direction is taken, and the rest is left out.

    Example: tiller vectors import happy.gguf --user ada --name happy
    """
    settings = settings_from_options(bundle=bundle, model=model, data_dir=data_dir, redis_url=redis_url)
    opened = or_exit(lambda: Bundle.open(settings.bundle))
    person = _subject(user)
    taken = opened.layer if layer is None else layer
    found = or_exit(lambda: read_control_vector(file, layer=taken, width=opened.sae.d_in, chosen=layer is not None))
    called = name or _name_of(file)
    _check_name(called)
    with errors_exit():
        vector = _as_vector(called, found, opened, settings, measure=measure)

    async def save(store: Store) -> None:
        await store.save_vector(person, opened.info.name, vector, replace=replace, most=MAX_VECTORS)
        await write_audit(store, data_dir, "vector imported", vector=pseudonym(vector.id), method=vector.method)

    try:
        with_store(data_dir, redis_url, save)
    except Conflict as error:
        exit_with_error(f"{error}; --replace replaces it, --name names another one")
    _tell(found, vector, opened)


@app.command()
def export(
    name: Annotated[str, typer.Argument(help="A user's vector, or a feature such as smollm2/123.")],
    file: Annotated[Path, typer.Argument(help="File to write: .gguf for llama.cpp, or .safetensors.")],
    user: User = None,
    strength: Annotated[
        float | None, typer.Option(help="Raw strength, the length of the push, that llama.cpp's scale 1.0 shall be.")
    ] = None,
    dose: Annotated[float | None, typer.Option(help="The same as a dose. Default: 1.0.")] = None,
    format_: Annotated[
        Literal["gguf", "safetensors"] | None, typer.Option("--format", help="Default: by the file's suffix.")
    ] = None,
    bundle: Bundle_ = None,
    data_dir: Data = None,
    redis_url: Redis = None,
) -> None:
    """Export a vector or a feature as a control vector; llama.cpp's scale 1.0 is then the push at --strength or --dose.

    Example: tiller vectors export smollm2/123 bridge.gguf --dose 1.0
    Example: llama-cli -m model.gguf --control-vector bridge.gguf
    """
    if strength is not None and dose is not None:
        exit_with_error("--strength and --dose are two ways to say the same; give one")
    settings = settings_from_options(bundle=bundle, data_dir=data_dir, redis_url=redis_url)
    opened = or_exit(lambda: Bundle.open(settings.bundle))
    with errors_exit():
        if "/" in name and not name.startswith(VECTOR):
            _, feature = Catalogue([opened]).find(name)
            direction, measured = opened.sae.W_dec[feature.row], feature.dose is not None
            knots = knots_of(feature, dose_of(feature, opened.info))
        else:
            vector = _stored(name.removeprefix(VECTOR), _subject(user), opened, data_dir, redis_url)
            snapshot = vector.snapshot
            direction, measured = as_vector(snapshot.direction, opened.sae.d_in), snapshot.measured
            knots = knots_of(snapshot, snapshot.dose)
        raw = strength if strength is not None else raw_at(1.0 if dose is None else dose, knots)
        if not (raw and torch.isfinite(torch.tensor(raw))):
            raise SteeringError(f"a strength of {raw:g} is no push; give --strength or --dose another number than 0")
        hint = _model_hint(opened, settings)
        write_control_vector(
            file, direction * raw, layer=opened.layer, model_hint=hint, format_=format_ or format_of(file)
        )
    note = "" if measured else "; its dose was not measured"
    console.print(
        f"{file}: {name} for layer {opened.layer}; scale 1.0 is raw strength {raw:.4g}, dose {dose_at(raw, knots):.2f}{note}",
        highlight=False,
        soft_wrap=True,
    )


def _as_vector(name: str, found: ControlVector, opened: Bundle, settings: Settings, *, measure: bool) -> Vector:
    """The vector with its dose; `typical_max` is the file's length, so that the unit `max` is llama.cpp's scale."""
    length = float(found.push.double().norm())
    if length > FARTHEST:
        raise SteeringError(
            f"the direction has the length {length:.3g}; at most {FARTHEST:g} can be stored: scale it down"
        )
    direction = Direction((found.push.double() / length).float(), 0.0, length)
    dose = None
    if measure:
        try:
            model, tokenizer = load_model(settings.model or opened.model_path, "cpu", dtype=measuring_dtype())
        except ModelUnavailable as error:
            raise SteeringError(f"{error}; or import the vector with --no-measure") from error
        with console.status("measuring its dose"):
            dose = measure_vector_dose(model, tokenizer, opened.info, direction.direction)
    made = vector_of(name, "import", direction, dose, opened.sae, opened.info, texts=(0, 0))
    return made.model_copy(update={"created": int(time.time())})


def _tell(found: ControlVector, vector: Vector, opened: Bundle) -> None:
    s = vector.snapshot
    at = dose_at(s.typical_max, knots_of(s, s.dose))
    others = [n for n in found.layers if n != found.layer]
    lines = [
        f"{vector.id}: the direction for layer {found.layer}; dose 1.0 is raw strength {s.dose:.4g}"
        + ("" if s.measured else ", half of a typical length: it was not measured"),
        f"llama.cpp's scale 1.0 is raw strength {s.typical_max:.4g}, dose {at:.2f}",
    ]
    if found.layer != opened.layer:
        lines.append(f"it was made for layer {found.layer}, and layer {opened.layer} is steered here")
    if others:
        lines.append(f"left out: the directions for the layers {', '.join(map(str, others))}")
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)


def _stored(name: str, person: str, opened: Bundle, data_dir: Path | None, redis_url: str | None) -> Vector:
    found = with_store(data_dir, redis_url, lambda store: store.vectors(person, opened.info.name))
    if vector := next((v for v in found if v.name == name), None):
        return vector
    have = ", ".join(v.name for v in found[:20]) or "none"
    raise SteeringError(f"{person!r} has no vector {name!r} for {opened.info.name!r}; there are: {have}")


def _subject(user: str | None) -> str:
    if not user:
        exit_with_error("a vector belongs to a user: say whose it is with --user, as in that user's requests")
    return user


def _name_of(file: Path) -> str:
    """The file's name as the name of a vector."""
    return re.sub(r"[^a-z0-9._-]+", "-", file.stem.lower()).strip("-._")[:64]


def _check_name(name: str) -> None:
    if not re.match(VECTOR_NAME, name):
        exit_with_error(
            f"{name!r} is no name of a vector: a-z first, then a-z, 0-9 and ._-; give another one with --name"
        )


def _model_hint(opened: Bundle, settings: Settings) -> str:
    """The model's architecture, as transformers calls it; its name where the model is not here. llama.cpp only shows it."""
    try:
        config = json.loads((Path(settings.model or opened.model_path) / "config.json").read_text())
        return str(config["model_type"])
    except (ModelUnavailable, OSError, ValueError, KeyError, TypeError):
        return opened.info.model
