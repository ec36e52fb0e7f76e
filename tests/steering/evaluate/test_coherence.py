"""Repetition: the share of 3-grams that occur more than once, of tokens and of words."""

from steering.evaluate.coherence import rep3


def test_repetition_of_tokens():
    assert rep3([1, 2, 3, 4]) == 0
    assert rep3([1, 2, 3, 1, 2, 3]) == 0.5
    assert rep3([1, 1, 1, 1, 1]) == 1
    assert rep3([1, 2]) == 0


def test_words_count_without_case_and_punctuation():
    assert rep3("The red bridge! the red, bridge") == 0.5
    assert rep3("one two three four") == rep3("") == 0
