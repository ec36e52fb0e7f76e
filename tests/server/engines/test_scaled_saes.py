"""SAEs that scale each token, and SAEs of directions only, in the engines."""

import asyncio
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from server.engines.transformers.engine import TransformersEngine
from server.engines.vllm import plugin
from steering.edits import ResolvedIntervention, compile_edit
from steering.sae import SAE
from tests.server.engines.transformers.test_engine import HOOK, by_the_book, request, text_of
from tests.support import small_bundle


def scaled(scaling):
    plain = small_bundle.sae()
    reading = plain.W_enc - plain.W_enc.mean(0) if scaling == "spread" else plain.W_enc
    return replace(plain, W_enc=reading, b_enc=torch.full_like(plain.b_enc, 0.3), scaling=scaling)


def items(*some):
    return [ResolvedIntervention(*i) for i in some]


@pytest.mark.parametrize("scaling", ["length", "spread"])
async def test_replies_together_say_what_a_plain_loop_says_of_each(parts, scaling):
    sae = scaled(scaling)
    specs = [{}, *({HOOK: compile_edit(items(*s), sae)} for s in ([(2, "clamp", 9.0)], [(1, "ablate", 0.0)]))]
    specs.append({HOOK: compile_edit(items((4, "scale", 3.0), (5, "add", -6.0)), sae)})
    engine = TransformersEngine(*parts, hooks=[HOOK], scaling={HOOK: scaling}, live=4)
    wanted = [request(engine, edit=spec) for spec in specs]
    said = await asyncio.gather(*(text_of(engine, w) for w in wanted))
    await engine.close()
    assert said == [by_the_book(parts, w) for w in wanted]
    assert len(set(said)) == len(said)


class Runner(SimpleNamespace):
    """As much of vLLM's model runner as the plugin looks at when it installs itself."""

    def get_model(self):
        return self.model


def runner(model):
    config = SimpleNamespace(
        scheduler_config=SimpleNamespace(max_num_batched_tokens=32, max_num_seqs=4),
        compilation_config=SimpleNamespace(cudagraph_mode=None),
        model_config=SimpleNamespace(get_hidden_size=lambda: small_bundle.WIDTH),
    )
    about = SimpleNamespace(dtype=torch.float32)
    return Runner(vllm_config=config, device=torch.device("cpu"), model_config=about, model=model)


@pytest.mark.parametrize("scaling", ["none", "length", "spread"])
def test_vllms_plugin_steers_at_the_scale_of_the_sae_that_it_loads(tmp_path, monkeypatch, scaling):
    monkeypatch.setattr(plugin, "_TAPS", {})
    sae = scaled(scaling)
    sae.save(tmp_path, hook=HOOK, model="small")
    asked = {"revision": "r1", "folders": {HOOK: str(tmp_path)}, "gates": 8}
    steering = plugin._install(runner(small_bundle.model(400)), asked)
    row = steering._row("one", {"revision": "r1", "edits": {HOOK: [[2, "clamp", 9.0, 1.0]]}})
    x = torch.randn(6, small_bundle.WIDTH) * 4
    tap = steering.taps[HOOK]
    tap.idle, tap.rows[:6] = False, torch.tensor([0, row] * 3)
    moved, edit = tap.apply(x, None), compile_edit(items((2, "clamp", 9.0)), sae)
    assert torch.equal(moved[::2], x[::2])
    torch.testing.assert_close(moved[1::2], x[1::2] + edit.delta(x[1::2]))


def test_vllms_plugin_pushes_along_directions_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(plugin, "_TAPS", {})
    sae = SAE.directions(small_bundle.sae().W_dec)
    sae.save(tmp_path, hook=HOOK, model="small")
    asked = {"revision": "r1", "folders": {HOOK: str(tmp_path)}, "gates": 8}
    steering = plugin._install(runner(small_bundle.model(400)), asked)
    row = steering._row("one", {"revision": "r1", "edits": {HOOK: [[2, "add", 5.0, 1.0]]}})
    tap, x = steering.taps[HOOK], torch.randn(3, small_bundle.WIDTH)
    tap.idle, tap.rows[:3] = False, torch.full((3,), row)
    torch.testing.assert_close(tap.apply(x, None), x + 5 * sae.W_dec[2])
