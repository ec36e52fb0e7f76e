"""`/v1/features`: every search mode, filters, sorting, manual edits, and the map."""

import json
import shutil
import struct
import threading
import time

import httpx
import pytest

from server.features import search
from server.features.search import Index, parse_terms
from server.jobs.queue import JobQueue
from server.jobs.runner import Runner
from server.settings import Settings
from steering.catalogue.bundle import Bundle
from steering.catalogue.feature import Feature
from steering.catalogue.revisions import Revisions
from steering.errors import SteeringError
from tests.support import small_bundle
from tests.support.live_server import serving
from tests.support.planted_features import planted_bundle
from tests.support.waiting import until


@pytest.fixture(scope="module")
def garden(tmp_path_factory):
    """A bundle whose features 0, 1 and 2 fire on ` red`, ` weekend` and `hello`, with a server of its own."""
    return planted_bundle(tmp_path_factory.mktemp("garden") / "small")


@pytest.fixture(scope="module")
def web(garden, tmp_path_factory):
    with (
        serving(garden, tmp_path_factory.mktemp("garden-data")) as (address, _),
        httpx.Client(base_url=address) as http,
    ):
        yield http


def found(http, **query):
    answer = http.get("/v1/features", params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]


def ids(rows):
    return [row["id"] for row in rows]


def test_words_are_found_in_labels_words_outputs_examples_and_notes(web):
    assert ids(found(web, q="colour"))[0] == "small/0"  # its label
    assert ids(found(web, q="leisure"))[0] == "small/1"  # its words
    assert ids(found(web, q="zebra"))[0] == "small/2"  # what it says
    assert ids(found(web, q="he crosses bridges")) == ["small/0"]  # an example, and other forms of its words
    assert ids(found(web, q="colou")) == ["small/0"]  # as it is typed
    assert found(web, q="colour zebra") == []
    assert found(web, q="«»") == []


@pytest.mark.parametrize(
    ("label", "query"),
    [
        ("金门大桥和海湾", "大桥"),
        ("金门大桥和海湾", "金门大桥"),
        ("สะพานแขวนสีแดง", "แขวน"),
        ("ゴールデンゲートブリッジ", "ﾌﾞﾘｯｼﾞ"),
        ("bridges 🌉 at night", "🌉"),
        ("with love ❤️", "❤"),
        ("code in C++", "C++"),
        ("code in C++", "in c++"),
        ("issue #12 of $5", "#12"),
        ("Мосты и реки", "реки"),
        ("e-mail and don’t", "e-mail"),
        ("smollm2/12 and others", "smollm2/12"),
    ],
)
def test_labels_are_found_in_every_script_and_signs_as_they_stand(label, query):
    others = ["C", "C#", "bridge", "大海", "2,023 features", "mail"]
    features = tuple(
        Feature(id=f"small/{i}", index=i, label=words, density=0.1, max_activation=1.0)
        for i, words in enumerate([*others, label])
    )
    assert [f.label for f, _ in Index(features).by_words(query)] == [label]


def test_sentence_marks_are_no_part_of_a_term_and_signs_without_a_match_find_nothing():
    assert parse_terms('Sad, "angry" (or glad)?') == (["sad", "angry", "or", "glad"], [])
    assert parse_terms("«» .NET") == (["net"], ["«»"])
    assert Index((Feature(id="small/0", index=0, label="C", density=0.1, max_activation=1.0),)).by_words("++") == []


def test_each_word_is_searched_once_and_too_many_are_refused(web):
    assert parse_terms("sad SAD + sad, «+»") == (["sad"], ["+"])
    assert ids(found(web, q=" ".join(["colour"] * 100))) == ids(found(web, q="colour"))
    for words in (
        " ".join(f"w{i}" for i in range(33)),
        " ".join(f"+{i}" for i in range(33)),
        "-".join(map(str, range(33))),
    ):
        answer = web.get("/v1/features", params={"q": words})
        assert answer.status_code == 400
        assert answer.json()["error"]["message"] == "q: at most 32 different words, got 33"
        assert answer.json()["error"]["param"] == "q"


