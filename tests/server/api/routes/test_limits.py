"""`/v1/limits`: server information and limits in one answer, for a settings page."""

import httpx

from tests.support.live_server import serving


def test_limits_are_those_of_the_settings_and_of_the_model(bundle, tmp_path):
    chosen = {"max_features": 5, "max_push": 2.5, "max_body": 5000, "live": 3, "queue": 7, "live_days": 2.0}
    with serving(bundle, tmp_path, **chosen) as (address, app), httpx.Client(base_url=address) as http:
        told = http.get("/v1/limits").json()
        assert (told["steering"]["max_features"], told["steering"]["max_push"]) == (5, 2.5)
        assert (told["requests"]["max_body"], told["requests"]["live"], told["requests"]["queue"]) == (5000, 3, 7)
        assert told["model"]["context"] == app.state.served_model.engine.max_model_len
        assert told["training"] == {
            "on": False,
            "learns": True,
            "look_seconds": 600.0,
            "update_hours": 0.0,
            "live_texts": 50,
            "live_days": 2.0,
        }
        assert (told["server"]["engine"], told["server"]["store"]) == ("transformers", "sqlite")
        assert (told["model"]["id"], told["sae"]["revision"]) == ("small", "r1")


def test_what_is_told_holds(http):
    told = http.get("/v1/limits").json()["steering"]
    features = [{"id": f"small/{i}", "strength": 0.01} for i in range(told["max_features"] + 1)]
    steering = {"features": features}
    assert http.post("/v1/steering/validate", json={"steering": steering}).status_code == 400
    features.pop()
    assert http.post("/v1/steering/validate", json={"steering": steering}).status_code == 200
    for mode in told["modes"]:
        steering = {"features": [{"id": "small/1", "mode": mode}]}
        assert http.post("/v1/steering/validate", json={"steering": steering}).status_code == 200


def test_nothing_secret_is_told(bundle, tmp_path):
    with (
        serving(bundle, tmp_path, label_url="https://host/v1", label_model="judge", label_key="sk-secret") as (at, _),
        httpx.Client(base_url=at) as http,
    ):
        answer = http.get("/v1/limits")
        assert answer.json()["labels"] == {"on": True, "model": "judge"}
        assert "secret" not in answer.text
        assert str(tmp_path) not in answer.text
