"""`/v1/chat/completions` and `/v1/completions` as OpenAI's clients expect them, plain and streamed. Knows routes.

Everything that can be refused is refused before the first byte; what breaks later is sent as an error
event and the stream ends without `[DONE]`.
"""

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from server import schemas
from server.api.dependencies import account_of
from server.api.openapi import CHUNKS, wire
from server.api.sse import streamed, while_connected
from server.chat.prepare import chat_reply, text_reply
from server.chat.reply import Reply, chunks, whole
from server.schemas.body import parse
from server.schemas.generation import ChatRequest, CompletionRequest
from server.serving.steering_choice import disclosed

router = APIRouter()


@router.post(
    "/v1/chat/completions",
    openapi_extra=wire(schemas.completions.ChatCompletion, 404, 429, takes=ChatRequest, events=CHUNKS),
)
async def create_chat_completion(request: Request) -> Response:
    """Chat, steered or not; `steering` in the body or a model id `base@preset` says how."""
    body = parse(ChatRequest, await request.body())
    asked = chat_reply(request.app.state.tiller, body, account_of(request))
    return await _answer(request, await while_connected(request, asked))


@router.post(
    "/v1/completions",
    openapi_extra=wire(schemas.completions.TextCompletion, 404, 429, takes=CompletionRequest, events=CHUNKS),
)
async def create_completion(request: Request) -> Response:
    """Continue raw text. It has no roles, so the scope `assistant` means `generated`."""
    body = parse(CompletionRequest, await request.body())
    asked = text_reply(request.app.state.tiller, body, account_of(request))
    return await _answer(request, await while_connected(request, asked))


async def _answer(request: Request, reply: Reply) -> Response:
    reply = reply.called(request.state.request_id)
    if reply.request.stream:
        answer: Response = await streamed(request, chunks(reply))
    else:
        answer = JSONResponse(await while_connected(request, whole(reply)))
    answer.headers.update(disclosed([part.choice for part in reply.parts]))
    return answer
