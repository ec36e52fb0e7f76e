"""The least role that each route needs; a route that stands here under no name is nobody's. Knows addresses only."""

from fastapi import Request

from server.auth.caller import Caller, caller_of
from server.auth.keys import Role
from server.errors import ApiError

LEAST: dict[tuple[str, str], Role] = {
    ("POST", "/v1/chat/completions"): "viewer",
    ("POST", "/v1/completions"): "viewer",
    ("GET", "/v1/queue/{request_id}"): "viewer",
    ("POST", "/v1/steering/compare"): "viewer",
    ("POST", "/v1/steering/validate"): "viewer",
    ("POST", "/v1/steering/suggest"): "user",
    ("POST", "/v1/steering/sweep"): "creator",
    ("GET", "/v1/models"): "viewer",
    ("GET", "/v1/models/{model_id:path}"): "viewer",
    ("GET", "/v1/features"): "viewer",
    ("POST", "/v1/features/search"): "viewer",
    ("POST", "/v1/features/contrast"): "user",
    ("GET", "/v1/features/{feature_id:path}"): "viewer",
    ("PATCH", "/v1/features/{feature_id:path}"): "creator",
    ("POST", "/v1/features/{feature_id:path}/calibrate"): "admin",
    ("GET", "/v1/features-map"): "viewer",
    ("GET", "/v1/features-map/meta"): "viewer",
    ("POST", "/v1/analyze"): "viewer",
    ("POST", "/v1/attribute"): "user",
    ("POST", "/v1/vectors"): "researcher",
    ("GET", "/v1/vectors"): "viewer",
    ("DELETE", "/v1/vectors/{name}"): "viewer",
    ("POST", "/v1/feedback"): "viewer",
    ("GET", "/v1/feedback"): "viewer",
    ("DELETE", "/v1/feedback"): "viewer",
    ("GET", "/v1/presets"): "viewer",
    ("GET", "/v1/presets/{preset_id}"): "viewer",
    ("POST", "/v1/presets"): "creator",
    ("PUT", "/v1/presets/{preset_id}"): "creator",
    ("DELETE", "/v1/presets/{preset_id}"): "creator",
    ("GET", "/v1/presets/export"): "viewer",
    ("POST", "/v1/presets/import"): "creator",
    ("GET", "/v1/export"): "viewer",
    ("POST", "/v1/import"): "creator",
    ("GET", "/v1/shares/{share_id}"): "viewer",
    ("POST", "/v1/shares"): "user",
    ("DELETE", "/v1/shares/{share_id}"): "user",
    ("GET", "/v1/saes"): "viewer",
    ("GET", "/v1/saes/{revision}"): "viewer",
    ("GET", "/v1/saes/{revision}/changes"): "viewer",
    ("POST", "/v1/saes/rollback"): "admin",
    ("POST", "/v1/saes/{revision}/activate"): "admin",
    ("GET", "/v1/training/consent"): "viewer",
    ("PUT", "/v1/training/consent"): "viewer",
    ("DELETE", "/v1/training/texts"): "viewer",
    ("GET", "/v1/training/drift"): "viewer",
    ("GET", "/v1/jobs"): "viewer",
    ("POST", "/v1/jobs"): "admin",
    ("GET", "/v1/jobs/{job_id}"): "viewer",
    ("GET", "/v1/jobs/{job_id}/events"): "viewer",
    ("GET", "/v1/jobs/{job_id}/artifacts"): "viewer",
    ("POST", "/v1/jobs/{job_id}/cancel"): "creator",
    ("POST", "/v1/jobs/{job_id}/pause"): "creator",
    ("POST", "/v1/jobs/{job_id}/resume"): "creator",
    ("DELETE", "/v1/jobs/{job_id}"): "creator",
    ("GET", "/v1/limits"): "viewer",
    ("GET", "/v1/me"): "viewer",
    ("DELETE", "/v1/me"): "viewer",
    ("GET", "/v1/keys"): "admin",
    ("POST", "/v1/keys"): "admin",
    ("DELETE", "/v1/keys/{key_id}"): "admin",
    ("DELETE", "/v1/sessions"): "admin",
}


def beyond(caller: Caller) -> dict[str, Role]:
    """The routes for which a caller's role is too low, with the least that they need."""
    return {f"{method} {path}": least for (method, path), least in LEAST.items() if not caller.may(least)}


async def permitted(request: Request) -> None:
    """Raise ApiError for a caller whose role is too low; before anything else of the request is looked at."""
    route = request.scope["route"].path
    least, caller = LEAST[request.method, route], caller_of(request)
    if not caller.may(least):
        raise ApiError(
            403,
            f"this needs a key with the role {least!r} or above; yours has {caller.role!r}",
            code="role_too_low",
            kind="permission_error",
        )
