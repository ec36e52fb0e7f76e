"""Edits to the residual stream: the steering formula, one edit at a hook point, and a table of edits for a batch.

All interventions at a hook point read the unsteered stream and act together:

    x ← x + s · Σ_i (target_i − gate_i · a_i(x)) · d_i        a_i(x) = JumpReLU(x·w_i + b_i, θ_i)

(for an SAE that scales each token, b_i and θ_i times that scale; see `sae`)

    mode     target     gate           meaning
    add      strength   0              add a constant push
    clamp    strength   1              set the activation: the current one is subtracted
    ablate   0          1              clamp to zero
    scale    0          1 − strength   multiply the current activation

With the norm `preserve` the stream is then scaled back to the length that it had: with v for what was added,

    x ← (x + v) · ‖x‖ / ‖x + v‖

`s` is the spec's master multiplier. The SAE's error term is never changed: only the chosen features move. Tokens
outside the scope, and row 0 of a table, stay bit-identical.
"""

import base64
import heapq
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from steering.errors import BadBundle, BadStrength
from steering.sae import SAE, Scaling, at_scale
from steering.spec import MAX_FEATURES, FeatureSnapshot, Mode


@dataclass(frozen=True)
class ResolvedIntervention:
    """One intervention in units of the stream: row of the SAE, target and gate."""

    index: int
    mode: Mode
    raw: float
    """Strength in units of the activation; for `scale` the plain factor."""
    scale: float = 1.0
    pinned: FeatureSnapshot | None = None
    """Snapshot that steers instead of the row, for a feature that the SAE no longer has."""

    @property
    def target(self) -> float:
        """Length of the constant push along the decoder direction."""
        return self.scale * (self.raw if self.mode in ("add", "clamp") else 0.0)

    @property
    def gate(self) -> float:
        """Share of the current activation that is subtracted."""
        return self.scale * {"add": 0.0, "clamp": 1.0, "ablate": 1.0, "scale": 1.0 - self.raw}[self.mode]


@dataclass(frozen=True, eq=False)
class ResidualEdit:
    """Effect of one spec at one hook point: all additive parts summed into one push, and the gated features."""

    push: Float[Tensor, " d_in"]
    w: Float[Tensor, "k d_in"]
    b: Float[Tensor, " k"]
    threshold: Float[Tensor, " k"]
    d: Float[Tensor, "k d_in"]
    gate: Float[Tensor, " k"]
    scaling: Scaling = "none"
    preserve: bool = False
    """Whether the stream keeps its length at each token."""

    def to(self, device: torch.device | str) -> "ResidualEdit":
        """Return the same edit on another device."""
        if self.push.device == torch.device(device):
            return self
        moved = (t.to(device) for t in (self.push, self.w, self.b, self.threshold, self.d, self.gate))
        return ResidualEdit(*moved, scaling=self.scaling, preserve=self.preserve)

    def delta(self, x: Float[Tensor, "*n d_in"]) -> Float[Tensor, "*n d_in"]:
        """Return what is added to `x`; `x` itself is unchanged."""
        if self.preserve:
            read = x.float()
            added = (self.push - self._gated(read)) if len(self.gate) else self.push.expand_as(read)
            return (at_length_of(read, read + added) - read).to(x.dtype)
        push = self.push.to(x.dtype).expand_as(x)
        if not len(self.gate):
            return push
        return push - self._gated(x.float()).to(x.dtype)

    def _gated(self, read: Float[Tensor, "*n d_in"]) -> Float[Tensor, "*n d_in"]:
        """Return what the gates subtract."""
        b, threshold = at_scale(read, self.scaling, self.b, self.threshold)
        pre = read @ self.w.T + b  # [*n, k]
        live = torch.where(pre > threshold, pre, 0.0)
        return (live * self.gate) @ self.d


def at_length_of(x: Float[Tensor, "*n d_in"], moved: Float[Tensor, "*n d_in"]) -> Float[Tensor, "*n d_in"]:
    """Return `moved`, scaled to the length of `x` at each token; computed in float32."""
    length = moved.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    return moved * (x.norm(dim=-1, keepdim=True) / length)


