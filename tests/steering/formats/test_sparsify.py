"""sparsify: TopK, in folders named after hook points."""

import json

import pytest
from safetensors.torch import save_file

from steering.errors import BadBundle
from steering.formats import read_sae
from tests.steering.formats.publisher_files import D, M, assert_says_the_same


def test_sparsify_is_read_as_it_is_and_not_as_others_transpose_it(parts, tmp_path):
    p = parts
    folder = tmp_path / "layers.10"
    folder.mkdir()
    tensors = {"encoder.weight": p["W_enc"].T, "encoder.bias": p["b_enc"], "W_dec": p["W_dec"], "b_dec": p["b_dec"]}
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "sae.safetensors")
    (folder / "cfg.json").write_text(json.dumps({"activation": "topk", "k": 4, "d_in": D, "num_latents": M}))
    found = read_sae(folder)
    assert (found.format, found.hook, found.k) == ("sparsify", "layers.10", 4)
    pre = (p["x"] - p["b_dec"]) @ p["W_enc"] + p["b_enc"]
    assert_says_the_same(found.sae, p["x"], pre.relu(), p["W_dec"], p["b_dec"])
    (folder / "cfg.json").unlink()
    with pytest.raises(BadBundle, match="does not say how many it keeps"):
        read_sae(folder)
    assert read_sae(folder, k=3).k == 3


def published(folder, p, config=None, run=None, **more):
    folder.mkdir(parents=True)
    tensors = {
        "encoder.weight": p["W_enc"].T,
        "encoder.bias": p["b_enc"],
        "W_dec": p["W_dec"],
        "b_dec": p["b_dec"],
        **more,
    }
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "sae.safetensors")
    if config is not None:
        (folder / "cfg.json").write_text(json.dumps(config))
    if run is not None:
        (folder / "../config.json").write_text(json.dumps(run))
    return folder


PUBLISHED = {"expansion_factor": 32, "normalize_decoder": True, "num_latents": M, "k": 4, "signed": False, "d_in": D}


@pytest.mark.parametrize(
    ("place", "hook"),
    [
        ("layers.3", "layers.3"),
        ("h.5", "layers.5"),
        ("model.layers.7", "layers.7"),
        ("layers_2", "layers.2"),
        ("mine", None),
    ],
)
def test_the_folder_names_the_hook_point(parts, tmp_path, place, hook):
    assert read_sae(published(tmp_path / place, parts, PUBLISHED)).hook == hook


def test_k_may_stand_in_the_configuration_of_the_run(parts, tmp_path):
    run = {"model": "EleutherAI/pythia-70m", "sae": {"k": 3, "num_latents": 0}, "hookpoints": ["layers.3"]}
    assert read_sae(published(tmp_path / "layers.3", parts, {"d_in": D}, run)).k == 3
    with pytest.raises(BadBundle, match=r"k in cfg.json is 4, but k in config.json .sae. is 3"):
        read_sae(published(tmp_path / "layers.4", parts, PUBLISHED, run))


@pytest.mark.parametrize(
    ("place", "config", "said"),
    [
        ("layers.0.mlp", {}, "'layers.0.mlp', which is not the stream"),
        ("layers.0.attention", {}, "'layers.0.attention', which is not the stream"),
        ("embed_tokens", {}, "'embed_tokens', which is not the stream"),
        ("layers.3", {"transcode": True}, "is a transcoder"),
        ("layers.3", {"skip_connection": True}, "is a transcoder"),
        ("layers.3", {"activation": "groupmax"}, "activation 'groupmax' in cfg.json has no equivalent"),
        ("layers.3", {"signed": True}, "signed in cfg.json is True: a signed TopK keeps negative"),
        ("layers.3", {"embed_skip": True}, "embed_skip in cfg.json is True: its reconstruction needs more"),
        ("layers.3", {"gram_lookup": True}, "gram_lookup in cfg.json is True"),
        ("layers.3", {"input_scale": 2}, "input_scale in cfg.json is 2, which may change"),
        ("layers.3", {"num_latents": 99}, "num_latents in cfg.json is 99, but rows of W_dec are 10"),
    ],
)
def test_what_is_no_topk_of_the_stream_is_refused_by_name(parts, tmp_path, place, config, said):
    with pytest.raises(BadBundle, match=said):
        read_sae(published(tmp_path / place, parts, {**PUBLISHED, **config}))


def test_a_transcoder_may_be_named_by_its_run_alone(parts, tmp_path):
    with pytest.raises(BadBundle, match="is a transcoder"):
        read_sae(published(tmp_path / "layers.3", parts, PUBLISHED, {"sae": {"transcode": True}}))


def test_a_tensor_that_sparsify_does_not_use_is_refused(parts, tmp_path):
    with pytest.raises(BadBundle, match=r"sae.safetensors holds threshold \[10\], which this layout does not use"):
        read_sae(published(tmp_path / "layers.3", parts, PUBLISHED, threshold=parts["threshold"]))
