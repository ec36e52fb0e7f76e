"""Selection of features: what replies show decides, not what fires."""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from recipes.smollm2.selection import MOST, Trial, direction_of, select

DECODER = normalize(torch.randn(12, 32, generator=torch.Generator().manual_seed(0)), dim=1)


def world(shown: Tensor, fluent: float = 1.0):
    """Replies that show as much as a push points along `shown`."""

    def try_directions(directions: list[Tensor]) -> list[Trial]:
        return [Trial(float((normalize(d, dim=0) @ shown).clamp(0, 1)), fluent, ()) for d in directions]

    return try_directions


def test_the_feature_that_shows_is_chosen_alone_if_no_other_adds_to_it():
    assert select(world(DECODER[3]), DECODER, range(12), 0.9) == ((3, 1.0),)


def test_features_that_only_show_together_are_added_to_one_another():
    parts = select(world(normalize(DECODER[3] + DECODER[7], dim=0)), DECODER, range(12), 0.9)
    assert {row for row, _ in parts} == {3, 7}
    assert direction_of(parts, DECODER).shape == (32,)


def test_there_are_never_more_than_a_persona_may_have():
    parts = select(world(normalize(DECODER.sum(0), dim=0)), DECODER, range(12), 0.9)
    assert len(parts) <= MOST


def test_a_push_that_breaks_text_loses_to_one_that_shows_less():
    def try_directions(directions: list[Tensor]) -> list[Trial]:
        rows = [int((DECODER @ normalize(d, dim=0)).argmax()) for d in directions]
        return [Trial(0.9, 0.4, ()) if row == 5 else Trial(0.6 if row == 2 else 0.0, 0.95, ()) for row in rows]

    assert select(try_directions, DECODER, range(12), 0.9)[0][0] == 2
