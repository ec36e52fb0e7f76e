"""Fair queue: users are served by turns, and a full queue refuses new requests."""

from server.engines.transformers.fair_queue import FairQueue


def test_lines_take_turns():
    waiting = FairQueue(10)
    for name, item in (("ada", 1), ("ada", 2), ("ada", 3), ("bob", 4), ("eve", 5), ("eve", 6)):
        assert waiting.add(name, item)
    assert list(waiting) == [1, 4, 5, 2, 6, 3]  # as they will be taken
    assert [waiting.take() for _ in range(7)] == [1, 4, 5, 2, 6, 3, None]
    assert len(waiting) == 0


def test_full_room_turns_away_and_takes_again():
    waiting = FairQueue(1)
    assert waiting.add("ada", 1)
    assert not waiting.add("bob", 2)
    assert waiting.take() == 1
    assert waiting.add("bob", 2)


def test_who_leaves_makes_room_and_the_others_keep_their_turns():
    waiting = FairQueue(4)
    for name, item in (("ada", 1), ("ada", 2), ("bob", 3), ("bob", 4)):
        assert waiting.add(name, item)
    waiting.drop("ada", 1)
    waiting.drop("bob", 5)  # was never here
    waiting.drop("eve", 1)
    assert waiting.add("eve", 6)
    assert list(waiting) == [2, 3, 6, 4]
    waiting.drop("eve", 6)
    assert [waiting.take() for _ in range(4)] == [2, 3, 4, None]
