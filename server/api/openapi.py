"""OpenAPI document: what FastAPI derives from the routes, with request bodies and shared errors; the `/docs` page."""

from collections.abc import Iterator, Sequence
from importlib.resources import files
from typing import Any

from fastapi import FastAPI
from fastapi.encoders import jsonable_encoder
from fastapi.openapi.constants import REF_TEMPLATE
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.routing import APIRoute
from pydantic import BaseModel, Field
from starlette.responses import HTMLResponse
from starlette.staticfiles import StaticFiles

from server.api.body import JsonBody
from server.api.openapi_examples import EXAMPLES

Schema = dict[str, Any]
Responses = dict[int | str, dict[str, Any]]
TAGS = [
    {
        "name": "Chat",
        "description": "OpenAI-compatible chat and text completions, with an additional `steering` field.",
    },
    {"name": "Models", "description": "List the model and its personas; each has a model id."},
    {
        "name": "Steering",
        "description": "Validate a steering object, compare several, or get sliders suggested for a prompt.",
    },
    {"name": "Features", "description": "Search and list SAE features, retrieve one, edit its label."},
    {
        "name": "Text",
        "description": "Feature activations of a text, features that separate two sets of texts, attribution of a token.",
    },
    {"name": "Presets", "description": "Personas: steering saved under a name."},
    {"name": "Users", "description": "A user's data: vectors, votes, consent; export and import as one document."},
    {"name": "Shares", "description": "Share a steering by link, if the server allows it."},
    {"name": "SAE", "description": "SAE revisions, their changes, and the trainer's drift measurements."},
    {"name": "Jobs", "description": "Long-running jobs: create, follow, cancel."},
    {"name": "Keys", "description": "API keys, their roles and limits."},
    {"name": "Server", "description": "Server limits, health and version."},
]
"""Tags of the routers, in the order of the page."""


class Problem(BaseModel):
    """Error details; some errors have fields beside OpenAI's four."""

    message: str = Field(description="Human-readable message: what is wrong, and how to fix it.")
    type: str
    param: str | None = Field(description="The request field at fault, such as `steering.features.0.id`.")
    code: str | int | None = Field(description="Machine-readable error code.")


class Error(BaseModel):
    """Error response in OpenAI's format."""

    error: Problem


ERRORS: dict[int, tuple[str, str, str, str | None, str | int]] = {
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
"""Name, description, and the message, param and code of an example, by status."""
KINDS = {403: "permission_error", 429: "rate_limit_error", 500: "server_error", 503: "unavailable_error"}
ALWAYS = (401, 403, 421, 429, 500, 503)
"""Errors of any route below /v1."""
CHUNKS = 'data: {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": "Ahoy"}, "finish_reason": null}], …}\n\ndata: [DONE]\n\n'
"""Example of a streamed chat completion."""
JOB_EVENT = 'id: 2\nevent: metric\ndata: {"progress": 0.25}\n\n'
"""Example of a job's event stream."""
SERVER_SENT_EVENT: Schema = {
    "type": "object",
    "required": ["data"],
    "properties": {
        "id": {"type": "string"},
        "event": {"type": "string"},
        "data": {"type": "string", "contentMediaType": "application/json"},
    },
}


def errors(*statuses: int) -> Responses:
    """Error responses of a route, for its `responses`."""
    return {status: {"$ref": f"#/components/responses/{ERRORS[status][0]}"} for status in statuses}


def event_stream(example: str) -> Responses:
    """Server-sent events as the successful response of a route, for its `responses`."""
    content = {"text/event-stream": {"itemSchema": SERVER_SENT_EVENT, "example": example}}
    return {
        200: {
            "description": "Server-sent events, if requested; a chat stream ends with `data: [DONE]`.",
            "content": content,
        }
    }


STREAMED_CHAT = event_stream(CHUNKS) | errors(400, 404, 413)
"""Responses of a route that answers with one chat or several, whole or streamed."""


def install(app: FastAPI, routes: Sequence[APIRoute]) -> None:
    """Serve the document at `/openapi.json` and the page at `/docs`, without files from any other host."""
    derive = app.openapi

    def openapi() -> Schema:
        if app.openapi_schema is None:
            derive()
            assert app.openapi_schema is not None
            _add_bodies_and_errors(app.openapi_schema, routes)
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

    app.openapi = openapi
    app.add_api_route("/docs", docs, include_in_schema=False)
    app.mount("/docs/files", StaticFiles(directory=str(files("fastapi_offline") / "static")))


def _add_bodies_and_errors(document: Schema, routes: Sequence[APIRoute]) -> None:
    """Add what FastAPI does not derive: bodies of `JsonBody` dependencies, and errors in OpenAI's format."""
    bodies = {route.operation_id or route.name: body for route in routes for body in _bodies(route)}
    models = [Error, *dict.fromkeys(body.model for body in bodies.values())]
    definitions: Schema = {}
    for model in models:
        schema = model.model_json_schema(ref_template=REF_TEMPLATE)
        definitions |= schema.pop("$defs", {}) | {model.__name__: schema}
    schemas = document["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        del schemas[name]
    for name, schema in jsonable_encoder(definitions, exclude_none=True).items():
        assert schemas.setdefault(name, schema) == schema, f"two schemas are called {name!r}"
    document["components"]["responses"] = {ERRORS[status][0]: _error_response(status) for status in ERRORS}
    for operation in (o for path in document["paths"].values() for o in path.values()):
        operation["responses"].pop("422", None)
        if body := bodies.get(operation["operationId"]):
            operation["requestBody"] = _request_body(body)


def _bodies(route: APIRoute) -> Iterator[JsonBody[Any]]:
    return (d.call for d in route.dependant.dependencies if isinstance(d.call, JsonBody))


def _request_body(body: JsonBody[Any]) -> Schema:
    name = body.model.__name__
    content = {"schema": {"$ref": REF_TEMPLATE.format(model=name)}, "example": EXAMPLES[name]}
    return {"required": not body.optional, "content": {"application/json": content}}


def _error_response(status: int) -> Schema:
    _, description, message, param, code = ERRORS[status]
    kind = KINDS.get(status, "invalid_request_error")
    example = {"error": {"message": message, "type": kind, "param": param, "code": code}}
    content = {"schema": {"$ref": REF_TEMPLATE.format(model=Error.__name__)}, "example": example}
    found: Schema = {"description": description, "content": {"application/json": content}}
    if status in (429, 503):
        found["headers"] = {"Retry-After": {"description": "Seconds.", "schema": {"type": "string"}}}
    return found
