"""Served model: resolves model ids, presets and steering, checked against catalogue and policy.

`ServedModel` holds the collaborators of every route; another SAE revision is another `ServedModel`.
Only `choose` makes a `SteeringChoice`, and the engine is only reached through `admission`, which
rejects anything that was not authorized.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from pydantic import ValidationError

from server import validation
from server.auth.caller import ANYONE, Caller
from server.engines.base import Engine, Generation
from server.errors import ApiError, bad_request
from server.safety.guards import Guards
from server.safety.policy import (
    DEFAULT_POLICY,
    Admission,
    Policy,
    PolicyInput,
    authorize,
    check_policy,
    is_scaled_preset,
)
from server.schemas.steering import SteeringRequest
from server.serving.steering_choice import SteeringChoice
from server.settings import Settings
from server.store.base import Store, Unavailable
from steering.catalogue.bundle import Bundle
from steering.catalogue.composition import compose
from steering.catalogue.resolve import Catalogue, Resolved
from steering.catalogue.revisions import Revisions
from steering.errors import BadStrength, UnknownFeature
from steering.spec import VECTOR, FeatureSnapshot, Preset, SteeringSpec


@dataclass(frozen=True, eq=False)
class ServedModel:
    """The collaborators of every route."""

    engine: Engine
    catalogue: Catalogue
    store: Store
    settings: Settings
    revisions: Revisions
    """The bundle's revisions on disk."""
    policy: Policy = DEFAULT_POLICY
    guards: Guards | None = None
    """Guards that check prompts and replies, if configured."""

    @property
    def admission(self) -> Admission:
        """Access to the engine for authorized requests."""
        return Admission(self.engine)

    @property
    def bundle(self) -> Bundle:
        """The served bundle; its name is the model's."""
        return next(iter(self.catalogue.bundles.values()))

    @property
    def model(self) -> str:
        """The model id in the API."""
        return self.bundle.info.name

    async def preset(self, preset_id: str, caller: Caller = ANYONE) -> Preset | None:
        """A preset of the bundle or of the store; one that the caller may not see raises the same
        404 as a missing one."""
        if shipped := next((p for p in self.bundle.presets if p.id == preset_id), None):
            return shipped
        for tenant in dict.fromkeys((caller.tenant, "")):
            found = self._if_of_this_bundle(await self.store.preset(preset_id, tenant))
            if found and caller.can_see(found):
                return found
        return None

    async def presets(self, caller: Caller = ANYONE) -> list[Preset]:
        """The bundle's presets, then the saved ones that the caller may see; of two with one id, their tenant's."""
        held = [
            p for p in filter(self._if_of_this_bundle, await self.store.presets()) if p.tenant in ("", caller.tenant)
        ]
        ours = {p.id for p in held if p.tenant == caller.tenant and caller.can_see(p)}
        seen = [p for p in held if caller.can_see(p) and (p.tenant == caller.tenant or p.id not in ours)]
        return [*self.bundle.presets, *seen]

    def _if_of_this_bundle(self, saved: Preset | None) -> Preset | None:
        """The preset if it was saved for this bundle; presets for other bundles stay in the store."""
        return saved if saved and saved.model == self.model else None

    async def choose(
        self, model: str | None, steering: SteeringRequest | None, *, user: str | None = None, caller: Caller = ANYONE
    ) -> SteeringChoice:
        """Resolve and authorize a request's model and steering; vectors are those of the caller's
        `user`. Raises ApiError and SteeringError."""
        asked = steering or SteeringRequest()
        by_model = await self._preset_of_model(model, caller)
        if asked.preset and by_model and asked.preset != by_model.id:
            raise bad_request(
                f"the model names the preset {by_model.id!r} and steering.preset {asked.preset!r}; give one",
                param="steering.preset",
            )
        preset = by_model or await self._preset_named(asked.preset, caller)
        default = await self._default_preset(asked, preset, caller)
        with _locate_spec_errors():
            spec = asked.merged_with(preset, self.bundle.info.where)
            spec = spec.on_top_of(default.steering) if default else spec
        pins = await self.vectors(caller.subject(user), spec)
        pins = pins | (default.pins if default else {}) | (preset.pins if preset else {})
        with _locate_unknown_feature(asked):
            resolved, cut = (
                self._scale_to_budget(spec, pins) if asked.over_budget == "cut" else (self.resolve(spec, pins), None)
            )
        revision, composition = self.bundle.info.revision, compose(resolved, self.bundle)
        coherence = "coherence" in asked.wanted
        choice = SteeringChoice(model or self.model, preset, resolved, revision, composition, coherence, cut, pins)
        like = None if preset else await self._equivalent_preset(spec, caller)
        return self._authorize(replace(choice, caller=caller, default=default, like=like))

    async def _equivalent_preset(self, spec: SteeringSpec, caller: Caller) -> Preset | None:
        """The preset visible to the caller that has these features, all scaled by one factor."""
        if not spec.features:
            return None
        if (found := _find_equivalent(spec, self.bundle.presets)) or caller.has_role("researcher"):
            return found  # a role without steering limits needs no preset
        try:
            return _find_equivalent(spec, await self.presets(caller))
        except Unavailable:  # bundle presets are loaded, and free steering needs none
            return None

    def _authorize(self, choice: SteeringChoice) -> SteeringChoice:
        """The same choice with the policy's authorization. Raises ApiError."""
        steered = PolicyInput(choice.resolved, choice.composition, self.bundle, choice.presets)
        return replace(choice, authorization=authorize(self.policy, choice.caller, steered))

    def check_allowed(self, resolved: Resolved, caller: Caller, presets: tuple[Preset, ...] = ()) -> None:
        """Raise ApiError for steering that the caller may not use, before it is saved."""
        authorize(self.policy, caller, PolicyInput(resolved, compose(resolved, self.bundle), self.bundle, presets))

    async def _default_preset(self, asked: SteeringRequest, preset: Preset | None, caller: Caller) -> Preset | None:
        """The operator's default preset, unless the request names a preset."""
        name = caller.default_preset or self.settings.default_preset
        if not name or preset is not None or not asked.default:
            return None
        found = await self.preset(name)
        if found is None:
            raise ApiError(
                503, f"the default preset {name!r} does not exist; the operator of this server has to fix that",
                code="default_missing", kind="unavailable_error", headers={"Retry-After": "60"},
            )  # fmt: skip
        return found

    async def apply_guards(self, choice: SteeringChoice, request: Generation) -> SteeringChoice:
        """The choice after the guards: unsteered where the model itself would refuse. Raises CannotRead."""
        if self.guards is None:
            return choice
        verdict = await self.guards.check_prompt(request)
        if verdict.outcome != "unsteered":
            return replace(choice, verdict=verdict)
        resolved = self.resolve(SteeringSpec(), {})
        plain = replace(
            choice, resolved=resolved, composition=compose(resolved, self.bundle), cut=None, verdict=verdict
        )
        return self._authorize(plain)

    async def vectors(self, user: str | None, spec: SteeringSpec) -> dict[str, FeatureSnapshot]:
        """The vectors of this user among a spec's features; another user's vector raises the same
        error as a missing one."""
        names = [f.id.removeprefix(VECTOR) for f in spec.features if f.id.startswith(VECTOR)] if user else []
        held = [await self.store.vector(user or "", self.model, name) for name in names]
        return {v.snapshot.id: v.snapshot for v in held if v}

    def _scale_to_budget(
        self, spec: SteeringSpec, pins: Mapping[str, FeatureSnapshot]
    ) -> tuple[Resolved, float | None]:
        """Resolve a spec, scaled down to the maximum push; returns the factor, if any."""
        factor, tried = 1.0, spec
        for _ in range(12):  # a dose is not linear in the push, so one step may not be enough
            with _locate_spec_errors():
                longest = max(self.catalogue.resolve(tried, pins).push_norm.values(), default=0.0)
            if longest <= self.settings.max_push:
                break
            factor *= 0.999 * self.settings.max_push / longest
            tried = spec.model_copy(update={"scale": spec.scale * factor})
        return self.resolve(tried, pins), None if factor == 1.0 else round(factor, 4)

    def resolve(self, spec: SteeringSpec, pins: Mapping[str, FeatureSnapshot]) -> Resolved:
        """Resolve a spec with its preset's snapshots, and check it against the policy. Raises
        UnknownFeature and BadStrength."""
        if len(spec.features) > self.settings.max_features:
            raise BadStrength(
                f"{len(spec.features)} features; this server steers at most {self.settings.max_features} at once"
            )
        with _locate_spec_errors():
            resolved = self.catalogue.resolve(spec, pins)
        check_policy(resolved, self.settings, scale=spec.scale)
        return resolved

    def weakened(self, choice: SteeringChoice, factor: float) -> SteeringChoice:
        """The same choice with all strengths multiplied."""
        spec = choice.resolved.spec
        eased = spec.model_copy(update={"scale": spec.scale * factor})
        resolved = self.resolve(eased, choice.pins)
        return self._authorize(replace(choice, resolved=resolved, composition=compose(resolved, self.bundle)))

    async def _preset_of_model(self, model: str | None, caller: Caller) -> Preset | None:
        name, at, preset_id = (model or self.model).partition("@")
        preset = await self.preset(preset_id, caller) if at else None
        if name != self.model or (at and preset is None):
            raise ApiError(
                404,
                f"the model {model!r} does not exist; GET /v1/models lists those that do",
                code="model_not_found",
                param="model",
            )
        return preset

    async def _preset_named(self, preset_id: str | None, caller: Caller) -> Preset | None:
        if preset_id is None:
            return None
        if preset := await self.preset(preset_id, caller):
            return preset
        raise bad_request(
            f"no preset {preset_id!r}; GET /v1/presets lists the presets",
            param="steering.preset",
            code="unknown_preset",
        )


def _find_equivalent(spec: SteeringSpec, presets: Sequence[Preset]) -> Preset | None:
    return next((p for p in presets if p.steering.unit == spec.unit and is_scaled_preset(spec, p.steering)), None)


@contextmanager
def _locate_spec_errors() -> Iterator[None]:
    """Name the location of errors that only appear once preset, features and scale are merged: a
    33rd feature, an overflow."""
    try:
        yield
    except ValidationError as error:
        raise BadStrength(
            f"preset, features and scale together: {validation.first_error(error.errors())[1]}"
        ) from error


@contextmanager
def _locate_unknown_feature(asked: SteeringRequest) -> Iterator[None]:
    """Name the location of an unknown feature if the request names it, and not its preset."""
    try:
        yield
    except UnknownFeature as error:
        at = next((i for i, f in enumerate(asked.features) if f.id == error.feature), None)
        error.param = error.param if at is None else f"steering.features.{at}.id"
        raise
