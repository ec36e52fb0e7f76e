"""SAELens: where an SAE reads and writes, and how the model was prepared."""

import json
import logging

import pytest
import torch

from steering.errors import BadBundle
from steering.formats import read_sae
from tests.steering.formats.publisher_files import D, M, assert_says_the_same, four, lens, saelens

POST = "blocks.3.hook_resid_post"


OLDEST = {
    **{
        "model_name": "gpt2-small",
        "hook_point": "blocks.8.hook_resid_pre",
        "hook_point_layer": 8,
        "d_in": D,
        "d_sae": M,
    },
    **{
        "hook_point_head_index": None,
        "dataset_path": "Skylion007/openwebtext",
        "is_dataset_tokenized": False,
        "lr": 4e-4,
    },
    **{"context_size": 128, "use_cached_activations": False, "cached_activations_path": "activations/x", "seed": 42},
    **{"n_batches_in_buffer": 128, "total_training_tokens": 300000000, "store_batch_size": 32, "device": "mps"},
    **{
        "dtype": "torch.float32",
        "b_dec_init_method": "geometric_median",
        "expansion_factor": 32,
        "l1_coefficient": 8e-5,
    },
    **{"from_pretrained_path": None, "lr_scheduler_name": None, "lr_warm_up_steps": 5000, "train_batch_size": 4096},
    **{
        "use_ghost_grads": False,
        "feature_sampling_window": 1000,
        "feature_sampling_method": None,
        "resample_batches": 1028,
    },
    **{"feature_reinit_scale": 0.2, "dead_feature_window": 5000, "dead_feature_estimation_method": "no_fire"},
    **{
        "dead_feature_threshold": 1e-8,
        "log_to_wandb": True,
        "wandb_project": "mats",
        "wandb_entity": None,
        "run_name": "x",
    },
    **{
        "wandb_log_frequency": 100,
        "n_checkpoints": 10,
        "checkpoint_path": "checkpoints/x",
        "tokens_per_buffer": 67108864,
    },
}
"""All fields of jbloom/GPT2-Small-SAEs-Reformatted: SAELens before version 1."""


def test_the_files_of_our_own_example_are_read(parts, tmp_path, caplog):
    folder = tmp_path / "models--jbloom--GPT2-Small-SAEs-Reformatted" / "snapshots" / "1" / "blocks.8.hook_resid_pre"
    found = read_sae(saelens(folder, four(parts), OLDEST))
    assert (found.format, found.hook, caplog.messages) == ("saelens", "layers.7", [])
    assert_reads_the_centred_stream(found.sae, parts)  # SAELens' list of published SAEs says that the model was centred


def assert_reads_the_centred_stream(sae, p):
    x = p["x"] + 3
    a = ((x - x.mean(-1, keepdim=True) - p["b_dec"]) @ p["W_enc"] + p["b_enc"]).relu()
    assert_says_the_same(sae, x, a, p["W_dec"], p["b_dec"])


@pytest.mark.parametrize("place", ["metadata", "top", "runner"])
def test_an_sae_of_a_centred_model_reads_the_stream_without_its_mean(parts, tmp_path, place):
    loading = {"model_from_pretrained_kwargs": {"center_writing_weights": True, "fold_ln": True}}
    about = {"hook_name": POST, "model_name": "pythia-70m-deduped", **(loading if place == "metadata" else {})}
    folder = lens(tmp_path, "standard", four(parts), metadata=about, **(loading if place == "top" else {}))
    if place == "runner":
        (folder / "runner_cfg.json").write_text(json.dumps({"hook_name": POST, **loading}))
    assert_reads_the_centred_stream(read_sae(folder).sae, parts)


