"""Store contract, for SQLite and a real Redis."""

import asyncio
import time
from dataclasses import replace

import pytest

from server.auth.keys import new_key
from server.store.base import AlreadyExists, Conflict, edits_setting
from server.store.models import RateLimits, Share, StoredVote, UserData, VoteBatch
from steering.catalogue.feature_edits import FeatureEdit
from steering.spec import FeatureSnapshot, Preset, Vector


def preset(name, **fields):
    return Preset(id=name.lower(), name=name, model="m", **fields)


def vector(name, dose=4.0):
    about = {"encoder": "", "bias": 0, "threshold": 0, "typical_max": 1}
    snapshot = FeatureSnapshot(id=f"vector/{name}", revision="r1", direction="AACAPwAAgD8=", dose=dose, **about)
    return Vector(name=name, method="diffmean", snapshot=snapshot)


def vote(subject="preset:a", liked=1.0, **more):
    return StoredVote(subject, more.get("dose", 0.5), liked, 1.0, more.get("created", 7.25))


def share(name, seconds=60):
    now = int(time.time())
    return Share(name, "key", '{"title": "ä"}', now, now + seconds)


async def test_a_preset_is_saved_with_a_version_that_counts_up(store, another):
    first = await store.save_preset(preset("B", readonly=True))
    assert (first.version, first.readonly) == (1, False)
    assert abs(first.updated - time.time()) < 300
    second = await another.save_preset(preset("B", description="two"), based_on=1)
    assert second.version == 2
    await store.save_preset(preset("a"))
    assert [p.id for p in await another.presets()] == ["a", "b"]
    assert await store.preset("b") == second
    assert await store.preset("c") is None


async def test_a_stale_write_is_a_conflict_and_changes_nothing(store):
    saved = await store.save_preset(preset("A"))
    for based_on in (0, 7):
        with pytest.raises(Conflict, match=f"at version 1, not {based_on}"):
            await store.save_preset(preset("A", description="other"), based_on=based_on)
    with pytest.raises(Conflict, match="at version 0, not 1"):
        await store.save_preset(preset("New"), based_on=1)
    assert await store.presets() == [saved]


async def test_a_preset_that_somebody_else_saved_meanwhile_is_neither_replaced_nor_deleted(store, another):
    theirs = await another.save_preset(preset("A", owner="bob"))
    with pytest.raises(Conflict, match="somebody else"):
        await store.save_preset(preset("A", owner="ada"))
    assert not await store.delete_preset("a", seen=preset("A", owner="ada"))
    assert await store.preset("a") == theirs
    assert (await store.save_preset(preset("A", owner="bob", description="two"))).version == 2
    assert await store.delete_preset("a", seen=theirs)


async def test_a_deleted_preset_is_gone_once(store, another):
    await store.save_preset(preset("A"))
    assert (await another.delete_preset("a"), await store.delete_preset("a")) == (True, False)
    assert await store.presets() == []


async def test_of_many_who_change_one_version_one_wins(store, another):
    await store.save_preset(preset("A"))
    asked = [s.save_preset(preset("A", description=str(i)), based_on=1) for i in range(8) for s in (store, another)]
    results = await asyncio.gather(*asked, return_exceptions=True)
    assert sum(isinstance(r, Preset) for r in results) == 1
    assert all(isinstance(r, Preset | Conflict) for r in results)
    assert (await store.preset("a")).version == 2


async def test_no_write_is_lost_among_many(store, another):
    await asyncio.gather(*(s.save_preset(preset("A")) for _ in range(10) for s in (store, another)))
    assert (await store.preset("a")).version == 20


async def test_a_setting_is_remembered(store, another):
    assert await store.setting("theme") is None
    await store.set_setting("theme", "dark")
    await another.set_setting("theme", "light ☼")
    assert await store.setting("theme") == "light ☼"


async def test_only_who_agreed_gives(store):
    assert await store.keep_text("ada", "[1]", most=5, seconds=60) is False
    await store.set_consent("ada", True)
    assert (await store.consent("ada"), await store.consent("eve")) == (True, False)
    assert await store.keep_text("ada", "[1]", most=5, seconds=60) is True
    assert await store.keep_text("eve", "[1]", most=5, seconds=60) is False
    (kept,) = await store.live_texts()
    assert (kept.user, kept.messages) == ("ada", "[1]")
    assert abs(kept.created - time.time()) < 300


