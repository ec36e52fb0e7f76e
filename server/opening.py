"""Opens what a server serves: engine, SAE, store, policy and guards, as the settings say. Knows both engines; no routes, no page."""

import asyncio
import json
import os
from typing import TYPE_CHECKING

from server import logs
from server.settings import Settings

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
    return Tiller(engine, Catalogue([bundle.to(engine.device)]), store, settings, revisions, policy, watch)


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