def compile_edit(interventions: list[ResolvedIntervention], sae: SAE, *, preserve: bool = False) -> ResidualEdit:
    """Gather the chosen rows of `sae` into one edit, which with `preserve` leaves the stream's length as it is.

    Raises BadStrength if a strength is not finite, or if a gated mode is asked of an SAE that has directions only.
    """
    for i in interventions:
        if not torch.isfinite(torch.tensor([i.target, i.gate])).all():
            raise BadStrength(f"the strength of feature {i.index} is {i.raw}; it must be a finite number")
        if i.gate and not sae.reads:
            raise BadStrength(
                f"feature {i.index} cannot be steered by {i.mode!r}: this SAE is directions only, so the feature's "
                "activation cannot be read; use the mode 'add'"
            )
    place = sae.W_dec.device
    target = torch.tensor([i.target for i in interventions], device=place)
    gated = [i for i in interventions if i.gate != 0]
    rows, k = (
        torch.tensor([0 if i.pinned else i.index for i in some], dtype=torch.long, device=place)
        for some in (interventions, gated)
    )
    directions, w, b, threshold, d = (
        sae.W_dec[rows],
        sae.W_enc.T[k].contiguous(),
        sae.b_enc[k],
        sae.threshold[k],
        sae.W_dec[k],
    )
    for n, i in enumerate(interventions):
        if i.pinned:
            directions[n] = as_vector(i.pinned.direction, sae.d_in)
    for n, i in enumerate(gated):
        if i.pinned:
            w[n], d[n] = as_vector(i.pinned.encoder, sae.d_in), as_vector(i.pinned.direction, sae.d_in)
            b[n], threshold[n] = i.pinned.bias, i.pinned.threshold
    push = target @ directions if len(rows) else torch.zeros(sae.d_in, device=place)
    gate = torch.tensor([i.gate for i in gated], device=place)
    return ResidualEdit(push, w, b, threshold, d, gate, sae.scaling, preserve)


def as_text(vector: Float[Tensor, " d_in"]) -> str:
    """Return a vector in the encoding of snapshots: float32, little-endian, base64."""
    return base64.b64encode(vector.detach().cpu().float().numpy().astype("<f4").tobytes()).decode()


def as_vector(text: str, width: int) -> Float[Tensor, " width"]:
    """Return the vector that `as_text` encoded. Raises BadBundle if it does not have this width or is not finite."""
    try:
        found = torch.from_numpy(np.frombuffer(base64.b64decode(text, validate=True), "<f4").astype(np.float32))
    except ValueError as error:
        raise BadBundle(f"a snapshot of a feature is damaged ({error}); save the preset again") from error
    if len(found) != width or not torch.isfinite(found).all():
        raise BadBundle(
            f"a snapshot of a feature is not a vector of width {width}; save the preset again for this model"
        )
    return found


