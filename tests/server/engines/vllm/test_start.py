"""What vLLM is started with, and what reaches the operator when it cannot start, without vLLM."""

import logging

import pytest

from server.engines.vllm.engine import share_of_memory, workers
from server.engines.vllm.plugin import REPORT, _report_start_failures


@pytest.mark.parametrize(
    ("available", "total", "processes", "share"),
    [(16, 24, 1, 0.33), (24, 24, 1, 0.5), (16, 24, 2, 0.16), (0, 24, 1, 0.01)],
)
def test_on_a_cpu_the_workers_reserve_half_of_what_is_free(available, total, processes, share):
    assert share_of_memory(available, total, processes) == pytest.approx(share)


def test_each_parallel_dimension_multiplies_the_workers():
    assert workers({"tensor_parallel_size": 2, "pipeline_parallel_size": 3}) == 6
    assert workers({}) == 1


def test_the_first_reason_why_a_process_cannot_start_is_kept_for_the_parent(tmp_path, monkeypatch):
    monkeypatch.setenv(REPORT, str(tmp_path / "why"))
    logger = logging.getLogger("vllm.v1.executor.multiproc_executor")
    before = logging.getLogger("vllm").handlers[:]
    try:
        _report_start_failures()
        _report_start_failures()
        assert len(logging.getLogger("vllm").handlers) == len(before) + 1
        for message, reason in (
            ("Something else went wrong.", "not this"),
            ("WorkerProc failed to start.", "decrease `--gpu-memory-utilization`"),
            ("EngineCore failed to start.", "see root cause above"),
        ):
            try:
                raise ValueError(reason)
            except ValueError:
                logger.exception(message)
    finally:
        logging.getLogger("vllm").handlers[:] = before
    assert (tmp_path / "why").read_text() == "decrease `--gpu-memory-utilization`"
