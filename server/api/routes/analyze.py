"""`/v1/analyze`: feature activations of a text, and its tokens."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from server.api.body import JsonBody
from server.api.dependencies import current_account, current_model
from server.api.openapi import errors
from server.errors import bad_request
from server.executors import READING, run_in
from server.features.analysis_json import analysis_answer, compared_features
from server.features.read_text import MAX_TOKENS, read_text
from server.schemas import analysis
from server.schemas.analysis import AnalyzeRequest
from steering.interpret.analysis import analyse

router = APIRouter(prefix="/v1", tags=["Text"])
MAX_FIRINGS, MAX_ACTIVATIONS = 8 * MAX_TOKENS, 24 * MAX_TOKENS
"""Maximum numbers in an answer: as many as the longest text has with the defaults."""


@router.post(
    "/analyze",
    response_model=analysis.Analysis,
    responses=errors(400, 404, 413),
    response_model_exclude_unset=True,
)
async def analyze_text(
    request: Request, body: Annotated[AnalyzeRequest, Depends(JsonBody(AnalyzeRequest))]
) -> Response:
    """Feature activations by token, by speaker and over the text; with `other`, the differences
    between the two texts."""
    served = current_model(request)
    await served.choose(body.model, None)  # fails while the model is loading
    bundle = served.bundle
    bundle.sae.check_reads()
    rows = None if body.features is None else [served.catalogue.find(f)[1].row for f in body.features]
    account, reported = current_account(request), body.limit if rows is None else len(rows)

    def check(tokens: int) -> None:
        _check_output(tokens, body.top_k, MAX_FIRINGS, "top_k")
        _check_output(tokens, reported, MAX_ACTIVATIONS, "limit" if rows is None else "features")

    passage, stream, cut = await read_text(served, body, account, check=check)
    other = await read_text(served, body.other, account) if body.other else None

    def answer() -> bytes:
        found = analyse(
            bundle, passage, stream, top=body.top_k, features=body.limit, only=rows, threshold=body.threshold
        )
        told = analysis_answer(bundle, found, truncated=cut)
        if other:
            told.compared = compared_features(bundle, (passage, stream), other[:2], features=body.limit)
        return told.model_dump_json(exclude_unset=True).encode()

    # FastAPI would validate and dump the answer, which may be megabytes, in the event loop.
    return Response(await run_in(READING, answer), media_type="application/json")


def _check_output(tokens: int, each: int, most: int, param: str) -> None:
    """Raises ApiError if the answer would be too long, before the model reads the text."""
    if tokens * each > most:
        raise bad_request(
            f"{param} of {each} for {tokens} tokens is more than the {most:,} numbers of one answer: ask for at most "
            f"{most // tokens}, or send a shorter text",
            param=param,
        )
