"""How the API describes itself: what each route takes and gives, how it refuses, and the page that shows it. Knows no route's insides.

A route says its own part with `wire`; what holds for all, tags, errors and their examples, is said here once.
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
"""How a reply streams."""
EVENT = 'id: 2\nevent: metric\ndata: {"progress": 0.25}\n\n'
"""How a job is followed."""
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
    "take": "What is asked.",
    "give": "What is answered.",
    "events": "Server-sent events, where that is asked for; a chat's end with `[DONE]`.",
}

TAGS = {
    "Chat": "OpenAI's own routes, with `steering` beside the fields that OpenAI has.",
    "Models": "The model, and an id for each persona.",
    "Steering": "What a steering would do; several side by side; sliders for a wish.",
    "Features": "Find features, read all of one, call them something.",
    "Text": "What a text evokes, what tells texts apart, why a token comes.",
    "Presets": "Personas: a steering under a name.",
    "Users": "What is kept of a user: vectors, votes, consent; out and in as one document.",
    "Shares": "A steering under an address, where the server allows it.",
    "SAE": "The revisions of the SAE, and what the trainer has seen.",
    "Jobs": "Long work: begin it, follow it, end it.",
    "Keys": "Who may do what, and who you are here.",
    "Server": "What this server is and allows.",
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
"""Which tag an address has: the first that it begins with."""


class Problem(BaseModel):
    """What went wrong; some say more beside OpenAI's four keys."""

    message: str = Field(description="A sentence for a person: what is wrong, and the way out.")
    type: str
    param: str | None = Field(description="Which part of the request, such as `steering.features.0.id`.")
    code: str | int | None = Field(description="What a program tells errors apart by.")


class Error(BaseModel):
    """An error in OpenAI's shape."""

    error: Problem


REFUSALS: dict[int, tuple[str, str, str, str | None, str | int]] = {
    400: ("BadRequest", "Something in the request cannot be.", "temperature: at most 2 is wanted, not 3", "temperature", "invalid_value"),
    401: ("Unauthorized", "Where a server has keys, every request needs one.", "no key was given; send one as \"Authorization: Bearer sk-tiller-…\": whoever runs this server makes them with `tiller keys new`", None, "invalid_api_key"),
    403: ("Forbidden", "This may not be changed, is switched off, or needs a key with more rights.", "'golden-gate' comes with the model and cannot be changed; save yours under another id", "id", "preset_readonly"),
    404: ("NotFound", "There is no such thing.", "the model 'gpt' does not exist; GET /v1/models lists those that do", "model", "model_not_found"),
    409: ("Conflict", "What is there stands against it.", "there is a preset 'mine' already; choose another id, or PUT to replace it", "id", "preset_exists"),
    412: ("PreconditionFailed", "Somebody has changed it since.", "'mine' is at version 3, not 2; read it again and repeat your change", "If-Match", "version_conflict"),
    413: ("TooLarge", "The body is too large.", "the body is larger than 1048576 bytes; send less", None, "body_too_large"),
    421: ("WrongHost", "A server on loopback was called by another name.", "this server answers on this machine only, not as 'example.org'", None, "wrong_host"),
    429: ("TooMany", "The queue is full, or a key's limit is reached; `Retry-After` says when to come back.", "64 requests are waiting already; try again in 8 seconds", None, "rate_limit_exceeded"),
    500: ("Broken", "A bug; the server's log has the traceback.", "something broke in the server; the log has the traceback", None, "internal_error"),
    503: ("Loading", "The model is being loaded, or the store is lost (`store_unavailable`); `Retry-After` says when to come back.", "Loading model", None, 503),
}  # fmt: skip
"""Name, description, and an example's message, param and code."""
KINDS = {403: "permission_error", 429: "rate_limit_error", 500: "server_error", 503: "unavailable_error"}
ALWAYS = (401, 403, 421, 429, 500, 503)
"""Any route below /v1 may answer so."""


def wire(
    gives: type[BaseModel] | None,
    *refuses: int,
    takes: type[BaseModel] | None = None,
    optional: bool = False,
    **media: str,
) -> dict[str, Any]:
    """Say of a route what it takes, gives and refuses; `media` are other forms of the answer, `events` or `bytes`."""
    said: Schema = {"refuses": refuses, "optional": optional, "media": media}
    if gives:
        said["gives"] = gives.model_json_schema(mode="serialization")
    if takes:
        said["takes"] = takes.model_json_schema()
    return {WIRE: said}


def install(app: FastAPI) -> None:
    """Have the application describe itself, at `/openapi.json` and `/docs`, with nothing from any other host."""
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
    """The description with bodies, answers, errors, examples and tags."""
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
    found |= {str(s): {"description": "As it was."} for s in said["refuses"] if s < 400}
    return found | {
        str(s): {"$ref": f"#/components/responses/{REFUSALS[s][0]}"} for s in _refused(path, operation, said)
    }


def _refused(path: str, operation: Schema, said: Schema) -> list[int]:
    """All statuses above 400 that an operation may answer with, from what it says itself and from what it takes."""
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
    """Move a model's schema, and those within it, to those that all share; what remains is where it is."""
    schema = dict(schema)
    title = schema["title"]
    for name, inner in {**schema.pop("$defs", {}), title: schema}.items():
        mine = _moved(inner)
        assert schemas.setdefault(name, mine) == mine, f"two schemas are called {name!r}"
    return {"$ref": REF + title}


def _moved(value: Any) -> Any:  # noqa: ANN401 - JSON
    """The same with its references to where the shared schemas are."""
    if isinstance(value, dict):
        return {k: REF + v.removeprefix("#/$defs/") if k == "$ref" else _moved(v) for k, v in value.items()}
    return [_moved(v) for v in value] if isinstance(value, list) else value
