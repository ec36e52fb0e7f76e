"""Labels: the shipped readings meet the goals, and shuffled labels are chance."""

import json

from bench.labels import FULFILLED, READINGS, WISHES, balanced_accuracy, report


def test_balanced_accuracy_is_the_mean_over_both_kinds():
    fires = [True, True, True, False, False]
    assert balanced_accuracy(fires, fires) == 1.0
    assert balanced_accuracy(fires, [True] * 5) == 0.5
    assert balanced_accuracy(fires, [True, False, False, False, True]) == (1 / 3 + 1 / 2) / 2


def test_readers_detect_features_by_their_labels_and_not_by_others():
    rows = [json.loads(line) for line in READINGS.read_text().splitlines()]

    def mean(control):
        scores = [balanced_accuracy(r["fires"], r["said"]) for r in rows if r["control"] is control]
        return len(scores), sum(scores) / len(scores)

    (n, read), (_, shuffled) = mean(False), mean(True)
    assert n == 200
    assert read >= 0.80
    assert abs(shuffled - 0.5) <= 0.05


def test_most_wishes_have_a_fitting_feature():
    judged = [line.split("\t") for line in FULFILLED.read_text().splitlines()]
    assert [wish for wish, _ in judged] == WISHES.read_text().splitlines()
    assert sum(0 < int(place) <= 5 for _, place in judged) >= 70
    assert "96/100" in report()[-1]