@pytest.mark.parametrize(
    ("model", "loading"),
    [
        ("gpt2-small", {"center_writing_weights": False}),
        ("gpt2-small", {"fold_ln": True, "center_unembed": True, "fold_value_biases": True}),
        ("gpt2-small", {"refactor_factored_attn_matrices": False, "dtype": "bfloat16", "n_devices": 2}),
        ("gpt2-small", None),
        ("gemma-2-2b", {"center_writing_weights": True}),  # TransformerLens leaves models with RMSNorm as they are
        ("meta-llama/Llama-3.1-8B-Instruct", {"center_writing_weights": True}),
        ("qwen3-0.6b", {"center_writing_weights": True}),
    ],
)
def test_other_preparations_leave_the_stream_as_it_is(parts, tmp_path, model, loading):
    p, x = parts, parts["x"] + 3
    about = {"hook_name": POST, "model_name": model, "model_from_pretrained_kwargs": loading}
    found = read_sae(lens(tmp_path, "standard", four(p), metadata=about))
    assert_says_the_same(found.sae, x, ((x - p["b_dec"]) @ p["W_enc"] + p["b_enc"]).relu(), p["W_dec"], p["b_dec"])


@pytest.mark.parametrize(
    ("about", "config", "said"),
    [
        ({"model_name": "someone/new-model"}, {}, "center_writing_weights .* of 'someone/new-model' it is not known"),
        ({}, {}, "of 'a model without a name' it is not known"),
        (
            {"model_name": "gpt2"},
            {"normalize_activations": "constant_norm_rescale"},
            "the centred stream is not supported",
        ),
        (
            {"model_name": "gpt2"},
            {"center_writing_weights": False},
            "center_writing_weights in .* is False, but .* is True",
        ),
    ],
)
def test_a_centring_of_which_the_effect_is_not_known_is_refused(parts, tmp_path, about, config, said):
    about = {"hook_name": POST, "model_from_pretrained_kwargs": {"center_writing_weights": True}, **about}
    loading = {"model_from_pretrained_kwargs": {k: v for k, v in config.items() if k == "center_writing_weights"}}
    config = {k: v for k, v in config.items() if k != "center_writing_weights"}
    with pytest.raises(BadBundle, match=said):
        read_sae(lens(tmp_path, "standard", four(parts), metadata=about, **loading, **config))


def test_directions_do_not_depend_on_the_centring(parts, tmp_path):
    about = {"hook_name": "blocks.3.hook_mlp_out", "model_from_pretrained_kwargs": {"center_writing_weights": True}}
    assert not read_sae(lens(tmp_path, "standard", four(parts), metadata=about)).sae.reads


def test_a_token_that_is_normalised_loses_its_mean_once(parts, tmp_path):
    about = {"hook_name": POST, "model_name": "gpt2", "model_from_pretrained_kwargs": {"center_writing_weights": True}}
    config = {"normalize_activations": "layer_norm"}
    centred = read_sae(lens(tmp_path / "a", "standard", four(parts), metadata=about, **config)).sae
    plain = read_sae(lens(tmp_path / "b", "standard", four(parts), **config)).sae
    torch.testing.assert_close(centred.encode(parts["x"]), plain.encode(parts["x"]))


def test_other_weights_of_the_model_are_noted(parts, tmp_path, caplog):
    loading = {"model_from_pretrained_kwargs": {"checkpoint_value": 3000, "revision": "main"}}
    with caplog.at_level(logging.WARNING):
        read_sae(
            lens(tmp_path, "standard", four(parts), metadata={"hook_name": POST, "model_name": "pythia-70m", **loading})
        )
    assert caplog.messages == [
        "checkpoint_value in cfg.json (metadata) (model_from_pretrained_kwargs) is 3000: give --model the same weights"
    ]


