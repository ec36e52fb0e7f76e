"""`/v1/steering/validate`: resolve a steering spec without generating."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request

from server.api.body import JsonBody
from server.api.dependencies import current_caller, current_model
from server.api.openapi import errors
from server.schemas.completions import Validated
from server.schemas.steering import ValidateRequest
from steering.catalogue.composition import cosines
from steering.spec import SteeringSpec

router = APIRouter(prefix="/v1", tags=["Steering"])


@router.post("/steering/validate", responses=errors(400, 404, 413), response_model_exclude_unset=True)
async def validate_steering(
    request: Request, body: Annotated[ValidateRequest, Depends(JsonBody(ValidateRequest))]
) -> Validated:
    """Resolve and check a steering object without running the model."""
    served = current_model(request)
    choice = await served.choose(body.model, body.steering, user=body.user, caller=current_caller(request))
    summary = choice.applied_summary()
    validated = Validated(
        valid=True,
        normalized=SteeringSpec.model_validate(choice.resolved.spec.model_dump()),  # with all fields set
        push_norm=choice.resolved.push_norm,
        applied=summary.applied,
        load=summary.load,
        predicted=summary.predicted,
        strained_from=served.bundle.info.strained_load,
        broken_from=served.bundle.info.broken_load,
        cosines=cosines(choice.resolved, served.bundle),
        warnings=summary.warnings,
        hash=summary.hash,
    )
    return validated if choice.cut is None else validated.model_copy(update={"cut": choice.cut})