async def test_each_gives_so_much_at_most_and_nothing_twice(store):
    for user in ("ada", "eve"):
        await store.set_consent(user, True)
    told = [await store.keep_text("ada", f"[{n}]", most=3, seconds=60) for n in (1, 2, 2, 3, 4, 1)]
    assert told == [True, True, False, True, True, True]
    await store.keep_text("eve", "[4]", most=3, seconds=60)
    assert [(t.user, t.messages) for t in await store.live_texts()] == [
        ("ada", "[3]"),
        ("ada", "[4]"),
        ("ada", "[1]"),
        ("eve", "[4]"),
    ]
    assert await store.consented_texts() == 4
    assert await store.forget_texts("ada") == 3
    assert await store.consented_texts() == 1
    assert [t.messages for t in await store.live_texts("eve")] == ["[4]"]
    assert await store.live_texts("nobody") == []


async def test_kept_text_expires_and_what_expired_is_deleted_with_the_next(store, another, monkeypatch):
    for user in ("ada", "eve"):
        await store.set_consent(user, True)
        assert await store.keep_text(user, "[1]", most=5, seconds=600)
    assert len(await store.live_texts()) == 2
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 601)
    assert await store.live_texts() == await store.live_texts("ada") == []
    assert await store.consented_texts() == 0
    assert await another.keep_text("ada", "[2]", most=5, seconds=60)
    assert [r.value["messages"] for r in await store.records() if r.kind == "text"] == ["[2]"]
    assert await store.keep_text("eve", "[1]", most=5, seconds=60)  # it is not there twice
    assert [t.user for t in await store.live_texts()] == ["ada", "eve"]
    assert await store.forget_texts("eve") == 1


async def test_a_no_deletes_what_was_given_at_once(store):
    for user in ("ada", "eve"):
        await store.set_consent(user, True)
        await store.keep_text(user, "[1]", most=5, seconds=60)
    await store.set_consent("ada", False)
    assert [t.user for t in await store.live_texts()] == ["eve"]
    assert await store.consent("ada") is False
    assert await store.keep_text("ada", "[2]", most=5, seconds=60) is False
    assert (await store.forget_texts("eve"), await store.forget_texts("eve")) == (1, 0)
    assert await store.consent("eve") is True


async def test_nothing_is_kept_of_somebody_who_says_no_in_the_same_moment(store, another):
    for n in range(10):
        await store.set_consent("ada", True)
        keeping = (store.keep_text("ada", f"[{n}, {i}]", most=50, seconds=60) for i in range(4))
        await asyncio.gather(*keeping, another.set_consent("ada", False))
        assert await store.live_texts() == []


async def test_votes_are_remembered_in_their_order_and_the_oldest_go(store, another):
    for n in range(4):
        await (store, another)[n % 2].add_votes("ada", "m", "ab", [vote(f"f{n}"), vote(f"g{n}", 0.0)], most=5)
    await store.add_votes("bob", "m", "thumb", [vote("b")], most=5)
    assert [v.subject for v in await store.votes("ada", "m")] == ["g1", "f2", "g2", "f3", "g3"]
    assert await store.votes("ada", "n") == []
    assert await store.votes("bob", "m") == [vote("b")]


async def test_votes_are_taken_back_as_they_were_given(store):
    await store.add_votes("ada", "m", "thumb", [vote("one")], most=9)
    await store.add_votes("ada", "m", "ab", [vote("two"), vote("three")], most=9)
    await store.add_votes("bob", "m", "thumb", [vote("his")], most=9)
    assert await store.drop_votes("ada", "m", last=True) == 2
    assert [v.subject for v in await store.votes("ada", "m")] == ["one"]
    await store.add_votes("ada", "m", "thumb", [vote("four")], most=9)
    assert await store.drop_votes("ada", "m", last=False) == 2
    assert await store.drop_votes("ada", "m", last=True) == 0
    assert [v.subject for v in await store.votes("bob", "m")] == ["his"]


