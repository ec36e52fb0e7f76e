"""Ownership: the whole matrix of read, use, change and delete, over HTTP, with real keys of two tenants."""

import httpx
import pytest

from server.api.routes.saes import _visible_report
from tests.support.live_server import serving

ADMIN = "the-first-key-of-this-server-that-nobody-guesses"
HELLO = {"model": "small", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 2, "temperature": 0}
STEERING = {"features": [{"id": "small/1", "strength": 0.4}]}
PEOPLE = {
    "owner": ("red", "ada", "researcher"),
    "same person, another key": ("red", "ada", "creator"),
    "same tenant": ("red", "bob", "creator"),
    "same tenant, viewer": ("red", "eve", "viewer"),
    "other tenant": ("blue", "ada", "creator"),
    "admin": ("", "root", "admin"),
    "nobody": None,
}
# who: reads, uses, changes, deletes
PRIVATE = {
    "owner": (200, 200, 200, 200),
    "same person, another key": (200, 200, 200, 200),
    "same tenant": (404, 400, 409, 409),
    "same tenant, viewer": (404, 400, 403, 403),
    "other tenant": (404, 400, 200, 404),  # the id is free in a tenant of one's own: a preset of their own is made
    "nobody": (401, 401, 401, 401),
}
SHARED = PRIVATE | {
    "same tenant": (200, 200, 403, 403),
    "same tenant, viewer": (200, 200, 403, 403),
}


@pytest.fixture(scope="module")
def people(bundle, tmp_path_factory):
    with serving(bundle, tmp_path_factory.mktemp("owned"), admin_key=ADMIN, shares=True) as (address, _):
        admin = httpx.Client(base_url=address, headers={"Authorization": f"Bearer {ADMIN}"})
        found = {}
        for i, (who, about) in enumerate(PEOPLE.items()):
            headers = {}
            if about:
                tenant, owner, role = about
                asked = {"name": f"key{i}", "tenant": tenant, "owner": owner, "role": role}
                headers = {"Authorization": f"Bearer {admin.post('/v1/keys', json=asked).json()['secret']}"}
            found[who] = httpx.Client(base_url=address, headers=headers)
        yield found
        for http in [admin, *found.values()]:
            http.close()


def preset(visibility):
    return {"id": "mine", "name": "Mine", "steering": STEERING, "visibility": visibility}


@pytest.fixture(params=["private", "shared"])
def saved(request, people):
    assert people["owner"].post("/v1/presets", json=preset(request.param)).status_code == 201
    yield request.param
    for who in ("owner", "other tenant"):
        people[who].delete("/v1/presets/mine")


@pytest.mark.parametrize("who", PRIVATE)
def test_presets_are_read_used_changed_and_deleted_as_the_matrix_says(people, saved, who):
    http, (reads, uses, changes, deletes) = people[who], {"private": PRIVATE, "shared": SHARED}[saved][who]
    assert http.get("/v1/presets/mine").status_code == reads
    assert http.post("/v1/chat/completions", json=HELLO | {"steering": {"preset": "mine"}}).status_code == uses
    if reads != 401:
        assert ("mine" in [p["id"] for p in http.get("/v1/presets").json()["data"]]) == (reads == 200)
        assert ("small@mine" in [m["id"] for m in http.get("/v1/models").json()["data"]]) == (reads == 200)
        assert http.get("/v1/presets/export?ids=mine").status_code == reads
    if who != "other tenant":
        assert http.delete("/v1/presets/mine").status_code == deletes
        people["owner"].post("/v1/presets", json=preset(saved))
    changed = http.put("/v1/presets/mine", json=preset(saved) | {"name": f"Of {who}"})
    assert changed.status_code == changes
    seen = people["owner"].get("/v1/presets/mine").json()
    assert (seen["name"], seen["owner"], seen["tenant"]) == (
        f"Of {who}" if changes == 200 and who != "other tenant" else "Mine",
        "ada",
        "red",
    )


