"""Hook points: read from names and paths, compared where files state several, and refused where they cannot be steered."""

import re
from dataclasses import dataclass

from steering.errors import BadBundle
from steering.formats.weight_files import WeightFiles

BLOCKS = r"(?:(?:model|language_model|transformer|gpt_neox|decoder|backbone)\.)*(?:layers|h)\.(\d+)"
STREAM_AFTER = rf"blocks\.(\d+)\.(?:hook_resid_post|hook_out)|{BLOCKS}(?:\.output)?"
STREAM_BEFORE = rf"blocks\.(\d+)\.(?:hook_resid_pre|hook_in)|{BLOCKS}\.input"
MLP_OUT = rf"blocks\.(\d+)\.(?:hook_mlp_out|mlp\.hook_out)|{BLOCKS}\.post_feedforward_layernorm\.output"
"""What an MLP adds to the stream, after the norm that some models apply to it."""


@dataclass(frozen=True)
class HookPoint:
    """The stream after a block, or the output of its MLP, which is added to that stream."""

    layer: int
    mlp_out: bool = False

    @property
    def hook(self) -> str:
        """The hook point as a bundle states it: a push on an MLP's output is one on the stream after its block."""
        return f"layers.{self.layer}"

    def __str__(self) -> str:
        return (
            f"the output of the MLP of layer {self.layer}" if self.mlp_out else f"the stream after layer {self.layer}"
        )


@dataclass(frozen=True)
class Statement:
    """A hook point as one place in the files states it."""

    place: str
    """Such as `hook_name in cfg.json`."""
    name: str
    point: HookPoint


def state(place: str, name: str | None) -> list[Statement]:
    """Return what a name of a hook point states: one statement, or none without a name.

    Reads the names of TransformerLens and of transformers' modules. Raises BadBundle for points that are neither the
    stream after a block nor an MLP's output.
    """
    return [Statement(place, name, parse(place, name))] if name else []


def parse(place: str, name: str) -> HookPoint:
    """Return the hook point of a name. Raises BadBundle for other points."""
    if found := _number(STREAM_AFTER, name):
        return HookPoint(int(found))
    if (found := _number(STREAM_BEFORE, name)) and int(found) > 0:
        return HookPoint(int(found) - 1)
    if found := _number(MLP_OUT, name):
        return HookPoint(int(found), mlp_out=True)
    raise unsteerable(place, name)


def unsteerable(place: str, name: str) -> BadBundle:
    """Return the error for a hook point that cannot be steered."""
    return BadBundle(
        f"{place}: its hook point is {name!r}, which is not the stream after a block; only that can be steered"
    )


def agreed_point(stated: list[Statement]) -> HookPoint | None:
    """Return the hook point that all statements mean; None without one.

    Raises BadBundle that names two statements which contradict each other.
    """
    for other in stated[1:]:
        if other.point != stated[0].point:
            first = stated[0]
            raise BadBundle(
                f"{first.place} is {first.name!r} ({first.point}), but {other.place} is {other.name!r} ({other.point}); "
                "correct the one that is wrong"
            )
    return stated[0].point if stated else None


def check_layer(place: str, layer: float | None, stated: list[Statement]) -> None:
    """Raise BadBundle if a layer stated as a number is not the block's number in a name of TransformerLens."""
    for other in stated:
        block = re.match(r"blocks\.(\d+)\.", other.name)
        if layer is not None and block and int(block[1]) != layer:
            raise BadBundle(f"{other.place} is {other.name!r}, but {place} is {layer:g}; correct the one that is wrong")


def stream_in_path(files: WeightFiles, pattern: str) -> list[Statement]:
    """Return the stream after the layer whose number is in the path, as a statement; none if the path has none."""
    layer = files.number(pattern)
    return [] if layer is None else [Statement("the path", f"layers.{layer}", HookPoint(layer))]


def _number(pattern: str, name: str) -> str | None:
    found = re.fullmatch(pattern, name)
    return next((g for g in found.groups() if g), None) if found else None
