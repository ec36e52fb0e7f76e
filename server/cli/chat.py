"""`tiller chat` and `tiller presets`: what a persona says, and which there are, without a server."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.columns import Columns
from rich.console import Console
from rich.panel import Panel
from rich.table import Column, Table

from server.cli.errors import expected, fail
from server.cli.options import Bundle_, Device_, Model_, settings_of
from server.engines.base import EngineFailed
from server.errors import ApiError, first_problem
from server.runtime.startup import opened
from server.schemas.generation import ChatRequest
from server.schemas.steering import SteeringRequest
from server.settings import Settings
from server.store.base import BadStore
from server.store.factory import open_store
from server.telemetry import logging
from steering.catalogue.bundle import Bundle
from steering.errors import SteeringError
from steering.spec import Intervention, Preset

console = Console()


def chat(
    question: Annotated[str, typer.Argument(help="What to ask.")],
    preset: Annotated[
        str | None, typer.Option(help="A persona, such as golden-gate; `tiller presets` lists them.")
    ] = None,
    feature: Annotated[
        list[str] | None, typer.Option(help="A feature and its dose, such as harbor/12=0.6; may be repeated.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same reply.")] = 7,
    max_tokens: Annotated[int, typer.Option(min=1)] = 120,
    bundle: Bundle_ = None,
    model: Model_ = None,
    device: Device_ = None,
) -> None:
    """Print the default and the steered reply side by side.

    Example: tiller chat "What should I do this weekend?" --preset golden-gate
    """
    settings = settings_of(bundle=bundle, model=model, device=device)
    steering = _steering(preset, feature or [])
    logging.begin_command()
    default, steered = asyncio.run(_both(settings, question, steering, seed, max_tokens))
    width = max(30, (console.width - 4) // 2)
    console.print(
        Columns(
            [
                Panel(default, title="Default", width=width),
                Panel(steered, title=preset or "Steered", width=width, border_style="red"),
            ]
        )
    )


def presets(
    bundle: Bundle_ = None, data_dir: Annotated[Path | None, typer.Option(envvar="TILLER_DATA_DIR")] = None
) -> None:
    """List the personas: those of the bundle and your own."""
    settings = settings_of(bundle=bundle, data_dir=data_dir)
    opened = expected(lambda: Bundle.open(settings.bundle))

    async def saved() -> list[Preset]:
        store = open_store(settings)
        try:
            return await store.presets()
        finally:
            await store.close()

    table = Table(Column("preset", no_wrap=True), "name", "description", "features")
    for p in [*opened.presets, *expected(lambda: asyncio.run(saved()))]:
        table.add_row(p.id, p.name, p.description, _shown(p.steering.features))
    console.print(table)


async def _both(
    settings: Settings, question: str, steering: SteeringRequest, seed: int, max_tokens: int
) -> tuple[str, str]:
    try:
        tiller = await opened(settings)
    except (SteeringError, BadStore, OSError) as error:
        fail(str(error))

    async def reply(wanted: SteeringRequest) -> str:
        choice = await tiller.choose(None, wanted)
        system = choice.preset.system_prompt if choice.preset else None
        messages = [*([{"role": "system", "content": system}] if system else []), {"role": "user", "content": question}]
        chat = tiller.engine.encode_chat(messages)
        room = tiller.engine.max_model_len - len(chat.ids)
        if room <= 0:
            fail(
                f"the question takes {len(chat.ids)} tokens; the context holds {tiller.engine.max_model_len}: shorten it"
            )
        asked = ChatRequest(model=tiller.model, messages=messages, seed=seed)
        generation = choice.generation(chat, asked.sampling(choice.preset, min(max_tokens, room)))
        return "".join([piece.text async for piece in tiller.admission.generate(generation)])

    try:
        return await reply(SteeringRequest()), await reply(steering)
    except (ApiError, SteeringError, EngineFailed) as error:
        fail(str(error))
    finally:
        await tiller.engine.close()
        await tiller.store.close()


def _shown(features: Sequence[Intervention]) -> str:
    """The strongest three; a persona has two dozen."""
    strongest = sorted(features, key=lambda f: -abs(f.strength))[:3]
    said = ", ".join(f"{f.id} {f.mode} {f.strength:g}" for f in strongest)
    return said + (f" and {len(features) - 3} more" if len(features) > 3 else "")


def _steering(preset: str | None, features: list[str]) -> SteeringRequest:
    pairs = [feature.partition("=") for feature in features]
    rows = [{"id": name, "strength": _number(strength)} for name, _, strength in pairs]
    try:
        return SteeringRequest.model_validate({"preset": preset, "features": rows})
    except ValidationError as error:
        fail(first_problem(error).message)


def _number(text: str) -> float:
    try:
        return float(text or 1)
    except ValueError:
        fail(f"{text!r} is no dose; write --feature harbor/12=0.6")