@pytest.mark.parametrize("who", PRIVATE)
def test_every_other_way_to_use_a_preset_follows_the_matrix(people, saved, who):
    """Compare, validate and a share lead to the same choice as a chat does; none tells of a preset that one may not see."""
    http, uses = people[who], {"private": PRIVATE, "shared": SHARED}[saved][who][1]
    steering, messages = {"preset": "mine"}, HELLO["messages"]
    variants = [{"name": "a"}, {"name": "b", "steering": steering}]
    ways = {
        "/v1/steering/compare": {"model": "small", "messages": messages, "max_tokens": 2, "variants": variants},
        "/v1/steering/validate": {"model": "small", "steering": steering},
        "/v1/completions": {"model": "small", "prompt": "hello", "max_tokens": 2, "steering": steering},
    }
    for path, body in ways.items():
        answer = http.post(path, json=body)
        assert answer.status_code == uses, (path, answer.text)
        if uses == 400:
            assert answer.json()["error"]["code"] == "unknown_preset", path
            assert "Mine" not in answer.text


@pytest.mark.parametrize("who", PEOPLE)
def test_labels_and_notes_are_read_by_everybody_and_written_by_creators(people, who):
    http = people[who]
    role = PEOPLE[who][2] if PEOPLE[who] else None
    expected = {None: 401, "viewer": 403}.get(role, 200)
    said = {"label": f"named by {who}", "note": "seen by all", "starred": True}
    assert http.patch("/v1/features/small/7", json=said).status_code == expected
    if expected == 200:
        for reader in ("owner", "other tenant", "same tenant, viewer"):
            told = people[reader].get("/v1/features/small/7").json()
            assert (told["label"], told["note"]) == (said["label"], said["note"])
            assert who not in {told.get("by"), told.get("edited_by")}
    assert people["nobody"].get("/v1/features/small/7").status_code == 401
    people["owner"].patch("/v1/features/small/7", json={"label": None, "note": None, "starred": False})


def test_a_default_is_each_keys_own_and_only_an_admin_gives_one(people):
    people["admin"].post("/v1/presets", json=preset("shared") | {"id": "usual"})
    asked = {"name": "guest", "tenant": "red", "owner": "guest", "role": "user", "default_preset": "usual"}
    for who in ("owner", "same tenant", "same tenant, viewer"):
        assert people[who].post("/v1/keys", json=asked).status_code == 403
        assert people[who].get("/v1/me").json()["default_preset"] is None
    made = people["admin"].post("/v1/keys", json=asked).json()
    guest = {"Authorization": f"Bearer {made['secret']}"}
    with httpx.Client(base_url=people["admin"].base_url, headers=guest) as http:
        assert http.post("/v1/chat/completions", json=HELLO).json()["steering"]["default"] == "usual"
        assert http.get("/v1/me").json()["default_preset"] == "usual"
    for who in ("owner", "other tenant"):
        assert people[who].post("/v1/chat/completions", json=HELLO).json()["steering"]["default"] is None
    people["admin"].delete(f"/v1/keys/{made['id']}")
    assert people["admin"].delete("/v1/presets/usual").status_code == 200


def test_what_one_came_to_like_is_steered_for_them_alone(people):
    """Votes move the defaults of whoever gave them, and `personal` takes one's own."""
    for up, strength in ((True, 0.6), (False, 0.1)) * 4:
        about = {"features": [{"id": "small/1", "strength": strength}]}
        assert people["owner"].post("/v1/feedback", json={"kind": "thumb", "up": up, "steering": about}).is_success
    asked = HELLO | {"steering": {"features": [{"id": "small/1"}], "personal": True}}
    steered = {}
    for who in ("same tenant", "owner", "same person, another key", "other tenant"):
        answer = people[who].post("/v1/chat/completions", json=asked)
        assert answer.status_code == 200, answer.text
        steered[who] = answer.json()["steering"]["applied"][0]["strength"]
    assert steered["owner"] == steered["same person, another key"]
    assert steered["owner"] != steered["same tenant"] == steered["other tenant"]
    people["owner"].delete("/v1/feedback")


