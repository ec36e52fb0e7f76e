"""`/v1/steering/validate`: resolve a steering spec without generating."""

from typing import Any

from fastapi import APIRouter, Request

from server import schemas
from server.api.dependencies import current_caller, current_model
from server.api.openapi import wire
from server.schemas.body import parse_body
from server.schemas.steering import ValidateRequest
from steering.catalogue.composition import BROKEN, STRAINED, cosines

router = APIRouter(prefix="/v1")


@router.post("/steering/validate", openapi_extra=wire(schemas.completions.Validated, 404, takes=ValidateRequest))
async def validate_steering(request: Request) -> dict[str, Any]:
    """Resolve and check a steering object without running the model."""
    body = parse_body(ValidateRequest, await request.body())
    served = current_model(request)
    choice = await served.choose(body.model, body.steering, user=body.user, caller=current_caller(request))
    echo = choice.applied_summary()
    return {
        "valid": True,
        "normalized": choice.resolved.spec.model_dump(),
        "push_norm": choice.resolved.push_norm,
        **{k: echo[k] for k in ("applied", "load", "predicted", "warnings", "hash")},
        "strained_from": STRAINED,
        "broken_from": BROKEN,
        "cosines": cosines(choice.resolved, served.bundle),
        **({"cut": echo["cut"]} if "cut" in echo else {}),
    }
