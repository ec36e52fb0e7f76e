"""Vectors from examples: the direction and its measured dose."""

import asyncio

from server.errors import bad_request
from server.features.read_samples import MAX_TOKENS, encode_samples, record_samples
from server.limits.account import Account
from server.schemas.user_data import VectorRequest
from server.serving.served_model import ServedModel
from steering.doses.measure import MeasuredDose
from steering.doses.vectors import direction_of, mean_row, measure_vector_dose
from steering.errors import SteeringError
from steering.interpret.directions import Direction

MAX_VECTORS = 100
"""Maximum number of vectors per user."""


async def find_direction(served: ServedModel, body: VectorRequest, account: Account) -> Direction:
    """The direction that separates two sets of samples. Raises ApiError."""
    sides = [await encode_samples(served, samples, name) for name, samples in (("a", body.a), ("b", body.b))]
    if sum(len(p.ids) for side in sides for p in side) > MAX_TOKENS:
        raise bad_request(f"more than {MAX_TOKENS} tokens in all; give shorter texts", param="a")
    async with account.charge_reading(sum(len(p.ids) for side in sides for p in side)):
        rows = [[mean_row(p, x) for p, x in await record_samples(served, side)] for side in sides]
    try:
        return await asyncio.to_thread(direction_of, body.method, *rows)
    except SteeringError as error:
        raise bad_request(str(error), param="b") from error


async def measure_dose(served: ServedModel, found: Direction) -> MeasuredDose | None:
    """The vector with its dose; unmeasured if the model is not in this process, or has no chat template."""
    info, tokenizer = served.bundle.info, served.engine.tokenizer
    try:
        return await served.engine.with_model(
            lambda model: measure_vector_dose(model, tokenizer, info, found.direction)
        )
    except SteeringError:  # still usable: dose 1.0 is half of a typical length, and every reply warns about it
        return None