async def test_what_is_said_of_a_feature_changes_field_by_field(store, another):
    await store.edit_feature("m", 3, {"label": "rain"}, by="ada")
    edit = await another.edit_feature("m", 3, {"starred": True}, by=None)
    assert (edit.label, edit.starred, edit.by) == ("rain", True, None)
    await store.edit_feature("n", 3, {"note": "other bundle"}, by=None)
    assert await store.feature_edits("m") == {3: edit}
    gone = await store.edit_feature("m", 3, {"label": None, "starred": False}, by=None)
    assert gone.empty
    assert await store.feature_edits("m") == {}


async def test_every_change_of_what_is_said_can_be_noticed(store, another):
    seen = {await another.setting(edits_setting("m"))}
    for changes in ({"label": "a"}, {"label": "b"}, {"label": None}):
        await store.edit_feature("m", 3, changes, by=None)
        seen.add(await another.setting(edits_setting("m")))
    edits = UserData(edits={1: FeatureEdit(label="c")})
    await store.restore("ada", "m", edits, replace=False, votes=5, vectors=5)
    seen.add(await another.setting(edits_setting("m")))
    assert len(seen) == 5
    assert await another.setting(edits_setting("n")) is None


async def test_of_vectors_so_many_are_kept_and_replaced_only_when_told(store):
    await store.save_vector("ada", "m", vector("one"), replace=False, most=1)
    with pytest.raises(Conflict, match="there is a vector 'one' already"):
        await store.save_vector("ada", "m", vector("one"), replace=False, most=1)
    with pytest.raises(Conflict, match="has 1 vectors"):
        await store.save_vector("ada", "m", vector("other"), replace=True, most=1)
    newer = vector("one", dose=2.0)
    await store.save_vector("ada", "m", newer, replace=True, most=1)
    assert await store.vectors("ada", "m") == [newer] == [await store.vector("ada", "m", "one")]


async def test_a_vector_is_nobody_elses(store):
    for name in ("b", "a"):
        await store.save_vector("ada", "m", vector(name), replace=False, most=5)
    assert [v.name for v in await store.vectors("ada", "m")] == ["a", "b"]
    assert await store.vectors("ada", "n") == await store.vectors("bob", "m") == []
    assert await store.vector("bob", "m", "a") is None
    assert await store.delete_vector("bob", "m", "a") is False
    assert [await store.delete_vector("ada", "m", n) for n in ("a", "a", "b")] == [True, False, True]


async def test_users_whose_names_look_like_keys_stay_apart(store):
    names = ['a", "m', "a:m", '["a"]', "a\nb", "ä☼", "a", "texts:of:a"]
    for name in names:
        await store.set_consent(name, True)
        await store.keep_text(name, f"[{name!r}]", most=5, seconds=60)
        await store.add_votes(name, "m", "thumb", [vote(name)], most=5)
        await store.save_vector(name, "m", vector("v"), replace=False, most=1)
    for name in names:
        assert [v.subject for v in await store.votes(name, "m")] == [name]
        assert [t.messages for t in await store.live_texts(name)] == [f"[{name!r}]"]


async def test_a_share_is_read_until_it_is_deleted_or_expires(store, another):
    one = share("a")
    await store.add_share(one, most=2)
    await store.add_share(share("old", seconds=-1), most=2)
    assert await another.share("a") == one
    assert await store.share("old") is await store.share("none") is None
    await store.add_share(share("b"), most=2)  # the old one has made room
    with pytest.raises(Conflict, match="there are 2 shares"):
        await store.add_share(share("c"), most=2)
    assert (await store.delete_share("a"), await store.delete_share("a")) == (True, False)
    await store.add_share(share("c"), most=2)


KEPT = UserData(
    presets=(preset("A", version=4, updated=9),),
    edits={3: FeatureEdit(label="rain", by="ada", at=5), 10: FeatureEdit(starred=True)},
    vectors=(vector("one"),),
    said=(VoteBatch("ab", (vote("x"), vote("y", 0.0))), VoteBatch("thumb", (vote("z"),))),
)


async def test_tenants_may_call_their_presets_the_same(store, another):
    ours, theirs = preset("A", tenant="ours", owner="ada"), preset("A", tenant="theirs", owner="bob", description="2")
    for given in (preset("A"), ours, theirs):
        await store.save_preset(given, based_on=0)
    assert [(await another.preset("a", t)).owner for t in ("", "ours", "theirs")] == [None, "ada", "bob"]
    assert await another.delete_preset("a", "ours")
    assert await store.preset("a", "ours") is None
    assert {(p.tenant, p.id) for p in await store.presets()} == {("", "a"), ("theirs", "a")}


