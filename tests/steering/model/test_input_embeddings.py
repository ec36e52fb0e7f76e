"""Input embeddings are read from a checkpoint's files, sharded or not."""

import json

import pytest
import torch
from safetensors.torch import save_file

from steering.errors import ModelUnavailable
from steering.model.input_embeddings import read_input_embeddings
from tests.support import small_bundle


def test_they_are_those_of_the_loaded_model(tmp_path):
    model = small_bundle.model(300)
    model.save_pretrained(tmp_path)
    assert torch.equal(read_input_embeddings(str(tmp_path)), model.get_input_embeddings().weight)


def test_they_are_found_in_the_shard_that_has_them(tmp_path):
    weight = torch.randn(5, 4)
    save_file({"model.layers.0.w": torch.zeros(2)}, tmp_path / "a.safetensors")
    save_file({"model.embed_tokens.weight": weight}, tmp_path / "b.safetensors")
    shards = {"model.layers.0.w": "a.safetensors", "model.embed_tokens.weight": "b.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    assert torch.equal(read_input_embeddings(str(tmp_path)), weight)


def test_a_checkpoint_without_them_is_named(tmp_path):
    save_file({"lm_head.weight": torch.zeros(2, 2)}, tmp_path / "model.safetensors")
    with pytest.raises(ModelUnavailable, match="no tensor of input embeddings"):
        read_input_embeddings(str(tmp_path))


@pytest.mark.parametrize("contents", [b"", b"{}", b"\x08\x00\x00\x00\x00\x00\x00\x00{broken"])
def test_a_damaged_checkpoint_is_refused(tmp_path, contents):
    (tmp_path / "model.safetensors").write_bytes(contents)
    with pytest.raises(ModelUnavailable):
        read_input_embeddings(str(tmp_path))


def test_a_hub_id_that_is_not_in_the_cache_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelUnavailable, match="nobody/nothing"):
        read_input_embeddings("nobody/nothing")
