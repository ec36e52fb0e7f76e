"""Drift log: measurements are stored, bounded, and returned as a series."""

import httpx
import pytest

from server.sae import drift_log
from server.sae.drift_log import DriftLog
from tests.support.live_server import serving


@pytest.fixture
def served(bundle, tmp_path):
    with serving(bundle, tmp_path) as (address, _), httpx.Client(base_url=address) as http:
        yield http, DriftLog(tmp_path, "small")


def row(at, **more):
    return {
        "at": at,
        "revision": "r1",
        "alarms": [],
        "corpus": {"explained_variance": 0.8, "l0": 9.0, "tokens": 5000},
        **more,
    }


def test_before_the_first_look_the_series_is_empty(served):
    http, _ = served
    told = http.get("/v1/training/drift").json()
    assert told["given"] == 0
    assert (told["data"], told["has_more"], told["next_cursor"]) == ([], False, None)
    assert told["baseline"] == {"corpus": None, "live": None}
    assert (told["revision"], told["look_seconds"]) == ("r1", 600.0)


def test_looks_are_told_in_order_with_what_they_led_to(served):
    http, kept = served
    kept.keep_first("r1", "corpus", {"explained_variance": 0.9, "l0": 8.0, "tokens": 6000, "firing": [0.1, 0.2]})
    kept.append(row(1.5))
    live = {"explained_variance": 0.6, "l0": 12.0, "tokens": 3000}
    kept.append(row(2.5, live=live, alarms=["live: L0 8.0 → 12.0"], did="update"))
    told = http.get("/v1/training/drift").json()
    assert [r["at"] for r in told["data"]] == [1.5, 2.5]
    assert (told["data"][0]["live"], told["data"][0]["did"]) == (None, None)
    assert (told["data"][1]["live"], told["data"][1]["did"]) == (live, "update")
    assert told["data"][1]["alarms"] == ["live: L0 8.0 → 12.0"]
    assert told["baseline"]["corpus"] == {"explained_variance": 0.9, "l0": 8.0, "tokens": 6000}


def test_the_newest_come_first_and_the_cursor_leads_back(served):
    http, kept = served
    for at in range(5):
        kept.append(row(at))
    last = http.get("/v1/training/drift", params={"limit": 2}).json()
    assert ([r["at"] for r in last["data"]], last["has_more"]) == ([3, 4], True)
    found, cursor = [], last["next_cursor"]
    while cursor:
        page = http.get("/v1/training/drift", params={"limit": 2, "cursor": cursor}).json()
        found, cursor = [r["at"] for r in page["data"]] + found, page["next_cursor"]
    assert found == [0, 1, 2]
    for bad in ({"limit": 0}, {"limit": "x"}, {"cursor": "nan"}, {"cursor": -1}):
        assert http.get("/v1/training/drift", params=bad).status_code == 400


def test_only_so_many_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(drift_log, "MOST", 20)
    kept = DriftLog(tmp_path, "small")
    for at in range(100):
        kept.append(row(at))
        assert len(kept.rows()) <= 22
    assert [r["at"] for r in kept.rows()][-20:] == list(range(80, 100))


def test_a_line_that_a_crash_has_cut_is_left_out_and_spoils_no_other(tmp_path):
    kept = DriftLog(tmp_path, "small")
    kept.append(row(1))
    with (kept.folder / "drift.jsonl").open("a") as file:
        file.write('{"at": 2, "corpus": {"l0"')
    kept.append(row(3))
    kept.append(row(4))
    assert [r["at"] for r in kept.rows()] == [1, 3, 4]
