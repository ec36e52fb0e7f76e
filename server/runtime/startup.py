"""Startup: opens engine, SAE, store, policy and guards as configured."""

import asyncio
import json
import os

import structlog

from server.auth.keyring import check_reachable
from server.engines.transformers.engine import TransformersEngine
from server.engines.vllm.engine import VLLMEngine, read_flags
from server.sae.served_revision import open_revisions, open_served_revision
from server.safety.guards import load_guards
from server.safety.policy import BadPolicy, Policy
from server.serving.served_model import ServedModel
from server.settings import Settings
from server.store.base import Unavailable
from server.store.factory import open_store
from server.telemetry import logging
from steering.catalogue.bundle import Bundle
from steering.catalogue.resolve import Catalogue
from steering.errors import SteeringError
from steering.safety.probe import Probe
from steering.spec import VECTOR

log = structlog.get_logger(__name__)


async def load_served_model(settings: Settings) -> ServedModel:
    """Load all that the settings name. Raises SteeringError, BadStore or OSError with a message for the operator."""
    policy, revisions, store = Policy.load(settings.policy), open_revisions(settings), open_store(settings)
    await check_reachable(settings, store)
    try:
        await store.check()
        bundle = await open_served_revision(revisions, store)
        engine = await (_vllm(settings, bundle) if settings.engine == "vllm" else _transformers(settings, bundle))
        bundle.check_fits(engine.width)
    except BaseException:
        await store.close()
        raise
    watch = await load_guards(settings, engine, bundle.info.hook)
    served = ServedModel(engine, Catalogue([bundle.to(engine.device)]), store, settings, revisions, policy, watch)
    await _check_names(served)
    return served


async def _check_names(served: ServedModel) -> None:
    """Check the operator's names against the catalogue. Raises SteeringError: a limit on an unknown
    feature would limit nothing."""
    for limit in served.policy.limit:
        bundle, _, number = limit.feature.rpartition("/")
        if not limit.feature.startswith(VECTOR) and (bundle != served.model or not number.isdecimal()):
            raise BadPolicy(f"the policy limits {limit.feature!r}, which is not a feature of {served.model!r}")
        if number.isdecimal() and int(number) not in served.bundle.numbered:
            log.warning("a limit on a feature that is not in this revision", feature=limit.feature)
    if name := served.settings.default_preset:
        try:
            found = await served.preset(name)
        except Unavailable:
            return
        if found is None:
            raise SteeringError(
                f"default_preset: there is no preset {name!r}; save it first, or leave default_preset out"
            )


async def _transformers(settings: Settings, bundle: Bundle) -> TransformersEngine:
    return await asyncio.to_thread(
        TransformersEngine.load,
        settings.model or bundle.model_path,
        hooks=[bundle.info.hook],
        scaling={bundle.info.hook: bundle.sae.scaling},
        revision=None if settings.model else bundle.info.model_revision,
        device=settings.device,
        dtype=settings.dtype,
        weights=settings.weights,
        live=settings.live,
        queue=settings.queue,
        prefix_mb=settings.prefix_mb,
    )


async def _vllm(settings: Settings, bundle: Bundle) -> VLLMEngine:
    # Before vLLM is imported: its processes read the location of the logging configuration.
    file = settings.data_dir / "vllm-logging.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(logging.vllm_logging_config(logging.resolve_format(settings.log))))
    os.environ.setdefault("VLLM_LOGGING_CONFIG_PATH", str(file))

    revision = {} if settings.model else {"revision": bundle.info.model_revision}
    revision |= {} if settings.dtype == "auto" else {"dtype": settings.dtype}
    return await VLLMEngine.load(
        settings.model or bundle.model_path,
        folders={bundle.info.hook: bundle.files},
        reads=[Probe.load(settings.probe).hook] if settings.probe else [],
        revision=bundle.info.revision,
        queue=settings.queue,
        arguments=revision | read_flags(settings.vllm),
    )
