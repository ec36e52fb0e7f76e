"""What comes back from the steering panel. The browser is not trusted: every field is checked again here."""

import html
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError


class Slider(BaseModel):
    """One row of the panel."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    id: str = Field(max_length=256)
    strength: float = Field(ge=-4, le=4, allow_inf_nan=False)
    mode: Literal["add", "clamp", "scale", "ablate"] = "add"


class Sliders(BaseModel):
    """All rows, and whether they are bypassed."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    rows: tuple[Slider, ...] = Field(default=(), max_length=32)
    bypass: bool = False
    scope: Literal["assistant", "all", "generated"] = "assistant"
    unit: Literal["dose", "max", "raw"] = "dose"

    def steering(self) -> dict[str, Any] | None:
        """The API's `steering` object; None if nothing is steered."""
        if self.bypass or not self.rows:
            return None
        return {"features": [r.model_dump() for r in self.rows], "unit": self.unit, "scope": self.scope}


def read(value: object) -> Sliders:
    """Check what the browser sent; rubbish is an empty panel."""
    try:
        return Sliders.model_validate(value if isinstance(value, dict) else {})
    except ValidationError:
        return Sliders()


def applied(steering: dict[str, Any]) -> str:
    """What was applied and how it went, as escaped HTML below the steered reply."""
    chips = [f'<span class="chip">{html.escape(str(a["label"] or a["id"]))} <b>{a["dose"]:+.2f}</b></span>' for a in steering.get("applied", [])]
    words = {"ok": "holds together", "strained": "strained", "broken": "broken: lower the sliders"}
    if coherence := steering.get("coherence"):
        verdict = str(coherence["verdict"])
        chips.append(f'<span class="chip verdict {html.escape(verdict)}">coherence: {words.get(verdict, "?")}</span>')
    chips += [f'<span class="chip warn">{html.escape(str(w["message"]))}</span>' for w in steering.get("warnings", [])[:3]]
    return "".join(chips) or '<span class="chip">unsteered</span>'


def problem(message: str) -> str:
    """An error as escaped HTML."""
    return f'<span class="chip problem" role="alert">{html.escape(message)}</span>'
