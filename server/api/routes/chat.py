"""OpenAI-compatible `/v1/chat/completions` and `/v1/completions`, complete and streamed.

All validation runs before the first byte; a later error is sent as an error event, and the stream
ends without `[DONE]`.
"""

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from server import schemas
from server.api.dependencies import current_account, current_model
from server.api.openapi import CHUNKS, wire
from server.api.sse import cancel_on_disconnect, sse_response
from server.chat.prepare import prepare_chat, prepare_completion
from server.chat.reply import Reply, complete, stream_chunks
from server.schemas.body import parse_body
from server.schemas.generation import ChatRequest, CompletionRequest
from server.serving.steering_choice import steering_headers

router = APIRouter()


@router.post(
    "/v1/chat/completions",
    openapi_extra=wire(schemas.completions.ChatCompletion, 404, 429, takes=ChatRequest, events=CHUNKS),
)
async def create_chat_completion(request: Request) -> Response:
    """Chat completion, steered by `steering` in the body or by a model id `base@preset`."""
    body = parse_body(ChatRequest, await request.body())
    asked = prepare_chat(current_model(request), body, current_account(request))
    return await _answer(request, await cancel_on_disconnect(request, asked))


@router.post(
    "/v1/completions",
    openapi_extra=wire(schemas.completions.TextCompletion, 404, 429, takes=CompletionRequest, events=CHUNKS),
)
async def create_completion(request: Request) -> Response:
    """Text completion. Raw text has no roles, so the scope `assistant` means `generated`."""
    body = parse_body(CompletionRequest, await request.body())
    asked = prepare_completion(current_model(request), body, current_account(request))
    return await _answer(request, await cancel_on_disconnect(request, asked))


async def _answer(request: Request, reply: Reply) -> Response:
    reply = reply.with_name(request.state.request_id)
    if reply.request.stream:
        answer: Response = await sse_response(request, stream_chunks(reply))
    else:
        answer = JSONResponse(await cancel_on_disconnect(request, complete(reply)))
    answer.headers.update(steering_headers([part.choice for part in reply.parts]))
    return answer
