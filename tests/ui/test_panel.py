"""What the browser sends is checked; what is told of a reply is escaped."""

import pytest

from ui.conversation import without_last
from ui.panel import problem, read, told

ROW = {"id": "small/1", "strength": 0.5, "mode": "add"}
APPLIED = {"id": "small/1", "label": "<b>x</b>", "mode": "add", "strength": -0.4, "dose": -0.4}


def test_rows_become_the_apis_steering():
    assert read({"rows": [ROW]}).steering() == {"features": [ROW], "unit": "dose", "scale": 1.0, "scope": "assistant"}


@pytest.mark.parametrize("value", [None, {}, "rubbish", {"rows": []}, {"rows": [ROW], "bypass": True}])
def test_nothing_to_steer_is_no_steering(value):
    assert read(value).steering() is None


@pytest.mark.parametrize(
    "row", [{"id": ""}, {**ROW, "strength": float("nan")}, {**ROW, "mode": "explode"}, {**ROW, "strength": "much"}]
)
def test_rubbish_rows_are_refused_with_a_sentence(row):
    with pytest.raises(ValueError, match="the sliders cannot be read"):
        read({"rows": [row]})


def test_labels_and_errors_are_escaped():
    html = told(
        {
            "applied": [APPLIED],
            "warnings": [{"message": "<i>"}],
            "coherence": {"verdict": "broken", "repetition": 0.5, "mean_logprob_unsteered": -6},
        }
    )
    assert "&lt;b&gt;x&lt;/b&gt; −0.40" in html
    assert "coherence: broken" in html
    assert "<b>" not in html + problem("<b>")


def test_last_question_is_taken_off():
    history = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert without_last([*history, *history]) == (history, "a")
    assert without_last([]) == ([], "")
