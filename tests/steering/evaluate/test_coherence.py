"""Coherence: figures of a reply, and the verdict on them."""

import pytest

from steering.evaluate.coherence import Figures, Ordinal, coherence, figures, judge, mean_figures, rep3

LIKELY = [-0.8] * 30


def test_a_likely_reply_is_fluent_and_a_reply_of_unlikely_tokens_is_broken():
    assert judge("The sky looks blue because the air scatters blue light more than red light.", LIKELY).verdict == "ok"
    assert judge("The window sat a of Marmalade thus elevenfold under quickly.", [-9.0] * 20).verdict == "broken"


def test_one_bad_stretch_is_enough_to_strain_a_long_reply():
    assert judge("words " * 3 + "and so on, as one says", LIKELY + [-7.0] * 12 + LIKELY).verdict != "ok"


def test_loops_and_rows_of_signs_break_a_likely_reply():
    assert judge("I like it. " * 20, LIKELY).verdict != "ok"
    assert judge("1. 2. 3. |---|---| ### 12:40 ;; {} [] == 77 %% $$ 4/5", LIKELY).verdict != "ok"


def test_figures_are_those_of_the_text_and_the_log_probabilities():
    f = figures("ab 12", [-1.0] * 12 + [-4.0] * 12)
    assert f == Figures(worst=-4.0, mean=-2.5, repetition=0.0, letters=pytest.approx(3 / 5))
    assert figures("a", [-2.0]).worst == -2.0
    assert figures("", []) == Figures(0.0, 0.0, 0.0, 1.0)
    assert mean_figures([Figures(0, 0, 0, 1), Figures(-2, -1, 1, 0)]) == Figures(-1, -0.5, 0.5, 0.5)


def test_the_verdict_follows_the_cuts():
    one = Ordinal(Figures(0, -1, 0, 0), strained=2.0, broken=4.0)
    assert [coherence(Figures(0, m, 0, 1), one).verdict for m in (-1, -3, -5)] == ["ok", "strained", "broken"]
    assert coherence(Figures(0, -2.0, 0, 1), one).fluency == 0.5


def test_repetition_is_the_share_of_threes_that_occur_again():
    assert rep3([1, 2, 3, 4]) == 0
    assert rep3([1, 2, 3, 1, 2, 3]) == 0.5
    assert rep3([1, 1, 1, 1, 1]) == 1
    assert rep3([1, 2]) == 0
    assert rep3("a b c A B C") == 0.5
    assert rep3("金门大桥金门大桥") > 0.5  # a script without spaces between words
