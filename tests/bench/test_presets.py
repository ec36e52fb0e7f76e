"""The personas' table: shares by persona and strength, and the goals."""

from bench.blind import Reading
from bench.presets import summarize, table


def readings(arm, strength, grades, shows, answers="y" * 20):
    rows = zip(grades, shows, answers, strict=True)
    return [Reading(arm, strength, "Q?", "A.", g, s, a == "y") for g, s, a in rows]


def test_a_persona_meets_the_goals_by_what_readers_said():
    plain = readings("unsteered", 0.0, "F" * 19 + "S", ["none"] * 20)
    sea = readings("sea", 1.0, "F" * 18 + "BB", ["sea"] * 15 + ["none"] * 5)
    half = readings("sea", 0.5, "F" * 20, ["sea"] * 4 + ["cat"] * 16, "y" * 14 + "n" * 6)
    cat = readings("cat", 1.0, "F" * 16 + "SSSS", ["cat"] * 20) + readings("cat", 0.5, "F" * 20, ["cat"] * 20)
    (cats, seas), unsteered = summarize([*plain, *sea, *half, *cat])
    assert (seas.in_character.n, seas.fluent.n, seas.half_on_topic.n, seas.half_in_character.n) == (15, 18, 14, 4)
    assert seas.passes(unsteered)
    assert cats.in_character.n == 20
    assert not cats.passes(unsteered)  # 80 % fluent, 15 points below the unsteered replies
    assert table([cats, seas], unsteered).row_count == 3


def test_too_few_in_character_or_on_topic_misses():
    plain = readings("unsteered", 0.0, "F" * 20, ["none"] * 20)
    full = readings("sea", 1.0, "F" * 20, ["sea"] * 14 + ["none"] * 6)
    (row,), unsteered = summarize([*plain, *full, *readings("sea", 0.5, "F" * 20, ["none"] * 20)])
    assert not row.passes(unsteered)
    full = readings("sea", 1.0, "F" * 20, ["sea"] * 20)
    half = readings("sea", 0.5, "F" * 20, ["none"] * 20, "y" * 13 + "n" * 7)
    (row,), unsteered = summarize([*plain, *full, *half])
    assert not row.passes(unsteered)
