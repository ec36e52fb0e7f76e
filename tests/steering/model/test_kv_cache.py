"""KV cache: what is appended to preallocated buffers reads as what was concatenated."""

import pytest
import torch
from transformers import DynamicCache

from steering.model.kv_cache import keys_and_values, preallocated


def states(time: int) -> torch.Tensor:
    return torch.randn(2, 3, time, 4)


def test_a_preallocated_cache_holds_what_a_dynamic_one_holds():
    torch.manual_seed(0)
    begin, steps = (states(5), states(5)), [(states(1), states(1)) for _ in range(3)]
    plain, mine = DynamicCache([begin]), preallocated([begin], room=3)
    for k, v in steps:
        for expected, found in zip(plain.update(k, v, 0), mine.update(k, v, 0), strict=True):
            assert torch.equal(expected, found)
    assert mine.get_seq_length() == 8


def test_a_cache_that_is_full_refuses_more():
    cache = preallocated([(states(2), states(2))], room=1)
    cache.update(states(1), states(1), 0)
    with pytest.raises(RuntimeError, match="room for 3 tokens"):
        cache.update(states(1), states(1), 0)


def test_keys_and_values_of_a_cache_are_given_by_layer():
    k, v = states(2), states(2)
    ((keys, values),) = keys_and_values(DynamicCache([(k, v)]))
    assert torch.equal(keys, k)
    assert torch.equal(values, v)
