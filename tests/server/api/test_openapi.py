"""OpenAPI document: every route with its responses, errors and examples, on a docs page that needs no other host."""

import re

import jsonschema_rs
import pytest
from fastapi.openapi.models import OpenAPI

from server.api.openapi_examples import EXAMPLES


@pytest.fixture(scope="module")
def schema(live):
    return live[1].openapi()


@pytest.fixture(scope="module")
def operations(schema):
    return [(path, method, o) for path, item in schema["paths"].items() for method, o in item.items()]


def refs(value):
    """All references in a document."""
    if isinstance(value, dict):
        own = value.get("$ref")
        return [own] * isinstance(own, str) + [r for v in value.values() for r in refs(v)]
    return [r for v in value for r in refs(v)] if isinstance(value, list) else []


def validator(schema, part):
    return jsonschema_rs.Draft202012Validator({**part, "components": schema["components"]})


def test_the_description_is_openapi_and_all_its_references_lead_somewhere(schema):
    assert OpenAPI.model_validate(schema).openapi == "3.1.0"
    for ref in refs(schema):
        found = schema
        for step in ref.removeprefix("#/").split("/"):
            found = found[step]
    assert "HTTPValidationError" not in str(schema)


def test_every_operation_has_a_name_a_sentence_and_one_tag(schema, operations):
    names = [o["operationId"] for *_, o in operations]
    assert len(set(names)) == len(names) > 50
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)+", name) for name in names)
    tags = {t["name"] for t in schema["tags"]}
    assert {tag for *_, o in operations for tag in o["tags"]} == tags
    assert all(len(o["tags"]) == 1 and o["description"] for *_, o in operations)


def test_every_operation_tells_its_answer_and_its_errors(schema, operations):
    for path, method, o in operations:
        answers = {s: a for s, a in o["responses"].items() if s.startswith("2")}
        assert len(answers) == 1, path
        contents = next(iter(answers.values()))["content"]
        assert contents.get("application/json", {}).get("schema", {}).get("$ref") or "text/event-stream" in contents, (
            path
        )
        assert all(a["$ref"] for s, a in o["responses"].items() if s >= "400"), path
        assert path.startswith("/v1") <= {"421", "500", "503"}.issubset(o["responses"]), path
        assert ("requestBody" in o) <= {"400", "413"}.issubset(o["responses"]), path
        assert method != "patch" or "requestBody" in o


def test_every_error_has_openais_shape_and_an_example_of_it(schema):
    responses = schema["components"]["responses"]
    assert {"BadRequest", "NotFound", "Conflict", "TooMany", "Loading"} <= responses.keys()
    for name, answer in responses.items():
        content = answer["content"]["application/json"]
        assert content["schema"] == {"$ref": "#/components/schemas/Error"}
        validator(schema, content["schema"]).validate(content["example"])
        assert content["example"]["error"].keys() == {"message", "type", "param", "code"}, name


def test_every_body_has_an_example_that_fits_it(schema, operations):
    taken = [o["requestBody"]["content"]["application/json"] for *_, o in operations if "requestBody" in o]
    for content in taken:
        validator(schema, content["schema"]).validate(content["example"])
    assert {c["schema"]["$ref"].rpartition("/")[2] for c in taken} == EXAMPLES.keys()


def test_the_page_that_shows_it_needs_no_other_host(http):
    page = http.get("/docs").text
    wanted = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert wanted == ["docs/files/swagger-ui.css", "data:,", "docs/files/swagger-ui-bundle.js"]
    assert '"validatorUrl": null' in page
    assert "url: 'openapi.json'" in page
    assert all(http.get(f"/{file}").status_code == 200 for file in wanted if file != "data:,")
    assert http.get("/openapi.json").json()["info"]["title"] == "Tiller"
