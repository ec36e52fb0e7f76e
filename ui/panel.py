"""What comes back from the steering panel, and what is told of it below a reply. The browser is not trusted:
every field is checked again here, and every text is escaped."""

import html
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

VERDICTS = {"ok": "coherence: OK", "strained": "coherence: strained", "broken": "coherence: broken"}

FEW = 4
"""More features than these are folded below a reply."""


class Slider(BaseModel):
    """One row of the panel."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    id: str = Field(min_length=1, max_length=256)
    strength: float = Field(ge=-1000, le=1000, allow_inf_nan=False)
    mode: Literal["add", "clamp", "scale", "ablate"] = "add"


class Sliders(BaseModel):
    """All rows, and whether they are bypassed."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    rows: tuple[Slider, ...] = Field(default=(), max_length=32)
    bypass: bool = False
    scale: float = Field(default=1.0, allow_inf_nan=False)
    scope: Literal["assistant", "all", "generated"] = "assistant"

    def steering(self) -> dict[str, Any] | None:
        """The API's `steering` object; None if nothing is steered."""
        if self.bypass or not self.rows:
            return None
        return {
            "features": [r.model_dump() for r in self.rows],
            "unit": "dose",
            "scale": self.scale,
            "scope": self.scope,
        }


def read(value: object) -> Sliders:
    """Check what the browser sent. Raises ValueError with a sentence."""
    try:
        return Sliders.model_validate(value if isinstance(value, dict) else {})
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        raise ValueError(
            f"the sliders cannot be read: {'.'.join(map(str, problem['loc']))}: {problem['msg']}"
        ) from error


def told(steering: dict[str, Any]) -> str:
    """What was applied and how the reply holds together, as HTML."""
    chips = [_chip(f"{a['label'] or a['id']} {_amount(a)}", "dose") for a in steering.get("applied", [])]
    warned = [_chip(f"⚠ {w['message']}", "warn") for w in steering.get("warnings", [])[:3]]
    return _verdict(steering) + _folded(chips) + "".join(warned)


def drawn_with(sampling: dict[str, Any]) -> str:
    """How the default reply was drawn, as HTML."""
    return _chip("not steered") + _chip(f"seed {sampling['seed']} · temperature {sampling['temperature']:g}")


def waiting() -> str:
    """A reply is on its way, as HTML."""
    return _chip("thinking…")


def problem(message: str) -> str:
    """An error as HTML."""
    return f'<span class="chip problem" role="alert">No reply: {html.escape(message)}</span>'


def _amount(applied: dict[str, Any]) -> str:
    if applied["mode"] == "ablate":
        return "off"
    if applied["mode"] == "scale":
        return f"×{applied['strength']:.2f}"
    return f"{applied['dose']:+.2f}".replace("-", "−")


def _verdict(steering: dict[str, Any]) -> str:
    coherence = steering.get("coherence")
    if not coherence or coherence["verdict"] not in VERDICTS:
        return ""
    verdict = coherence["verdict"]
    halve = '<button type="button" class="chip act" data-tiller="halve">halve the sliders</button>'
    title = f"repeats itself {coherence['repetition']:.0%}; {coherence['mean_logprob_unsteered']:.1f} nats a token to the default model"
    return _chip(VERDICTS[verdict], f"verdict {verdict}", title) + ("" if verdict == "ok" else halve)


def _folded(chips: list[str]) -> str:
    if len(chips) <= FEW:
        return "".join(chips or [_chip("not steered")])
    return f'<details><summary class="chip">{len(chips)} features</summary>{"".join(chips)}</details>'


def _chip(text: str, kind: str = "", title: str = "") -> str:
    return f'<span class="chip {kind}" title="{html.escape(title or text)}">{html.escape(text)}</span>'
