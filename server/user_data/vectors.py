"""Vectors from examples: the direction and its measured dose."""

import asyncio

from server.errors import bad_request
from server.features.read_samples import TOGETHER, passages, streams
from server.limits.account import Account
from server.schemas.user_data import VectorRequest
from server.serving.served_model import Tiller
from steering.doses.measure import Found
from steering.doses.vectors import direction_of, mean_row, measured
from steering.errors import SteeringError
from steering.interpret.directions import Direction

MOST = 100
"""Vectors of one user."""


async def find_direction(tiller: Tiller, body: VectorRequest, account: Account) -> Direction:
    """The direction that separates two sets of samples. Raises ApiError."""
    sides = [await passages(tiller, samples, name) for name, samples in (("a", body.a), ("b", body.b))]
    if sum(len(p.ids) for side in sides for p in side) > TOGETHER:
        raise bad_request(f"more than {TOGETHER} tokens in all; give shorter texts", param="a")
    async with account.reading(sum(len(p.ids) for side in sides for p in side)):
        rows = [[mean_row(p, x) for p, x in await streams(tiller, side)] for side in sides]
    try:
        return await asyncio.to_thread(direction_of, body.method, *rows)
    except SteeringError as error:
        raise bad_request(str(error), param="b") from error


async def measure_dose(tiller: Tiller, found: Direction) -> Found | None:
    """As measured; None where the model cannot be looked at, or does not chat."""
    info, tokenizer = tiller.bundle.info, tiller.engine.tokenizer
    try:
        return await tiller.engine.study(lambda model: measured(model, tokenizer, info, found.direction))
    except SteeringError:  # it steers all the same: dose 1.0 is then half of a typical length, and every reply says so
        return None