async def test_keys_are_kept_until_they_are_deleted(store, another):
    first, secret = new_key("ada", "creator", tenant="t", limits=RateLimits(tokens=5), days=1)
    second, _ = new_key("bob", "admin")
    second = second.model_copy(update={"created": first.created + 1})
    await store.add_key(second)
    await store.add_key(first)
    assert await another.keys() == [first, second]
    assert secret not in str(await store.records())
    assert (await another.delete_key(first.id), await store.delete_key(first.id)) == (True, False)
    assert await store.keys() == [second]


async def test_whoever_says_first_is_heard(store, another):
    assert await store.first_setting("secret", "one") == "one"
    assert await another.first_setting("secret", "two") == "one"


async def test_what_is_kept_of_a_user_comes_back_as_it_was(store, another):
    done = await store.restore("ada", "m", KEPT, replace=False, votes=9, vectors=9)
    assert done == dict.fromkeys(["preset:a", "feature:3", "feature:10", "vector:one", "votes"], "created")
    assert await another.user_data("ada", "m") == KEPT
    assert (await store.preset("a")).version == 4
    again = await another.restore("ada", "m", KEPT, replace=False, votes=9, vectors=9)
    assert again == dict.fromkeys(done, "unchanged")
    assert await store.user_data("ada", "m") == KEPT


async def test_kept_holds_nothing_of_others(store):
    await store.restore("ada", "m", KEPT, replace=False, votes=9, vectors=9)
    await store.save_preset(Preset(id="theirs", name="Theirs", model="other"))
    his = await store.user_data("bob", "m")
    assert (his.vectors, his.said, [*his.edits]) == ((), (), [10])
    assert [p.id for p in his.presets] == ["a"]
    assert await store.user_data("ada", "n") == UserData()


async def test_what_would_be_overwritten_is_named_and_nothing_is_written(store):
    await store.restore("ada", "m", KEPT, replace=False, votes=9, vectors=9)
    other = replace(
        KEPT,
        presets=(preset("New"), preset("A", description="other")),
        edits={3: FeatureEdit(label="snow")},
        vectors=(vector("one", dose=1.0),),
        said=(VoteBatch("thumb", (vote("new"),)),),
    )
    with pytest.raises(AlreadyExists) as caught:
        await store.restore("ada", "m", other, replace=False, votes=9, vectors=9)
    assert caught.value.names == ("preset:a", "feature:3", "vector:one")
    assert await store.user_data("ada", "m") == KEPT
    done = await store.restore("ada", "m", other, replace=True, votes=9, vectors=9)
    assert [done[k] for k in ("preset:new", "preset:a", "votes")] == ["created", "replaced", "created"]
    assert (await store.preset("a")).version == 5
    assert [v.subject for v in await store.votes("ada", "m")] == ["x", "y", "z", "new"]


async def test_more_vectors_than_are_kept_bring_nothing_back(store):
    many = UserData(presets=(preset("A"),), vectors=tuple(vector(f"v{i}") for i in range(3)))
    with pytest.raises(Conflict, match="would have 3 vectors"):
        await store.restore("ada", "m", many, replace=True, votes=5, vectors=2)
    assert await store.user_data("ada", "m") == UserData()


async def test_two_who_bring_the_same_back_at_once_come_one_after_the_other(store, another):
    kepts = [UserData(presets=tuple(preset(f"P{i}", description=who) for i in range(9))) for who in ("a", "b")]
    asked = [
        s.restore("ada", "m", k, replace=False, votes=5, vectors=5)
        for s, k in zip((store, another), kepts, strict=True)
    ]
    results = await asyncio.gather(*asked, return_exceptions=True)
    assert sorted(type(r).__name__ for r in results) == ["AlreadyExists", "dict"]
    assert len({p.description for p in await store.presets()}) == 1


async def fill(store):
    await store.restore("ada", "m", KEPT, replace=False, votes=9, vectors=9)
    await store.set_setting("revision:m", "r2")
    for user in ("ada", "eve"):
        await store.set_consent(user, True)
        for n in range(12):
            await store.keep_text(user, f'[{n}, "ä"]', most=50, seconds=600)
    await store.add_votes("eve", "n", "move", [vote("e", created=1.5)], most=9)
    await store.add_share(share("s"), most=5)
    await store.add_key(new_key("ada", "creator", tenant="t")[0])