@pytest.mark.parametrize(
    ("config", "hook"),
    [
        ({"hook_name": "blocks.8.hook_resid_pre", "hook_layer": 8, "hf_hook_name": "model.layers.7"}, "layers.7"),
        ({"hook_point": "blocks.{layer}.hook_resid_post", "hook_point_layer": 5}, "layers.5"),
        ({"hook_name": "blocks.5.hook_out"}, "layers.5"),
        ({"hf_hook_name": "model.language_model.layers.4"}, "layers.4"),
        ({"hf_hook_name": "transformer.h.4.input"}, "layers.3"),
        ({"hook_name": POST, "hook_name_out": POST, "hook_point": None}, "layers.3"),
        ({"hook_name": POST, "hook_head_index": None, "hook_eval": "blocks.3.attn.pattern"}, "layers.3"),
        ({"hook_name": "blocks.7.hook_mlp_out", "hf_hook_name": "model.layers.7.mlp"}, "layers.7"),
        ({"hook_point_layer": [2, 3], "hook_point": POST}, "layers.3"),
        ({}, None),
    ],
)
def test_the_hook_point_is_read_in_every_spelling(parts, tmp_path, config, hook):
    assert read_sae(saelens(tmp_path, four(parts), {"d_sae": M, **config})).hook == hook


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"hook_name": POST, "hook_layer": 4}, "hook_name in cfg.json is .*, but hook_layer in cfg.json is 4; correct"),
        ({"hook_name": POST, "hook_point": "blocks.4.hook_resid_post"}, "hook_name in cfg.json is .* but hook_point"),
        (
            {"hook_name": POST, "hf_hook_name": "model.layers.4"},
            "hf_hook_name in cfg.json is 'model.layers.4' .the stream after layer 4",
        ),
        (
            {"hook_name": POST, "metadata": {"hook_name": "blocks.4.hook_resid_post"}},
            "in cfg.json .metadata. is 'blocks.4",
        ),
        ({"hook_name": POST, "hook_head_index": 2}, "hook_head_index in cfg.json is 2: it reads one attention head"),
        ({"hook_name": POST, "hook_point_head_index": 0}, "hook_point_head_index in cfg.json is 0"),
        ({"hook_name": POST, "reshape_activations": "hook_z"}, "reshape_activations in cfg.json is 'hook_z'"),
        ({"hook_name": "blocks.3.attn.hook_z"}, "'blocks.3.attn.hook_z', which is not the stream after a block"),
        ({"hook_name": "blocks.0.hook_resid_pre"}, "not the stream after a block"),
        ({"hook_name": "hook_embed"}, "not the stream after a block"),
        ({"hf_hook_name": "model.layers.3.self_attn"}, "not the stream after a block"),
        ({"hook_name": POST, "hook_name_out": "blocks.3.hook_attn_out"}, "hook_name_out in cfg.json.*not the stream"),
        ({"hook_name": POST, "model_name": "bigscience/bloom-560m"}, "model_name in cfg.json is .*cannot be served"),
    ],
)
def test_places_that_contradict_each_other_or_cannot_be_steered_are_refused(parts, tmp_path, config, said):
    with pytest.raises(BadBundle, match=said):
        read_sae(saelens(tmp_path, four(parts), config))


def test_a_folder_named_after_a_hook_point_states_it(parts, tmp_path):
    found = read_sae(saelens(tmp_path / "blocks.8.hook_resid_pre_768", four(parts), {"d_sae": M}))
    assert found.hook == "layers.7"
    with pytest.raises(
        BadBundle, match=r"'blocks.3.hook_resid_post' .*, but the folder's name is 'blocks.8.hook_resid_pre'"
    ):
        read_sae(saelens(tmp_path / "blocks.8.hook_resid_pre", four(parts), {"hook_name": POST}))


def test_an_sae_that_writes_elsewhere_than_it_reads_leaves_directions(parts, tmp_path):
    config = {
        "architecture": "standard",
        "hook_name": "blocks.3.hook_resid_mid",
        "hook_name_out": "blocks.3.hook_mlp_out",
    }
    found = read_sae(saelens(tmp_path, four(parts), config))
    assert (found.hook, found.sae.reads) == ("layers.3", False)


def test_a_hook_point_that_is_asked_for_replaces_that_of_the_files_and_is_noted(parts, tmp_path, caplog):
    folder = lens(tmp_path, "standard", four(parts))
    with caplog.at_level(logging.WARNING):
        assert read_sae(folder, hook="layers.5").hook == "layers.5"
    assert "state the hook point layers.3; layers.5 is used, as asked" in caplog.text
