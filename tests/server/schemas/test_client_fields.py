"""Fields of other servers: what would change an answer is refused with the way out, all else is ignored."""

import json

import pytest

from server.api.body import parse_body, refuse_unsupported
from server.errors import ApiError
from server.schemas.client_fields import IGNORED, KNOWN, NOTHING, REFUSED
from server.schemas.comparison import CompareRequest
from server.schemas.generation import ChatRequest, CompletionRequest
from tests.support.paths import ROOT

CHAT = {"model": "small", "messages": [{"role": "user", "content": "hi"}]}
COMPLETION = {"model": "small", "prompt": "hi"}
COMPARE = CHAT | {"variants": [{"name": "a"}]}
DOCS = (ROOT / "docs/reference/api.md").read_text()
ASKING = {
    "tools": [{"type": "function", "function": {"name": "f"}}],
    "tool_choice": "required",
    "function_call": {"name": "f"},
    "response_format": {"type": "json_object"},
    "modalities": ["text", "audio"],
    "web_search_options": {},
    "guided_json": {},
    "prompt_logprobs": 0,
    "best_of": 2,
    "skip_special_tokens": False,
    "length_penalty": 0.8,
    "repeat_penalty": 1.1,
    "typical_p": 0.9,
    "mirostat": 2,
    "top_n_sigma": 1.0,
    "chat_template_kwargs": {"enable_thinking": False},
}
"""Values that ask for something; for other fields, one that is not neutral."""


def parsed(body, model):
    return parse_body(model, json.dumps(body).encode())


def asking(field):
    return ASKING.get(field.name, True not in field.neutral if field.route else 0.5)


@pytest.mark.parametrize("field", REFUSED, ids=lambda f: f"{f.name}-{f.route}")
def test_a_field_that_would_change_the_answer_is_refused_with_the_way_out(field):
    for body, model in ((CHAT, ChatRequest), (COMPLETION, CompletionRequest), (COMPARE, CompareRequest)):
        route = "completions" if model is CompletionRequest else "chat"
        if field.route in (None, route):
            with pytest.raises(ApiError) as caught:
                parsed(body | {field.name: asking(field)}, model)
            assert (caught.value.code, caught.value.param) == ("unsupported_parameter", field.name)
            assert field.instead in caught.value.message


@pytest.mark.parametrize("field", REFUSED, ids=lambda f: f"{f.name}-{f.route}")
def test_its_neutral_values_are_as_if_it_were_left_out(field):
    body, model = (COMPLETION, CompletionRequest) if field.route == "completions" else (CHAT, ChatRequest)
    for value in (None, *field.neutral):
        assert parsed(body | {field.name: value}, model) == parsed(body, model)


@pytest.mark.parametrize("name", [name for names in IGNORED.values() for name in names])
def test_what_changes_nothing_is_ignored_everywhere(name):
    for body, model in ((CHAT, ChatRequest), (COMPLETION, CompletionRequest), (COMPARE, CompareRequest)):
        assert parsed(body | {name: "x"}, model) == parsed(body, model)


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": ASKING["tools"], "tool_choice": "none"},
        {"functions": [{"name": "f"}], "function_call": "none"},
        {"best_of": 3, "n": 3},
        {"best_of": 1, "n": None},
    ],
)
def test_fields_that_change_nothing_together_are_accepted(fields):
    assert refuse_unsupported(CHAT | fields, "chat") is None


def test_a_number_is_not_a_truth_value():
    for value in (0, 1):
        with pytest.raises(ApiError):
            refuse_unsupported({"prompt_logprobs": value}, "completions")


def test_an_unknown_key_of_a_comparison_is_still_refused():
    with pytest.raises(Exception, match="variant_names"):
        parsed(COMPARE | {"variant_names": []}, CompareRequest)


def table():
    """The table of the documentation: one row for each way out, with the fields that it is for."""
    rows = dict[str, list[str]]()
    for field in REFUSED:
        where = {"chat": " in a chat", "completions": " in a completion", None: ""}[field.route]
        accepted = " or ".join(
            f"`{json.dumps(v)}`" for v in field.neutral if v not in NOTHING or field.neutral != NOTHING
        )
        rows.setdefault(field.instead, []).append(f"`{field.name}`{where}" + (f" (not {accepted})" if accepted else ""))
    refused = [f"| {', '.join(names)} | {instead} |" for instead, names in rows.items()]
    ignored = [f"- {why}: {', '.join(f'`{n}`' for n in names)}" for why, names in IGNORED.items()]
    return "\n".join(["| Refused | Instead |", "| --- | --- |", *refused]), "\n".join(ignored)


def test_the_documentation_has_these_tables():
    refused, ignored = table()
    assert refused in DOCS, refused
    assert ignored in DOCS, ignored


def test_no_field_is_in_both_tables():
    ignored = [name for names in IGNORED.values() for name in names]
    assert {f.name for f in REFUSED} | {*ignored} == KNOWN
    assert len(KNOWN) == len({f.name for f in REFUSED}) + len(ignored)
