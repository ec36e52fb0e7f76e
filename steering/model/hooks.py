"""Forward hooks on a transformers model's decoder layers: record and edit the residual stream.

Hook point `"layers.3"` is the stream after block 3, counted from 0. Recording and steering are context managers that
remove their hooks, also after an exception. `torch.compile` may capture a graph without these hooks: they are for eager
models.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from steering.edits import ResidualEdit, apply_where
from steering.errors import SteeringError, UnknownArchitecture

Stream = Float[Tensor, "batch time d_in"]
Tap = Callable[[Stream], Stream]

_PLACES = (
    "model.layers",
    "model.language_model.layers",
    "language_model.model.layers",
    "transformer.h",
    "gpt_neox.layers",
    "layers",
)


class StopForward(Exception):
    """Ends a forward pass once the last wanted layer was recorded."""


def layer_number(hook: str) -> int:
    """Return 3 for `"layers.3"`. Raises SteeringError for any other form."""
    if match := re.fullmatch(r"layers\.(\d+)", hook):
        return int(match[1])
    raise SteeringError(f"hook point {hook!r} is not of the form 'layers.<number>'")


def decoder_layers(model: nn.Module) -> nn.ModuleList:
    """Return a model's decoder blocks. Raises UnknownArchitecture with the attribute paths that were tried."""
    for place in _PLACES:
        module: object = model
        for name in place.split("."):
            module = getattr(module, name, None)
        if isinstance(module, nn.ModuleList) and len(module):
            return module
    raise UnknownArchitecture(f"no decoder layers in a {type(model).__name__}; looked for {', '.join(_PLACES)}")


@contextmanager
def tap(model: nn.Module, taps: Mapping[str, Tap]) -> Iterator[None]:
    """Pass the stream after each named layer through a function while the context is open."""
    layers = decoder_layers(model)
    with ExitStack() as stack:
        for hook, act in taps.items():
            number = layer_number(hook)
            if number >= len(layers):
                raise SteeringError(f"no hook point {hook!r}: the model has layers 0…{len(layers) - 1}")
            handle = layers[number].register_forward_hook(_on_output(act))
            stack.callback(handle.remove)
        yield


@contextmanager
def steer(
    model: nn.Module, edits: Mapping[str, ResidualEdit], *, where: Bool[Tensor, "batch time"] | None = None
) -> Iterator[None]:
    """Apply edits while the context is open: at `where` in a pass of that shape, else at every token."""

    def act(edit: ResidualEdit) -> Tap:
        def moved(x: Stream) -> Stream:
            here = edit.to(x.device)
            if where is None or where.shape != x.shape[:2]:
                return x + here.delta(x)
            return apply_where(here, x, where.to(x.device))

        return moved

    with tap(model, {hook: act(edit) for hook, edit in edits.items()}):
        yield


@contextmanager
def record(model: nn.Module, hooks: list[str], *, stop_after_last: bool = False) -> Iterator[dict[str, Tensor]]:
    """Record the stream at `hooks` in each pass; with `stop_after_last` the pass ends there (`StopForward`)."""
    seen: dict[str, Tensor] = {}
    last = max(hooks, key=layer_number)

    def act(hook: str) -> Tap:
        def keep(x: Stream) -> Stream:
            seen[hook] = x.detach()
            if stop_after_last and hook == last:
                raise StopForward
            return x

        return keep

    with tap(model, {hook: act(hook) for hook in hooks}):
        yield seen


@torch.no_grad()
def read_stream(model: nn.Module, ids: Tensor, hook: str, **inputs: Tensor) -> Stream:
    """Return the residual stream of `ids [batch, time]` at `hook`; no later layer is computed."""
    with record(model, [hook], stop_after_last=True) as seen:
        try:
            model(input_ids=ids, use_cache=False, **inputs)
        except StopForward:
            pass
    return seen[hook]


def _on_output(act: Tap) -> Callable[[nn.Module, object, Tensor | tuple[Tensor, ...]], object]:
    def hook(_module: nn.Module, _inputs: object, output: Tensor | tuple[Tensor, ...]) -> object:
        if isinstance(output, tuple):  # some architectures return (stream, attention, …)
            return (act(output[0]), *output[1:])
        return act(output)

    return hook