def test_an_owner_is_not_whom_the_body_says(people):
    answer = people["same tenant"].post("/v1/presets", json=preset("private") | {"owner": "ada", "tenant": "blue"})
    assert (answer.json()["owner"], answer.json()["tenant"]) == ("bob", "red")
    people["same tenant"].delete("/v1/presets/mine")


def test_what_others_may_use_is_read_only_to_them(people):
    people["owner"].post("/v1/presets", json=preset("shared"))
    told = {who: people[who].get("/v1/presets/mine").json()["readonly"] for who in ("owner", "same tenant")}
    people["owner"].delete("/v1/presets/mine")
    assert told == {"owner": False, "same tenant": True}


@pytest.mark.parametrize("who", PEOPLE)
def test_a_vector_is_its_owners_alone(people, who):
    about = {"name": "up", "a": ["What a lovely day!", "I love it."], "b": ["What a sad day.", "I hate it."]}
    made = people["owner"].post("/v1/vectors", json=about | {"replace": True})
    assert made.status_code == 201, made.text
    http, theirs = people[who], who in ("owner", "same person, another key")
    listed = http.get("/v1/vectors")
    if who == "nobody":
        assert listed.status_code == 401
        return
    assert [v["name"] for v in listed.json()["data"]] == (["up"] if theirs else [])
    pretends = http.get("/v1/vectors", params={"user": "red/ada"}).json()
    assert pretends["data"] == []
    steering = {"features": [{"id": "vector/up", "strength": 0.3}]}
    used = http.post("/v1/chat/completions", json=HELLO | {"steering": steering})
    # the same person's lesser key has the vector, and no right to steer by it
    expected = {"owner": 200, "same person, another key": 403}.get(who, 400)
    assert used.status_code == expected, used.text
    assert http.delete("/v1/vectors/up").status_code == (200 if theirs else 404)


@pytest.mark.parametrize("who", PEOPLE)
def test_a_share_is_read_by_its_address_and_deleted_by_its_maker(people, who):
    share = people["owner"].post("/v1/shares", json={"model": "small", "steering": STEERING}).json()
    http = people[who]
    if who == "nobody":
        assert http.get(f"/v1/shares/{share['id']}").status_code == 401
        return
    assert http.get(f"/v1/shares/{share['id']}").status_code == 200
    may = who in ("owner", "same person, another key", "admin")
    assert http.delete(f"/v1/shares/{share['id']}").status_code == (200 if may else 403)


@pytest.mark.parametrize("who", PEOPLE)
def test_a_job_is_seen_and_ended_by_whoever_began_it(people, who):
    order = {"feature": "small/1", "strengths": [0.5], "prompts": ["hello"], "max_tokens": 2}
    job = people["owner"].post("/v1/steering/sweep", json=order).json()
    assert job["owner"] == "ada"
    http, may = people[who], who in ("owner", "same person, another key", "admin")
    if who == "nobody":
        assert http.get(f"/v1/jobs/{job['id']}").status_code == 401
        return
    for path in ("", "/events", "/artifacts"):
        if may and path == "/events":
            continue  # it would be followed to its end
        assert http.get(f"/v1/jobs/{job['id']}{path}").status_code == (200 if may else 404)
    assert (job["id"] in [j["id"] for j in http.get("/v1/jobs").json()["data"]]) == may
    ended = http.post(f"/v1/jobs/{job['id']}/cancel").status_code
    assert ended in ((202, 409) if may else (403, 404))


