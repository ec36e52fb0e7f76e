"""OpenAPI document: request and response schemas, errors and examples of each route, and the `/docs` page.

A route describes its own part with `wire`; tags, errors and examples that all share are defined
here.
"""

from collections.abc import Iterator
from importlib.resources import files
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from pydantic import BaseModel, Field
from starlette.responses import HTMLResponse
from starlette.staticfiles import StaticFiles

from server.api.openapi_examples import EXAMPLES

Schema = dict[str, Any]
WIRE = "x-wire"
REF = "#/components/schemas/"
EVENTS = "text/event-stream"
CHUNKS = 'data: {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": "Ahoy"}, "finish_reason": null}], …}\n\ndata: [DONE]\n\n'
"""Example of a streamed chat completion."""
EVENT = 'id: 2\nevent: metric\ndata: {"progress": 0.25}\n\n'
"""Example of a job's event stream."""
ONE_EVENT = {
    "type": "object",
    "required": ["data"],
    "properties": {
        "id": {"type": "string"},
        "event": {"type": "string"},
        "data": {"type": "string", "contentMediaType": "application/json"},
    },
}
SAID = {
    "take": "Request body.",
    "give": "Successful response.",
    "events": "Server-sent events, if requested; a chat stream ends with `data: [DONE]`.",
}

TAGS = {
    "Chat": "OpenAI-compatible chat and text completions, with an additional `steering` field.",
    "Models": "List the model and its personas; each has a model id.",
    "Steering": "Validate a steering object, compare several, or get sliders suggested for a prompt.",
    "Features": "Search and list SAE features, retrieve one, edit its label.",
    "Text": "Feature activations of a text, features that separate two sets of texts, attribution of a token.",
    "Presets": "Personas: steering saved under a name.",
    "Users": "A user's data: vectors, votes, consent; export and import as one document.",
    "Shares": "Share a steering by link, if the server allows it.",
    "SAE": "SAE revisions, their changes, and the trainer's drift measurements.",
    "Jobs": "Long-running jobs: create, follow, cancel.",
    "Keys": "API keys, their roles and limits.",
    "Server": "Server limits, health and version.",
}
PLACES = {
    "/v1/chat": "Chat",
    "/v1/completions": "Chat",
    "/v1/queue": "Chat",
    "/v1/models": "Models",
    "/v1/steering": "Steering",
    "/v1/features/contrast": "Text",
    "/v1/features": "Features",
    "/v1/analyze": "Text",
    "/v1/attribute": "Text",
    "/v1/presets": "Presets",
    "/v1/vectors": "Users",
    "/v1/feedback": "Users",
    "/v1/training/drift": "SAE",
    "/v1/training": "Users",
    "/v1/export": "Users",
    "/v1/import": "Users",
    "/v1/shares": "Shares",
    "/v1/saes": "SAE",
    "/v1/jobs": "Jobs",
    "/v1/keys": "Keys",
    "/v1/me": "Keys",
    "/": "Server",
}
"""Tag of a path: the first prefix that matches."""


class Problem(BaseModel):
    """Error details; some errors have fields beside OpenAI's four."""

    message: str = Field(description="Human-readable message: what is wrong, and how to fix it.")
    type: str
    param: str | None = Field(description="The request field at fault, such as `steering.features.0.id`.")
    code: str | int | None = Field(description="Machine-readable error code.")


class Error(BaseModel):
    """Error response in OpenAI's format."""

    error: Problem


REFUSALS: dict[int, tuple[str, str, str, str | None, str | int]] = {
    400: ("BadRequest", "Invalid request.", "temperature: must be at most 2, got 3", "temperature", "invalid_value"),
    401: ("Unauthorized", "Missing or invalid API key; required if the server has keys.", "no key was given; send one as \"Authorization: Bearer sk-tiller-…\"; the operator of this server creates keys with `tiller keys new`", None, "invalid_api_key"),
    403: ("Forbidden", "Read-only resource, disabled feature, or insufficient permissions of the key.", "'golden-gate' comes with the model and cannot be changed; save yours under another id", "id", "preset_readonly"),
    404: ("NotFound", "Resource not found.", "the model 'gpt' does not exist; GET /v1/models lists those that do", "model", "model_not_found"),
    409: ("Conflict", "Conflict with the current state of the resource.", "there is a preset 'mine' already; choose another id, or PUT to replace it", "id", "preset_exists"),
    412: ("PreconditionFailed", "Precondition failed: the resource has changed since it was read.", "'mine' is at version 3, not 2; read it again and repeat your change", "If-Match", "version_conflict"),
    413: ("TooLarge", "Request body too large.", "the body is larger than 1048576 bytes; send less", None, "body_too_large"),
    421: ("WrongHost", "Misdirected request: a server bound to loopback does not accept this `Host`.", "this server is only reachable from its own machine, not as 'example.org'", None, "wrong_host"),
    429: ("TooMany", "Rate limit reached, or the queue is full; retry after `Retry-After` seconds.", "64 requests are waiting already; try again in 8 seconds", None, "rate_limit_exceeded"),
    500: ("Broken", "Internal server error; the server's log has the traceback.", "something broke in the server; the log has the traceback", None, "internal_error"),
    503: ("Loading", "Service unavailable: the model is loading, or the store is unreachable (`store_unavailable`); retry after `Retry-After` seconds.", "Loading model", None, 503),
}  # fmt: skip
"""Description, and the message, param and code of an example, by status."""
KINDS = {403: "permission_error", 429: "rate_limit_error", 500: "server_error", 503: "unavailable_error"}
ALWAYS = (401, 403, 421, 429, 500, 503)
"""Statuses that any route below /v1 may return."""