class SteeringTable:
    """Edits of many requests at one hook point, in preallocated buffers: one operation for a whole batch.

    Row 0 steers nothing. Each token has the row of its edit. Pushes are looked up by row. The gates of all rows are in
    one pool, so that two matrix products serve the whole batch; a gate is masked for every token but those of its row:
    by `where`, because 0 · NaN is NaN. Only finite edits are accepted. A hook point has one SAE, so the scaling of
    tokens is fixed per table.
    """

    def __init__(
        self,
        rows: int,
        d_in: int,
        *,
        gates: int | None = None,
        device: torch.device | str = "cpu",
        scaling: Scaling = "none",
    ) -> None:
        gates = (rows - 1) * MAX_FEATURES if gates is None else gates
        self.scaling: Scaling = scaling
        self.push = torch.zeros(rows, d_in, device=device)
        self.w = torch.zeros(gates, d_in, device=device)
        self.d = torch.zeros(gates, d_in, device=device)
        self.b = torch.zeros(gates, device=device)
        self.threshold = torch.zeros(gates, device=device)
        self.gate = torch.zeros(gates, device=device)
        self.owner = torch.zeros(gates, dtype=torch.long, device=device)
        self.preserve = torch.zeros(rows, dtype=torch.bool, device=device)
        self._preserved = set[int]()
        self._held: dict[int, list[int]] = {}
        self._free = list(range(gates))  # a heap: low gates first, so that the products stay short
        self.used = 0
        """Length of the prefix of the gate pool that may be in use."""

    def set(self, row: int, edit: ResidualEdit) -> None:
        """Write a spec's edit into a row. Raises BadStrength if it is not finite or its gates do not fit into the pool."""
        if not 0 < row < len(self.push):
            raise ValueError(f"row {row} is not one of 1…{len(self.push) - 1}; row 0 steers nothing")
        if not all(torch.isfinite(t).all() for t in (edit.push, edit.w, edit.b, edit.threshold, edit.d, edit.gate)):
            raise BadStrength("an edit holds NaN or infinity")
        if len(edit.gate) and edit.scaling != self.scaling:
            raise ValueError(f"an edit with the scaling {edit.scaling!r} does not fit a table with {self.scaling!r}")
        self.clear(row)
        if len(edit.gate) > len(self._free):
            raise BadStrength(
                f"{len(edit.gate)} gated features; {len(self._free)} more fit beside those of other requests"
            )
        edit = edit.to(self.push.device)
        self.push[row] = edit.push
        if edit.preserve:
            self.preserve[row] = True
            self._preserved.add(row)
        held = [heapq.heappop(self._free) for _ in range(len(edit.gate))]
        if held:
            self._held[row] = held
            for name in ("w", "d", "b", "threshold", "gate"):
                getattr(self, name)[held] = getattr(edit, name)
            self.owner[held] = row
            self.used = max(self.used, held[-1] + 1)

    def clear(self, row: int) -> None:
        """Reset a row, so that it steers nothing."""
        self.push[row] = 0
        if row in self._preserved:
            self.preserve[row] = False
            self._preserved.remove(row)
        if held := self._held.pop(row, None):
            self.owner[held] = 0
            for gate in held:
                heapq.heappush(self._free, gate)
            self.used = max((h[-1] + 1 for h in self._held.values()), default=0)

    def apply(
        self,
        x: Float[Tensor, "*n d_in"],
        rows: Int[Tensor, "*n"],
        *,
        onto: Float[Tensor, "*n d_in"] | None = None,
        all_gates: bool = False,
    ) -> Float[Tensor, "*n d_in"]:
        """Return `x`, or `onto` if given, moved by each token's row; tokens of row 0 are bit-identical.

        `onto` is for models that carry the stream in two parts: the sum is read, one part is moved. `all_gates`
        computes all gates, used or not: the same operations each time, as a captured CUDA graph requires.
        """
        onto = x if onto is None else onto
        gates = len(self.owner) if all_gates else self.used
        gated = self._gated_part(x, rows, gates) if gates else None
        moved = onto + self.push[rows].to(onto.dtype)
        if gated is not None:
            moved = moved - gated.to(onto.dtype)
        if all_gates or self._preserved:
            read, push = x.float(), self.push[rows]
            scaled = at_length_of(read, read + (push if gated is None else push - gated))
            kept = (onto.float() + (scaled - read)).to(onto.dtype)
            moved = torch.where(self.preserve[rows][..., None], kept, moved)
        return torch.where((rows > 0)[..., None], moved, onto)

    def _gated_part(self, x: Float[Tensor, "*n d_in"], rows: Int[Tensor, "*n"], g: int) -> Float[Tensor, "*n d_in"]:
        """Return what the first `g` gates subtract from each token, where they belong to its row.

        On a CPU a product rounds by how many rows and gates there are, those of other requests included; in float64 that
        is lost when the result is rounded to float32.
        """
        read = x.float()
        wide = torch.float64 if x.device.type == "cpu" else torch.float32
        b, threshold = at_scale(read, self.scaling, self.b[:g], self.threshold[:g])
        pre = (read.to(wide) @ self.w[:g].T.to(wide)).float() + b  # [*n, g]
        mine = (pre > threshold) & (rows[..., None] == self.owner[:g])
        return (torch.where(mine, pre * self.gate[:g], 0.0).to(wide) @ self.d[:g].to(wide)).float()


def apply_where(
    edit: ResidualEdit, x: Float[Tensor, "*n d_in"], steered: Bool[Tensor, "*n"]
) -> Float[Tensor, "*n d_in"]:
    """Return `x` with one edit applied to the tokens that are `steered`; the others are bit-identical."""
    return torch.where(steered[..., None], x + edit.delta(x), x)
