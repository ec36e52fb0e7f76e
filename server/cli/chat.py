"""`tiller chat` and `tiller presets`: steered replies and the list of personas, without a server."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.columns import Columns
from rich.panel import Panel
from rich.table import Column, Table
from rich.text import Text

from server.cli.errors import errors_exit, exit_with_error, or_exit
from server.cli.options import Bundle_, Device_, Model_, settings_from_options
from server.cli.tables import AsJson, print_list
from server.cli.terminal import TerminalConsole
from server.engines.base import EngineFailed
from server.errors import ApiError, first_validation_error
from server.runtime.startup import load_served_model
from server.schemas.generation import ChatRequest
from server.schemas.steering import SteeringRequest
from server.settings import Settings
from server.store.factory import open_store
from server.telemetry import logging
from steering.catalogue.bundle import Bundle
from steering.errors import SteeringError
from steering.spec import Intervention, Preset

console = TerminalConsole()


def chat(
    question: Annotated[str, typer.Argument(help="The prompt.")],
    preset: Annotated[
        str | None, typer.Option(help="A persona, such as golden-gate; `tiller presets` lists them.")
    ] = None,
    feature: Annotated[
        list[str] | None, typer.Option(help="A feature and its dose, such as smollm2/12=0.6; may be repeated.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Random seed; an equal seed gives an equal reply.")] = 7,
    max_tokens: Annotated[int, typer.Option(min=1)] = 120,
    bundle: Bundle_ = None,
    model: Model_ = None,
    device: Device_ = None,
) -> None:
    """Print the default and the steered reply side by side.

    Example: tiller chat "What should I do this weekend?" --preset golden-gate
    """
    settings = settings_from_options(bundle=bundle, model=model, device=device)
    steering = _steering(preset, feature or [])
    logging.configure_command_logging()
    default, steered = asyncio.run(_generate_both(settings, question, steering, seed, max_tokens))
    width = max(30, (console.width - 4) // 2)
    console.print(
        Columns(
            [
                Panel(default, title="Default", width=width),
                Panel(steered, title=Text(preset or "Steered"), width=width, border_style="red"),
            ]
        )
    )


def presets(
    bundle: Bundle_ = None,
    data_dir: Annotated[Path | None, typer.Option(envvar="TILLER_DATA_DIR")] = None,
    as_json: AsJson = False,
) -> None:
    """List the personas: the bundle's and your own."""
    settings = settings_from_options(bundle=bundle, data_dir=data_dir)
    opened = or_exit(lambda: Bundle.open(settings.bundle))

    async def saved() -> list[Preset]:
        store = open_store(settings)
        try:
            return await store.presets()
        finally:
            await store.close()

    table = Table(Column("preset", no_wrap=True), "name", "description", "features")
    found = [*opened.presets, *or_exit(lambda: asyncio.run(saved()))]
    for p in found:
        table.add_row(p.id, p.name, p.description, _strongest_labels(p.steering.features))
    print_list(console, table, [p.model_dump(mode="json", exclude={"snapshots"}) for p in found], as_json=as_json)


async def _generate_both(
    settings: Settings, question: str, steering: SteeringRequest, seed: int, max_tokens: int
) -> tuple[str, str]:
    with errors_exit():
        served = await load_served_model(settings)

    async def reply(wanted: SteeringRequest) -> str:
        choice = await served.choose(None, wanted)
        system = choice.preset.system_prompt if choice.preset else None
        messages = [*([{"role": "system", "content": system}] if system else []), {"role": "user", "content": question}]
        chat = served.engine.encode_chat(messages)
        room = served.engine.max_model_len - len(chat.ids)
        if room <= 0:
            exit_with_error(
                f"the question takes {len(chat.ids)} tokens; the context holds {served.engine.max_model_len}: shorten it"
            )
        asked = ChatRequest(model=served.model, messages=messages, seed=seed)
        generation = choice.generation_request(
            chat, asked.sampling(choice.preset, min(max_tokens, room), served.bundle.info.sampling)
        )
        return "".join([piece.text async for piece in served.admission.generate(generation)])

    try:
        return await reply(SteeringRequest()), await reply(steering)
    except (ApiError, SteeringError, EngineFailed) as error:
        exit_with_error(str(error))
    finally:
        await served.engine.close()
        await served.store.close()


def _strongest_labels(features: Sequence[Intervention]) -> str:
    """The three strongest labels; a persona has about two dozen features."""
    strongest = sorted(features, key=lambda f: -abs(f.strength))[:3]
    summary = ", ".join(f"{f.id} {f.mode} {f.strength:g}" for f in strongest)
    return summary + (f" and {len(features) - 3} more" if len(features) > 3 else "")


def _steering(preset: str | None, features: list[str]) -> SteeringRequest:
    pairs = [feature.partition("=") for feature in features]
    rows = [{"id": name, "strength": _number(strength)} for name, _, strength in pairs]
    try:
        return SteeringRequest.model_validate({"preset": preset, "features": rows})
    except ValidationError as error:
        exit_with_error(first_validation_error(error).message)


def _number(text: str) -> float:
    try:
        return float(text or 1)
    except ValueError:
        exit_with_error(f"{text!r} is not a dose; write --feature smollm2/12=0.6")
