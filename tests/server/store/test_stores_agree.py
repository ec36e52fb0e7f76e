"""Store equivalence: random operations on SQLite, the reference, and a real Redis give the same results."""

import asyncio
import dataclasses
import tempfile
from pathlib import Path

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from pydantic import BaseModel

from server.store.base import Conflict
from server.store.models import Record, UserData, VoteBatch
from server.store.redis.store import RedisStore
from server.store.sqlite.store import SqliteStore
from steering.catalogue.feature_edits import FeatureEdit
from tests.server.store.test_contract import preset, share, vector, vote

USERS = ("ada", 'e"v:e')
users, models = st.sampled_from(USERS), st.sampled_from(["m", "n"])
names, words = st.sampled_from(["a", "b", "c"]), st.text(st.characters(codec="utf-8"), max_size=8)
few = st.integers(1, 4)
edits = st.fixed_dictionaries(
    {}, optional={"label": st.none() | words, "note": st.none() | words, "starred": st.booleans()}
)
votes = st.lists(st.builds(vote, words, st.floats(0, 1), dose=st.floats(-2, 2)), min_size=1, max_size=3)
said = st.builds(VoteBatch, st.sampled_from(["thumb", "ab"]), votes.map(tuple))
vectors = st.builds(vector, names, st.floats(1, 3))
kepts = st.builds(
    UserData,
    presets=st.lists(st.builds(preset, names, description=words), max_size=2, unique_by=lambda p: p.id).map(tuple),
    edits=st.dictionaries(st.integers(0, 2), st.builds(FeatureEdit, label=words, by=st.none() | users), max_size=2),
    vectors=st.lists(vectors, max_size=2, unique_by=lambda v: v.name).map(tuple),
    said=st.lists(said, max_size=2).map(tuple),
)


class Both(RuleBasedStateMachine):
    """Does everything to both."""

    url: str

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.loop = asyncio.Runner()
        self.stores = SqliteStore(Path(self.folder.name) / "t.db"), RedisStore(self.url)
        self.loop.run(self.stores[1].put_records([], replace=True))
        for user in USERS:
            self.set_consent(user, True)

    def both(self, name, *given, **more):
        told = [self.loop.run(outcome(getattr(store, name), *given, **more)) for store in self.stores]
        assert told[0] == told[1]

    @rule(name=names, text=words, based_on=st.none() | st.integers(0, 3))
    def save_preset(self, name, text, based_on):
        self.both("save_preset", preset(name, description=text), based_on=based_on)

    @rule(name=names)
    def delete_preset(self, name):
        self.both("delete_preset", name)

    @rule(key=names, value=words)
    def set_setting(self, key, value):
        self.both("set_setting", key, value)

    @rule(user=users, agreed=st.booleans())
    def set_consent(self, user, agreed):
        self.both("set_consent", user, agreed)

    @rule(user=users, text=names, most=few, seconds=st.sampled_from([-1, 600]))
    def keep_text(self, user, text, most, seconds):
        self.both("keep_text", user, text, most=most, seconds=seconds)

    @rule(user=users)
    def forget_texts(self, user):
        self.both("forget_texts", user)

    @rule(user=users, model=models, given=votes, most=few)
    def add_votes(self, user, model, given, most):
        self.both("add_votes", user, model, "ab", given, most=most)

    @rule(user=users, model=models, last=st.booleans())
    def drop_votes(self, user, model, last):
        self.both("drop_votes", user, model, last=last)

    @rule(model=models, number=st.integers(0, 2), changes=edits, by=st.none() | users)
    def edit_feature(self, model, number, changes, by):
        self.both("edit_feature", model, number, changes, by=by)

    @rule(user=users, model=models, given=vectors, replace=st.booleans(), most=few)
    def save_vector(self, user, model, given, replace, most):
        self.both("save_vector", user, model, given, replace=replace, most=most)

    @rule(user=users, model=models, name=names)
    def delete_vector(self, user, model, name):
        self.both("delete_vector", user, model, name)

    @rule(name=words, seconds=st.sampled_from([-10, 600]), most=few)
    def add_share(self, name, seconds, most):
        self.both("delete_share", name)  # nobody draws an id twice
        self.both("add_share", share(name, seconds), most=most)

    @rule(user=users, model=models, kept=kepts, replace=st.booleans(), most=few)
    def restore(self, user, model, kept, replace, most):
        self.both("restore", user, model, kept, replace=replace, votes=most, vectors=most)

    @rule(other=st.integers(0, 1))
    def carry_over(self, other):
        held = self.loop.run(self.stores[other].records())
        self.loop.run(self.stores[1 - other].put_records(held, replace=True))

    @invariant()
    def they_hold_the_same(self):
        self.both("records")
        self.both("user_data", "ada", "m")
        self.both("live_texts", "ada")
        self.both("consented_texts")

    def teardown(self):
        for store in self.stores:
            self.loop.run(store.close())
        self.loop.close()
        self.folder.cleanup()


async def outcome(act, *given, **more):
    """What it gives or refuses, without what differs from one moment to the next."""
    try:
        return timeless(await act(*given, **more))
    except Conflict as error:
        return type(error), str(error)


def timeless(found):
    match found:
        case Record(kind="setting", value={"key": key}) if key.startswith("edits:"):
            return key
        case Record():
            return found.kind, timeless(found.value)
        case BaseModel():
            return timeless(found.model_dump())
        case dict():
            return {
                k: timeless(v) for k, v in found.items() if k not in {"at", "updated", "since", "created", "expires"}
            }
        case list() | tuple():
            return [timeless(item) for item in found]
        case _ if dataclasses.is_dataclass(found):
            return timeless(vars(found))
    return found


def test_both_stores_say_the_same_of_whatever_is_done(empty_redis):
    machine = type("Both", (Both,), {"url": empty_redis})
    quick = [HealthCheck.too_slow, HealthCheck.data_too_large]
    limits = settings(max_examples=20, stateful_step_count=40, deadline=None, suppress_health_check=quick)
    assert run_state_machine_as_test(machine, settings=limits) is None  # its rules assert; what differs is raised