@pytest.mark.parametrize("mode", ["text", "id", "meaning"])
def test_a_query_that_is_no_prompt_has_at_most_a_thousand_characters(web, mode):
    answer = web.get("/v1/features", params={"q": "x" * 1001, "mode": mode})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "q")
    assert "at most 1000 characters" in answer.json()["error"]["message"]


@pytest.mark.parametrize("query", ["colour", "🌉"])
def test_a_search_that_takes_too_long_is_given_up_and_the_next_one_works(query, monkeypatch):
    index = Index((Feature(id="small/0", index=0, label="colour 🌉", density=0.1, max_activation=1.0),))
    assert len(index.by_words(query)) == 1
    monkeypatch.setattr(search, "STEPS", 1)
    monkeypatch.setattr(search, "DEADLINE", -1.0)
    with pytest.raises(SteeringError, match="took longer"):
        index.by_words(query)
    monkeypatch.setattr(search, "DEADLINE", 60.0)
    assert len(index.by_words(query)) == 1


def test_a_long_query_of_sqlite_is_interrupted(monkeypatch):
    monkeypatch.setattr(search, "STEPS", 1)
    index = Index(tuple(Feature(id=f"s/{i}", index=i, label="a b", density=0.1, max_activation=1.0) for i in range(50)))
    assert len(index.by_words("a b")) == 50
    with pytest.raises(SteeringError, match="took longer") as refused:
        index._full_text(["a"], time.monotonic() + 1e-5)
    assert refused.value.param == "q"


def test_labels_weigh_more_than_examples(web):
    rows = found(web, q="crossing")
    assert ids(rows) == ["small/1", "small/0"]
    assert rows[0]["score"] > rows[1]["score"] > 0


def test_what_looks_like_a_query_language_is_only_words(web):
    for q in (
        '"',
        "colour AND",
        "label:colour*",
        "NEAR(colour)",
        "colour) OR (zebra",
        "-colour",
        "'; DROP TABLE features",
    ):
        assert web.get("/v1/features", params={"q": q}).status_code == 200


def test_no_words_list_everything_with_named_features_first(web):
    rows = found(web, limit=500)
    assert len(rows) == small_bundle.FEATURES
    assert rows[0]["label_source"] == "hand"


def test_an_id_is_found_by_id_and_by_number(web):
    assert ids(found(web, mode="id", q="small/2")) == ["small/2"]
    assert ids(found(web, mode="id", q=" 2 ")) == ["small/2"]
    for none in ("small/02", "other/2", "99", "x", "2/"):
        assert found(web, mode="id", q=none) == []


def test_a_prompt_finds_what_it_evokes(web):
    assert "small/0" in ids(found(web, mode="prompt", q="the bridge is red", limit=5))
    assert "small/1" in ids(found(web, mode="prompt", q="what should I do this weekend", limit=5))
    assert "small/0" not in ids(found(web, mode="prompt", q="what should I do this weekend"))


def test_meaning_compares_with_labels_where_there_is_no_sentence_model(web):
    first = found(web, mode="meaning", q="warm colours", limit=5)[0]
    assert first["id"] == "small/0"
    assert first["score"] > 0.5


def test_prompts_in_common_without_others(web):
    body = {"prompts": ["hello the bridge is red", "hello there, the red and long bridge"]}
    both = ids(web.post("/v1/features/search", json=body).json()["data"])
    assert {"small/0", "small/2"} <= {*both}
    without = web.post("/v1/features/search", json={**body, "without": ["hello, how are you"], "limit": 1}).json()
    assert ids(without["data"]) == ["small/0"]
    rows = found(web, mode="common", prompts=body["prompts"], without=["hello, how are you"], limit=1)
    assert ids(rows) == ["small/0"]