async def test_who_is_erased_is_gone_and_nobody_else(store, another):
    mine, bobs = "t/ada", "t/ada-bob"  # a name that another begins with
    for user in (mine, f"{mine}/sub", bobs):
        await store.set_consent(user, True)
        await store.keep_text(user, f'["{user}"]', most=9, seconds=600)
        await store.add_votes(user, "m", "move", [vote()], most=9)
        await store.save_vector(user, "m", vector("v"), replace=False, most=5)
    await store.save_preset(preset("A", tenant="t", owner="ada"))
    await store.save_preset(preset("A", tenant="t2", owner="ada"))
    await store.add_share(replace(share("s"), tenant="t", owner="ada"), most=5)
    await store.add_share(replace(share("z"), tenant="t", owner="bob"), most=5)
    await store.edit_feature("m", 3, {"label": "kept"}, by=mine)
    gone = await another.erase(mine, "t", "ada")
    assert gone == {"consents": 2, "texts": 2, "votes": 2, "vectors": 2, "presets": 1, "shares": 1}
    assert [t.user for t in await store.live_texts()] == [bobs]
    assert not await store.consent(f"{mine}/sub")
    assert await store.votes(mine, "m") == []
    assert len(await store.vectors(bobs, "m")) == 1
    assert [p.tenant for p in await store.presets()] == ["t2"]
    assert await store.share("s") is None
    assert await store.share("z") is not None
    assert (await store.feature_edits("m"))[3].by is None
    assert "ada/" not in str(await store.records())
    assert set((await another.erase(mine, "t", "ada")).values()) == {0}


async def test_without_an_owner_only_what_is_a_persons_goes(store):
    await store.set_consent("ada", True)
    await store.save_preset(preset("A"))
    assert (await store.erase("ada", "", None))["consents"] == 1
    assert len(await store.presets()) == 1


async def test_a_backup_holds_everything_and_comes_back_the_same(store, another):
    await fill(store)
    held = await store.records()
    assert {r.kind for r in held} == {"preset", "setting", "consent", "text", "said", "edit", "vector", "share", "key"}
    with pytest.raises(Conflict, match="not empty"):
        await another.put_records(held, replace=False)
    await store.save_preset(preset("Later"))
    await store.save_vector("bob", "m", vector("later"), replace=False, most=5)
    await store.keep_text("eve", "[99]", most=50, seconds=600)
    await another.put_records(held, replace=True)
    assert [*map(without_mark, await store.records())] == [*map(without_mark, held)]
    assert await store.setting(edits_setting("m")) is not None
    assert await store.user_data("ada", "m") == KEPT
    assert await store.keep_text("eve", "[99]", most=50, seconds=600)
    assert [t.messages for t in await store.live_texts("eve")][-2:] == ['[11, "ä"]', "[99]"]
    assert await store.forget_texts("ada") == 12


async def test_a_backup_that_cannot_be_read_changes_nothing(store):
    await fill(store)
    held = await store.records()
    broken = [*held, replace(held[0], value={"id": "no preset"})]
    with pytest.raises(ValueError, match="name"):
        await store.put_records(broken, replace=True)
    assert await store.records() == held


def without_mark(record):
    mark = record.kind == "setting" and record.value["key"].startswith("edits:")
    return replace(record, value={"key": record.value["key"]}) if mark else record


async def test_what_was_written_is_there_when_it_is_opened_again(store, another):
    await fill(store)
    await store.close()
    assert await another.user_data("ada", "m") == KEPT
    await another.check()


async def test_what_another_has_set_is_heard_of_at_once_or_looked_for_after_a_while(store, another):
    await store.changed(0.01)  # it listens from here on
    began, seconds = time.monotonic(), 600 if store.name == "redis" else 3
    waiting = asyncio.create_task(store.changed(seconds))
    await asyncio.sleep(0.2)
    await another.set_setting("audit:x", "7 abc")
    await another.set_setting("revision:m", "r2")
    await asyncio.wait_for(waiting, 120)
    assert store.name == "redis" or time.monotonic() - began >= 2.9
    began = time.monotonic()
    await store.changed(0.3)
    assert time.monotonic() - began >= 0.25
