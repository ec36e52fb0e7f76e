"""Blind reading: the sheet hides the arm, and answers find their replies again."""

import pytest

from bench.blind import Reply, join, read_readings, write_readings, write_sheet

REPLIES = [
    Reply("sea", 1.0, "Hello!", "Waves."),
    Reply("plain", 0.0, "Hello!", "Hi.\nThere."),
    Reply("cat", 0.5, "Q?", "Purr."),
]


def test_a_sheet_names_no_arm_and_answers_find_their_replies(tmp_path):
    write_sheet(tmp_path, REPLIES, {"sea": "waves and ships", "cat": "cats"})
    sheet = (tmp_path / "replies.txt").read_text()
    assert "plain" not in sheet
    assert "0.5" not in sheet
    assert "Hi. ⏎ There." in sheet
    numbers = {text: sheet.split(f"A: {text}")[0].rsplit("#", 1)[1].split()[0] for text in ("Waves.", "Purr.")}
    answers = [f"{numbers['Waves.']}\tF\tsea\ty", f"{numbers['Purr.']}\tB\tnone\tn"]
    waves, purr = join(tmp_path, answers)
    assert (waves.arm, waves.grade, waves.shows, waves.answers) == ("sea", "F", "sea", True)
    assert (purr.arm, purr.strength, purr.grade, purr.answers) == ("cat", 0.5, "B", False)
    write_readings(tmp_path / "r.jsonl", [waves, purr])
    assert read_readings(tmp_path / "r.jsonl") == [waves, purr]


@pytest.mark.parametrize("line", ["", "1\tF\tsea", "x\tF\tsea\ty", "1\tQ\tsea\ty", "1\tF\tsea\tmaybe"])
def test_a_line_that_is_no_answer_is_named(tmp_path, line):
    write_sheet(tmp_path, REPLIES, {})
    with pytest.raises(ValueError, match="not an answer"):
        join(tmp_path, [line])