def test_filters_and_order(web):
    dense = found(web, min_density=0.2, limit=500)
    assert dense
    assert all(row["density"] >= 0.2 for row in dense)
    assert all(row["density"] <= 0.05 for row in found(web, max_density=0.05, limit=500))
    labelled, bare = (found(web, labelled=is_, limit=500) for is_ in (True, False))
    assert all(row["label"] for row in labelled)
    assert not any(row["label"] for row in bare)
    assert sorted(ids([*labelled, *bare])) == sorted(ids(found(web, limit=500)))
    assert ids(found(web, calibrated=True)) == ["small/0"]
    assert ids(found(web, works=True)) == ["small/0"]
    assert "small/0" not in ids(found(web, works=False, limit=500))
    assert ids(found(web, kind="dead")) == ["small/47"]
    plain = found(web, kind="plain", limit=500)
    assert plain
    assert all(row["kind"] == [] for row in plain)
    by_density = [row["density"] for row in found(web, sort="density", limit=500)]
    assert by_density == sorted(by_density, reverse=True)
    by_max = [row["max_activation"] for row in found(web, sort="max", limit=500)]
    assert by_max == sorted(by_max, reverse=True)
    labels = [row["label"].casefold() for row in found(web, sort="label", limit=500) if row["label"]]
    assert labels == sorted(labels)
    pages = web.get("/v1/features", params={"sort": "density", "limit": 20}).json()
    more = web.get("/v1/features", params={"sort": "density", "limit": 500, "cursor": pages["next_cursor"]}).json()
    assert ids(pages["data"]) + ids(more["data"]) == ids(found(web, sort="density", limit=500))


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"mode": "smell"}, "mode"),
        ({"sort": "taste"}, "sort"),
        ({"kind": "odd"}, "kind"),
        ({"min_density": "much"}, "min_density"),
        ({"min_density": "nan"}, "min_density"),
        ({"max_density": "-1"}, "max_density"),
        ({"calibrated": "perhaps"}, "calibrated"),
        ({"works": "7"}, "works"),
        ({"limit": "0"}, "limit"),
        ({"cursor": "-1"}, "cursor"),
        ({"mode": "meaning"}, "q"),
        ({"mode": "prompt", "q": "  "}, "q"),
        ({"mode": "common"}, "prompts"),
        ({"q": "x" * 30_000}, "q"),
    ],
)
def test_what_cannot_be_looked_for_is_named(web, query, param):
    answer = web.get("/v1/features", params=query)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "prompts"),
        ({"prompts": []}, "prompts"),
        ({"prompts": [""]}, "prompts.0"),
        ({"prompts": ["a"], "witout": ["b"]}, "witout"),
        ({"prompts": ["a"], "limit": 0}, "limit"),
    ],
)
def test_a_bad_search_is_named(web, body, param):
    answer = web.post("/v1/features/search", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


def test_one_feature_tells_examples_samples_and_histogram(web):
    whole = web.get("/v1/features/small/0").json()
    assert whole["examples"][0]["token"] == " red"
    assert len(whole["examples"][0]["tokens"]) == len(whole["examples"][0]["activations"])
    assert set(whole["top_logits"]) == {"positive", "negative"}
    assert whole["histogram"]["counts"]
    assert {"samples", "similar", "output_score", "kind", "label_scores"} <= whole.keys()
    assert "examples" not in found(web, q="colour")[0]


def test_a_label_given_by_hand_counts_everywhere_and_is_taken_back(web):
    before = web.get("/v1/features/small/5").json()
    edit = {"label": "  my \n own  name ", "note": "seen in tests", "starred": True, "user": "ada"}
    told = web.patch("/v1/features/small/5", json=edit).json()
    assert (told["label"], told["label_source"], told["note"], told["starred"]) == (
        "my own name", "hand", "seen in tests", True)  # fmt: skip
    assert told["edited"]["by"] == "ada"
    assert told["edited"]["at"] > 1_700_000_000
    assert told["edited"]["before"]["label"] == before["label"]
    assert ids(found(web, q="own name")) == ["small/5"]
    assert ids(found(web, q="seen in tests")) == ["small/5"]
    assert ids(found(web, starred=True)) == ["small/5"]
    steering = {"steering": {"features": [{"id": "small/5", "strength": 0.1}]}}
    assert web.post("/v1/steering/validate", json=steering).json()["applied"][0]["label"] == "my own name"
    again = web.patch("/v1/features/small/5", json={"label": None, "user": "bob"}).json()
    assert (again["label"], again["label_source"], again["note"]) == (
        before["label"],
        before["label_source"],
        "seen in tests",
    )
    gone = web.patch("/v1/features/small/5", json={"note": None, "starred": False}).json()
    assert gone["edited"] is None or not gone["edited"]["starred"]
    assert web.get("/v1/features/small/5").json() == before
    assert found(web, q="own name") == []


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, None),
        ({"user": "ada"}, None),
        ({"label": ""}, "label"),
        ({"label": " \n"}, "label"),
        ({"label": "x" * 201}, "label"),
        ({"label": 7}, "label"),
        ({"note": "x" * 5000}, "note"),
        ({"starred": "yes"}, "starred"),
        ({"labl": "x"}, "labl"),
        ({"label": "x", "user": ""}, "user"),
    ],
)
def test_a_bad_edit_is_named_and_changes_nothing(web, body, param):
    before = web.get("/v1/features/small/6").json()
    answer = web.patch("/v1/features/small/6", json=body)
    assert answer.status_code == 400, answer.text
    if param:
        assert answer.json()["error"]["param"] == param
    assert web.get("/v1/features/small/6").json() == before


