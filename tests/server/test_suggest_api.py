"""Sliders for a wish, over HTTP."""

import pytest


def asked(http, **body):
    return http.post("/v1/steering/suggest", json=body)


def test_wish_where_no_dose_was_measured_is_refused_with_the_way_out(http):
    answer = asked(http, wish="more poetic")
    assert answer.status_code == 400
    assert "tiller calibrate" in answer.json()["error"]["message"]


def test_question_evokes_sliders_or_none_but_never_fails(http):
    told = asked(http, messages=[{"role": "user", "content": "hello"}]).json()
    assert told["object"] == "suggestion"
    assert len(told["features"]) <= 3


@pytest.mark.parametrize("body", [{}, {"wish": ""}, {"wish": "x", "limit": 9}, {"wish": "x", "extra": 1}])
def test_rubbish_is_refused(http, body):
    assert asked(http, **body).status_code == 400