def wire(
    gives: type[BaseModel] | None,
    *refuses: int,
    takes: type[BaseModel] | None = None,
    optional: bool = False,
    **media: str,
) -> dict[str, Any]:
    """Describe a route: its body, response and errors; `media` are other media types of the
    response, `events` or `bytes`."""
    said: Schema = {"refuses": refuses, "optional": optional, "media": media}
    if gives:
        said["gives"] = gives.model_json_schema(mode="serialization")
    if takes:
        said["takes"] = takes.model_json_schema()
    return {WIRE: said}


def install(app: FastAPI) -> None:
    """Serve the document at `/openapi.json` and the page at `/docs`, without files from any other host."""
    plain = app.openapi

    def described() -> Schema:
        if app.openapi_schema is None:
            app.openapi_schema = complete(plain())
        return app.openapi_schema

    def docs() -> HTMLResponse:
        return get_swagger_ui_html(
            openapi_url="openapi.json",
            title=f"{app.title}: the API",
            swagger_js_url="docs/files/swagger-ui-bundle.js",
            swagger_css_url="docs/files/swagger-ui.css",
            swagger_favicon_url="data:,",
            swagger_ui_parameters={"validatorUrl": None, "displayOperationId": True, "docExpansion": "none"},
        )

    app.openapi = described
    app.add_api_route("/docs", docs, include_in_schema=False)
    app.mount("/docs/files", StaticFiles(directory=str(files("fastapi_offline") / "static")))


def complete(schema: Schema) -> Schema:
    """OpenAPI document with bodies, responses, errors, examples and tags."""
    schemas: Schema = {}
    problem = _shared(Error.model_json_schema(), schemas)
    for path, operation in _operations(schema):
        operation["tags"] = [next(tag for place, tag in PLACES.items() if path.startswith(place))]
        said = operation.pop(WIRE)
        if "takes" in said:
            operation["requestBody"] = _body(said, schemas)
        operation["responses"] = _answers(path, operation, said, schemas)
    schema["components"] = {
        "schemas": schemas,
        "responses": {REFUSALS[status][0]: _refusal(status, problem) for status in REFUSALS},
    }
    schema["tags"] = [{"name": name, "description": about} for name, about in TAGS.items()]
    return schema


def _operations(schema: Schema) -> Iterator[tuple[str, Schema]]:
    for path, item in schema["paths"].items():
        for operation in item.values():
            yield path, operation


def _body(said: Schema, schemas: Schema) -> Schema:
    example = EXAMPLES[said["takes"]["title"]]
    content = {"schema": _shared(said["takes"], schemas), "example": example}
    return {
        "description": SAID["take"],
        "required": not said["optional"],
        "content": {"application/json": content},
    }


def _answers(path: str, operation: Schema, said: Schema, schemas: Schema) -> Schema:
    status = next(s for s in operation["responses"] if s.startswith("2"))
    content: Schema = {"application/json": {"schema": _shared(said["gives"], schemas)}} if "gives" in said else {}
    if "events" in said["media"]:
        content[EVENTS] = {"itemSchema": ONE_EVENT, "example": said["media"]["events"]}
    if "bytes" in said["media"]:
        content["application/octet-stream"] = {"schema": {"type": "string", "format": "binary"}}
    about = f"{SAID['give']} {SAID['events']}" if EVENTS in content else SAID["give"]
    found: Schema = {status: {"description": about, "content": content}}
    found |= {str(s): {"description": "Not modified."} for s in said["refuses"] if s < 400}
    return found | {
        str(s): {"$ref": f"#/components/responses/{REFUSALS[s][0]}"} for s in _refused(path, operation, said)
    }


def _refused(path: str, operation: Schema, said: Schema) -> list[int]:
    """Error statuses of an operation: those that it declares, and those that follow from its parameters and body."""
    found = {s for s in said["refuses"] if s >= 400} | {421}
    if path.startswith("/v1"):
        found |= {*ALWAYS}
    if "takes" in said or operation.get("parameters"):
        found |= {400}
    if "takes" in said:
        found |= {413}
    if "{" in path:
        found |= {404}
    return sorted(found)


def _refusal(status: int, problem: Schema) -> Schema:
    _, about, message, param, code = REFUSALS[status]
    kind = KINDS.get(status, "invalid_request_error")
    example = {"error": {"message": message, "type": kind, "param": param, "code": code}}
    found: Schema = {"description": about, "content": {"application/json": {"schema": problem, "example": example}}}
    if status in (429, 503):
        found["headers"] = {"Retry-After": {"description": "Seconds.", "schema": {"type": "string"}}}
    return found


def _shared(schema: Schema, schemas: Schema) -> Schema:
    """Move a schema and its nested definitions to `components`; return the reference to it."""
    schema = dict(schema)
    title = schema["title"]
    for name, inner in {**schema.pop("$defs", {}), title: schema}.items():
        mine = _moved(inner)
        assert schemas.setdefault(name, mine) == mine, f"two schemas are called {name!r}"
    return {"$ref": REF + title}


def _moved(value: Any) -> Any:  # noqa: ANN401 - JSON
    """The same schema with its references pointing to `components`."""
    if isinstance(value, dict):
        return {k: REF + v.removeprefix("#/$defs/") if k == "$ref" else _moved(v) for k, v in value.items()}
    return [_moved(v) for v in value] if isinstance(value, list) else value