def test_a_feature_that_is_none_cannot_be_edited(web):
    for name in ("small/999", "other/1", "x"):
        answer = web.patch(f"/v1/features/{name}", json={"label": "x"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "feature_not_found")


def test_an_edit_survives_a_restart_and_another_revision(garden, tmp_path):
    data = tmp_path / "data"
    with serving(garden, data) as (address, _), httpx.Client(base_url=address) as http:
        http.patch("/v1/features/small/3", json={"label": "kept", "user": "ada"})
    revisions = Revisions(garden, data / "revisions" / "small")
    parent = revisions.open("r1")
    relabelled = [f.model_copy(update={"label": "by a machine", "label_source": "contrast"}) for f in parent.features]
    revisions.publish(parent, parent.sae, relabelled)
    with serving(garden, data) as (address, _), httpx.Client(base_url=address) as http:
        assert http.get("/v1/features/small/3").json()["label"] == "kept"
        http.post("/v1/saes/r2/activate")
        told = http.get("/v1/features/small/3").json()
        assert (told["label"], told["label_source"]) == ("kept", "hand")
        assert http.get("/v1/features/small/4").json()["label"] == "by a machine"
        back = http.patch("/v1/features/small/3", json={"label": None}).json()
        assert (back["label"], back["label_source"]) == ("by a machine", "contrast")  # what the bundle says by now
    assert Bundle.open(garden).numbered[3].label != "kept"


def test_the_map_has_a_place_for_every_feature_and_a_tag_that_says_when_it_is_another(web):
    plain = web.get("/v1/features-map").json()
    assert plain["method"] == "pca"
    assert plain["index"] == list(range(small_bundle.FEATURES))
    binary = web.get("/v1/features-map", params={"format": "bin"})
    assert binary.headers["content-type"] == "application/octet-stream"
    values = struct.unpack(f"<{2 * small_bundle.FEATURES}f", binary.content)
    assert [round(v, 4) for v in values] == pytest.approx([v for point in plain["points"] for v in point], abs=1e-4)
    again = web.get("/v1/features-map", params={"format": "bin"}, headers={"If-None-Match": binary.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    other = web.get("/v1/features-map", params={"format": "bin"}, headers={"If-None-Match": '"another"'})
    assert other.status_code == 200
    assert web.get("/v1/features-map", params={"format": "xml"}).json()["error"]["param"] == "format"


def test_the_maps_clusters_are_named_and_every_point_says_what_it_is(web):
    meta = web.get("/v1/features-map/meta", params={"limit": 10}).json()
    assert sum(c["size"] for c in meta["clusters"]) == small_bundle.FEATURES
    assert len({c["name"] for c in meta["clusters"]}) > 1
    assert (len(meta["data"]), meta["next_cursor"]) == (10, "10")
    assert meta["data"][0]["label"] == "a warm colour"
    rest = web.get("/v1/features-map/meta", params={"cursor": "10"}).json()
    assert len(rest["data"]) == small_bundle.FEATURES - 10
    assert web.get("/v1/features-map/meta", params={"cursor": "x"}).json()["error"]["param"] == "cursor"


def run_job(http, settings, order):
    job = http.post("/v1/jobs", json=order).json()
    stop = threading.Event()
    runner = threading.Thread(target=Runner(JobQueue(settings)).run, args=(stop,))
    runner.start()
    until(lambda: http.get(f"/v1/jobs/{job['id']}").json()["state"] in ("succeeded", "failed"))
    stop.set()
    runner.join(120)
    return http.get(f"/v1/jobs/{job['id']}").json()


def test_jobs_describe_label_and_draw_and_the_server_follows(garden, tmp_path):
    (tmp_path / "text.txt").write_text("\n".join(small_texts()))
    own = shutil.copytree(garden, tmp_path / "small")
    settings = Settings(bundle=own, data_dir=tmp_path / "data", corpus=(tmp_path / "text.txt",))
    with (
        serving(own, settings.data_dir, corpus=settings.corpus) as (address, _),
        httpx.Client(base_url=address) as http,
    ):
        http.patch("/v1/features/small/1", json={"label": "time off"})
        ended = run_job(http, settings, {"type": "describe", "config": {"texts": 150}})
        assert ended["state"] == "succeeded", ended
        assert ended["result"]["revision"] == "r2"
        until(lambda: http.get("/health").json()["revision"] == "r2")
        red = http.get("/v1/features/small/0").json()
        assert (red["label"], red["dose"]) == ("a warm colour", 4.0)
        assert red["examples"][0]["token"] == " red"
        ended = run_job(http, settings, {"type": "label"})
        assert ended["state"] == "succeeded", ended
        assert ended["result"]["detection"] > ended["result"]["control"]
        until(lambda: http.get("/health").json()["revision"] == "r3")
        hello = http.get("/v1/features/small/2").json()
        assert hello["label_source"] == "contrast"
        assert hello["label_scores"]["detection"] >= 0.9
        assert http.get("/v1/features/small/0").json()["label"] == "a warm colour"
        assert http.get("/v1/features/small/1").json()["label"] == "time off"
        ended = run_job(http, settings, {"type": "map", "config": {"method": "pca"}})
        assert ended["state"] == "succeeded", ended
        assert (settings.data_dir / "revisions/small/r3/map.f32").stat().st_size == 8 * small_bundle.FEATURES
        assert http.get("/v1/features-map").json()["revision"] == "r3"
        Revisions(own, settings.data_dir / "revisions" / "small").open("r3")  # a map beside it breaks no seal


@pytest.mark.parametrize(
    "order", [{"type": "describe", "config": {"texts": 0}}, {"type": "label", "config": {"url": "http://x"}},
              {"type": "map", "config": {"method": "tsne"}}]
)  # fmt: skip
def test_a_bad_order_is_refused_at_once(web, order):
    assert web.post("/v1/jobs", json=order).status_code == 400


def small_texts():
    from tests.support.planted_features import texts

    return texts(300, seed=5)


def test_an_old_bundle_answers_all_of_this(bundle, tmp_path):
    """No histograms, no kinds, no samples: what is not there is empty, and nothing breaks."""
    with serving(bundle, tmp_path) as (address, _), httpx.Client(base_url=address) as http:
        assert ids(found(http, q="bridges")) == ["small/1"]
        whole = http.get("/v1/features/small/1").json()
        assert (whole["samples"], whole["histogram"], whole["kind"]) == ([], None, [])
        assert http.get("/v1/features-map").status_code == 200
        assert json.loads(http.get("/v1/features", params={"mode": "prompt", "q": "hello"}).text)["data"]
