"""`/v1/suggest`: sliders for a wish."""

import pytest


def asked(http, **body):
    return http.post("/v1/steering/suggest", json=body)


@pytest.mark.parametrize("asks", [{"wish": "more poetic"}, {"messages": [{"role": "user", "content": "hello"}]}])
def test_where_no_dose_was_measured_it_says_how_to_measure_one(http, asks):
    answer = asked(http, **asks)
    assert answer.status_code == 400
    assert "tiller calibrate" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("body", "param"),
    [({}, None), ({"wish": ""}, "wish"), ({"wish": "x", "limit": 9}, "limit"), ({"wish": "x", "extra": 1}, "extra")],
)
def test_an_invalid_body_is_refused_with_the_name_of_its_field(http, body, param):
    answer = asked(http, **body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