def test_consent_votes_and_exports_are_each_owners_own(people):
    owner, other = people["owner"], people["same tenant"]
    owner.put("/v1/training/consent", json={"consent": True})
    vote = {"kind": "thumb", "up": True, "steering": STEERING}
    owner.post("/v1/feedback", json=vote)
    assert owner.get("/v1/training/consent").json()["consent"]
    assert len(owner.get("/v1/feedback").json()["votes"]) == 1
    for user in ("", "ada", "red/ada", "../ada"):
        params = {"user": user} if user else {}
        assert not other.get("/v1/training/consent", params=params).json()["consent"]
        assert other.get("/v1/feedback", params=params).json()["votes"] == []
        assert other.get("/v1/export", params=params).json()["votes"] == []
    sub = owner.get("/v1/training/consent", params={"user": "customer-1"}).json()
    assert not sub["consent"]  # a user of one's own is somebody else than oneself
    owner.put("/v1/training/consent", json={"consent": False})


def test_two_tenants_may_call_their_presets_the_same(people):
    for who, name in (("owner", "Red"), ("other tenant", "Blue")):
        assert people[who].post("/v1/presets", json=preset("shared") | {"name": name}).status_code == 201
    for who, name in (("same tenant", "Red"), ("other tenant", "Blue")):
        assert people[who].get("/v1/presets/mine").json()["name"] == name
    for who in ("owner", "other tenant"):
        people[who].delete("/v1/presets/mine")


def test_what_the_operator_shares_is_everybodys(people):
    about = preset("shared") | {"id": "house", "name": "House"}
    assert people["admin"].post("/v1/presets", json=about).status_code == 201
    for who in ("owner", "other tenant", "same tenant, viewer"):
        answer = people[who].post("/v1/chat/completions", json=HELLO | {"model": "small@house"})
        assert answer.status_code == 200
        assert answer.json()["steering"]["preset"] == "house"
        assert people[who].delete("/v1/presets/house").status_code in (403, 404)
    assert people["admin"].get("/v1/presets/house").status_code == 200
    people["admin"].delete("/v1/presets/house")


def test_a_revisions_report_does_not_name_presets_that_one_does_not_see():
    gates = [{"name": n} for n in ("identity", "preset:mine", "preset:theirs")]
    report = {"passed": True, "gates": gates, "presets": ["mine", "theirs"], "job": "job_1"}
    told = _visible_report(report, {"mine"})
    assert [g["name"] for g in told["gates"]] == ["identity", "preset:mine"]
    assert (told["presets"], told["job"]) == (["mine"], "job_1")
    assert _visible_report({}, {"mine"}) == {}


def forged(people, **about):
    """An export with a preset that steers by a direction of one's own, as a retired feature's snapshot."""
    http = people["owner"]
    http.post("/v1/presets", json=preset("private"))
    made = next(p for p in http.get("/v1/export").json()["presets"] if p["id"] == "mine")
    http.delete("/v1/presets/mine")
    given = {"id": "small/9999", "label": "anything", "measured": True, "dose": 6.0, "knots": []}
    snapshot = made["snapshots"][0] | given
    steering = {"features": [{"id": "small/9999", "strength": 0.5}]}
    forged = made | {"visibility": "shared", "steering": steering, "snapshots": [snapshot]}
    return {"version": 1, "model": "small", "presets": [forged], **about}


@pytest.mark.parametrize(("who", "status"), [("same tenant", 400), ("owner", 200)])
def test_a_direction_of_ones_own_comes_in_by_an_import_for_researchers_alone(people, who, status):
    answer = people[who].post("/v1/import", json=forged(people))
    assert answer.status_code == status, answer.text
    if status == 400:
        assert "small/9999" in answer.json()["error"]["message"]
    people[who].delete("/v1/presets/mine")


def test_nobody_imports_what_another_is_to_have_said(people):
    said = {"id": "small/3", "label": "planted", "by": "blue/ada", "at": 5}
    answer = people["same tenant"].post("/v1/import", json={"version": 1, "model": "small", "features": [said]})
    assert answer.status_code == 200, answer.text
    mine, theirs = (
        [f["id"] for f in people[w].get("/v1/export").json()["features"]] for w in ("same tenant", "other tenant")
    )
    assert ("small/3" in mine, "small/3" in theirs) == (True, False)
    people["same tenant"].patch("/v1/features/small/3", json={"label": None})
