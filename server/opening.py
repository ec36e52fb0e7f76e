"""Opens what a server serves: engine, SAE, store, policy and guards, as the settings say. Knows both engines; no routes, no page."""

import asyncio
import json
import os
from typing import TYPE_CHECKING

import structlog

from server import logs
from server.settings import Settings

log = structlog.get_logger(__name__)

if TYPE_CHECKING:
    from server.choice import Tiller
    from server.engines.transformers_engine import TransformersEngine
    from server.engines.vllm_engine import VLLMEngine
    from steering.catalogue import Bundle


async def opened(settings: Settings) -> "Tiller":
    """Put together what the settings name. Raises SteeringError, BadStore or OSError, whose words say what to mend."""
    from server.choice import Tiller
    from server.keyring import check_reachable
    from server.policy import Policy
    from server.store.opening import open_store
    from server.swap import open_wanted, revisions_of
    from server.watch import watch_of
    from steering.catalogue import Catalogue

    policy, revisions, store = Policy.read(settings.policy), revisions_of(settings), open_store(settings)
    await check_reachable(settings, store)
    try:
        await store.check()
        bundle = await open_wanted(revisions, store)
        engine = await (_vllm(settings, bundle) if settings.engine == "vllm" else _transformers(settings, bundle))
        bundle.check_fits(engine.width)
    except BaseException:
        await store.close()
        raise
    watch = await watch_of(settings, engine, bundle.info.hook)
    tiller = Tiller(engine, Catalogue([bundle.to(engine.device)]), store, settings, revisions, policy, watch)
    await _check_names(tiller)
    return tiller


async def _check_names(tiller: "Tiller") -> None:
    """Hold what the operator names against what there is. Raises SteeringError: a limit on nothing would limit nothing."""
    from server.policy import BadPolicy
    from server.store.store import Unavailable
    from steering.errors import SteeringError
    from steering.spec import VECTOR

    for limit in tiller.policy.limit:
        bundle, _, number = limit.feature.rpartition("/")
        if not limit.feature.startswith(VECTOR) and (bundle != tiller.model or not number.isdecimal()):
            raise BadPolicy(f"the policy limits {limit.feature!r}, which is no feature of {tiller.model!r}")
        if number.isdecimal() and int(number) not in tiller.bundle.numbered:
            log.warning("a limit on a feature that is not in this revision", feature=limit.feature)
    if name := tiller.settings.default_preset:
        try:
            found = await tiller.preset(name)
        except Unavailable:
            return
        if found is None:
            raise SteeringError(f"no preset {name!r} to steer by default; save it first, or leave default_preset out")


async def _transformers(settings: Settings, bundle: "Bundle") -> "TransformersEngine":
    from server.engines.transformers_engine import TransformersEngine

    return await asyncio.to_thread(
        TransformersEngine.load,
        settings.model or bundle.model_path,
        hooks=[bundle.info.hook],
        scaling={bundle.info.hook: bundle.sae.scaling},
        revision=None if settings.model else bundle.info.model_revision,
        device=settings.device,
        dtype=settings.dtype,
        live=settings.live,
        queue=settings.queue,
        prefix_mb=settings.prefix_mb,
    )


async def _vllm(settings: Settings, bundle: "Bundle") -> "VLLMEngine":
    # Before vLLM is imported: its processes read where their log's format stands.
    file = settings.data_dir / "vllm-logging.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(logs.of_vllm(logs.look(settings.log))))
    os.environ.setdefault("VLLM_LOGGING_CONFIG_PATH", str(file))
    from server.engines.vllm_engine import VLLMEngine, read_flags
    from steering.probe import Probe

    given = {} if settings.model else {"revision": bundle.info.model_revision}
    given |= {} if settings.dtype == "auto" else {"dtype": settings.dtype}
    return await VLLMEngine.load(
        settings.model or bundle.model_path,
        folders={bundle.info.hook: bundle.files},
        reads=[Probe.load(settings.probe).hook] if settings.probe else [],
        revision=bundle.info.revision,
        queue=settings.queue,
        arguments=given | read_flags(settings.vllm),
    )
