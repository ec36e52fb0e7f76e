"""Child processes: the pause before a restart grows after short runs, up to a limit, and shrinks after a long one."""

from server.runtime.child_process import LONG_RUN, RestartPause


def test_the_pause_doubles_after_each_short_run_up_to_its_limit():
    pause = RestartPause(10)
    assert [pause.after(run_seconds=1) for _ in range(5)] == [2, 4, 8, 10, 10]


def test_the_pause_is_a_second_after_a_long_run():
    pause = RestartPause(10)
    for _ in range(3):
        pause.after(1)
    assert pause.after(LONG_RUN + 1) == 1
    assert pause.after(1) == 2
