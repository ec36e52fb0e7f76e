"""steering-vectors: its trained vectors steer here as they steer there, and its file comes in as a control vector."""

import pytest
import torch
from safetensors.torch import save_file
from steering_vectors import ablation_operator, train_steering_vector

from steering.edits import ResidualEdit, ResolvedIntervention, compile_edit
from steering.formats.control_vectors import read_control_vector
from steering.model.hooks import steer
from steering.sae import SAE
from tests.support import small_bundle

LAYER, WIDTH = 1, small_bundle.WIDTH
PAIRS = [
    ("the bridge is red", "the bridge is long"),
    ("hello there, red", "hello there, you"),
    ("what is red", "what is this"),
]
TEXT = "what should I do this weekend"


@pytest.fixture(scope="module")
def parts():
    torch.set_num_threads(1)
    tokenizer = small_bundle.tokenizer()
    model = small_bundle.model(len(tokenizer))
    return model, tokenizer, train_steering_vector(model, tokenizer, PAIRS, layers=[LAYER])


def push(vector, multiplier):
    none, empty = torch.zeros(0, WIDTH), torch.zeros(0)
    return ResidualEdit(multiplier * vector.layer_activations[LAYER], none, empty, empty, none, empty)


@torch.no_grad()
def logits(model, ids):
    return model(ids).logits[0]


@pytest.mark.parametrize("multiplier", [1.0, -2.5])
@pytest.mark.parametrize("first", [0, 2])
def test_a_trained_vector_moves_the_logits_as_there(parts, multiplier, first):
    model, tokenizer, vector = parts
    ids = tokenizer(TEXT, return_tensors="pt")["input_ids"]
    with vector.apply(model, multiplier=multiplier, min_token_index=first):
        theirs = logits(model, ids)
    where = torch.zeros(ids.shape, dtype=torch.bool)
    where[0, first:] = True
    with steer(model, {f"layers.{LAYER}": push(vector, multiplier)}, where=where):
        ours = logits(model, ids)
    assert torch.allclose(ours, theirs, atol=1e-5)
    assert not torch.allclose(ours, logits(model, ids), atol=1e-2)


def test_ablating_a_direction_is_theirs(parts):
    model, tokenizer, vector = parts
    ids = tokenizer(TEXT, return_tensors="pt")["input_ids"]
    direction = torch.nn.functional.normalize(vector.layer_activations[LAYER], dim=0)
    with vector.apply(model, operator=ablation_operator(), multiplier=1.0):
        theirs = logits(model, ids)
    rows = torch.stack([direction, -direction])  # a projection has both signs, a feature only one
    sae = SAE(
        W_enc=rows.T.contiguous(), b_enc=torch.zeros(2), W_dec=rows, b_dec=torch.zeros(WIDTH), threshold=torch.zeros(2)
    )
    edit = compile_edit([ResolvedIntervention(i, "ablate", 0.0) for i in (0, 1)], sae)
    with steer(model, {f"layers.{LAYER}": edit}):
        assert torch.allclose(logits(model, ids), theirs, atol=1e-4)


def test_a_trained_vector_comes_in_as_a_file(parts, tmp_path):
    vector = parts[2]
    save_file({f"direction.{LAYER}": vector.layer_activations[LAYER].contiguous()}, tmp_path / "red.safetensors")
    found = read_control_vector(tmp_path / "red.safetensors", layer=LAYER, width=WIDTH)
    assert torch.equal(found.push, vector.layer_activations[LAYER])
