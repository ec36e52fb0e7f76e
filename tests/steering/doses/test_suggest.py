"""Suggestions: helpful features are found, unmeasured ones are not suggested, and "less" is the opposite of "more"."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from steering.calibration import Calibration, SweetSpot
from steering.catalogue.bundle import Bundle
from steering.catalogue.feature import BundleInfo, Feature
from steering.doses.suggest import Clause, _Answers, clauses, propose
from steering.errors import SteeringError
from tests.support import small_bundle

QUESTIONS = ("hello there", "what should I do")
TOKENIZER = small_bundle.tokenizer()


@pytest.fixture(scope="module")
def model():
    return small_bundle.model(len(TOKENIZER))


def measured(i, *, works=True, negative=True):
    below = SweetSpot(low=-1.0, high=-0.2) if negative else None
    curve = Calibration(knots=((-1.0, -4.0), (0.0, 0.0), (1.0, 4.0)), works=works, negative=below, words=("red",))
    return Feature(
        id=f"b/{i}", index=i, dose=4.0, typical_max=3.0, sweet_spot=SweetSpot(low=0.2, high=1.0), calibration=curve
    )


@pytest.fixture
def bundle(model):
    """Feature 7 points where the answers to "be red" become likelier, 9 the opposite way; the others anywhere."""
    info = BundleInfo(name="b", model="m", hook="layers.1", revision="r1", typical_norm=8)
    answers = _Answers.prepare(model, TOKENIZER, info, Clause("red", 1), QUESTIONS, lambda: None)
    pull = torch.nn.functional.normalize(answers.pull(lambda: None), dim=0)
    sae = small_bundle.sae()
    rows = sae.W_dec.clone()
    rows[7], rows[9] = pull, -pull
    features = [measured(i, negative=i != 9) for i in range(small_bundle.FEATURES)]
    return Bundle(Path(), info, replace(sae, W_dec=rows), features)


def test_the_feature_that_helps_is_proposed_with_a_dose_and_a_reason(model, bundle):
    found = propose(model, TOKENIZER, bundle, "red", questions=QUESTIONS)
    assert found.suggestions[0].feature.index == 7
    assert 0.2 <= found.suggestions[0].dose <= 1.0
    assert "red" in found.suggestions[0].why
    assert found.gain == pytest.approx(sum(s.gain for s in found.suggestions), abs=1e-3)
    assert found.gain > found.random_gain
    assert found.prompts == ("Be red.",)


def test_less_of_it_goes_the_other_way(model, bundle):
    first = propose(model, TOKENIZER, bundle, "less red", questions=QUESTIONS).suggestions[0]
    assert (first.feature.index, first.dose > 0) in ((9, True), (7, False))


def test_together_they_go_no_farther_than_one_may(model, bundle):
    found = propose(model, TOKENIZER, bundle, "red", questions=QUESTIONS, most=3)
    assert len(found.suggestions) <= 3
    assert len({s.feature.id for s in found.suggestions}) == len(found.suggestions)


def test_what_was_not_measured_to_work_is_not_proposed(model, bundle):
    dumb = replace(bundle, features=[measured(i, works=i != 7) for i in range(small_bundle.FEATURES)])
    assert all(s.feature.index != 7 for s in propose(model, TOKENIZER, dumb, "red", questions=QUESTIONS).suggestions)
    with pytest.raises(SteeringError, match="tiller calibrate"):
        none = replace(bundle, features=[measured(i, works=False) for i in range(small_bundle.FEATURES)])
        propose(model, TOKENIZER, none, "red", questions=QUESTIONS)


def test_looking_leaves_the_model_as_it_was(model, bundle):
    ids = torch.tensor([[0, 5, 6, 7]])
    with torch.no_grad():
        before = model(input_ids=ids).logits
    propose(model, TOKENIZER, bundle, "red", questions=QUESTIONS)
    with torch.no_grad():
        assert model(input_ids=ids).logits.equal(before)
    assert all(p.grad is None for p in model.parameters())


def test_a_wish_is_taken_apart():
    assert clauses("more poetic, less formal and not so long") == [
        Clause("poetic", 1),
        Clause("formal", -1),
        Clause("long", -1),
    ]
    assert [c.prompt for c in clauses("answer like a pirate; cheerful")] == ["Answer like a pirate.", "Be cheerful."]
    with pytest.raises(SteeringError, match="say what replies"):
        clauses(" , ")
