"""OpenAI-compatible `/v1/chat/completions` and `/v1/completions`, complete and streamed.

All validation runs before the first byte; a later error is sent as an error event, and the stream
ends without `[DONE]`.
"""

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import StreamingResponse

from server.api.body import JsonBody
from server.api.dependencies import current_account, current_model
from server.api.openapi import STREAMED_CHAT
from server.api.sse import cancel_on_disconnect, sse_response
from server.chat.prepare import prepare_chat, prepare_completion
from server.chat.reply import Reply, complete, stream_chunks
from server.schemas.completions import ChatCompletion, TextCompletion
from server.schemas.generation import ChatRequest, CompletionRequest
from server.serving.steering_choice import steering_headers

router = APIRouter(tags=["Chat"])


@router.post(
    "/v1/chat/completions", response_model=ChatCompletion, response_model_exclude_unset=True, responses=STREAMED_CHAT
)
async def create_chat_completion(
    request: Request, response: Response, body: Annotated[ChatRequest, Depends(JsonBody(ChatRequest))]
) -> ChatCompletion | TextCompletion | StreamingResponse:
    """Chat completion, steered by `steering` in the body or by a model id `base@preset`."""
    asked = prepare_chat(current_model(request), body, current_account(request))
    return await _answer(request, response, await cancel_on_disconnect(request, asked))


@router.post(
    "/v1/completions", response_model=TextCompletion, response_model_exclude_unset=True, responses=STREAMED_CHAT
)
async def create_completion(
    request: Request, response: Response, body: Annotated[CompletionRequest, Depends(JsonBody(CompletionRequest))]
) -> ChatCompletion | TextCompletion | StreamingResponse:
    """Text completion. Raw text has no roles, so the scope `assistant` means `generated`."""
    asked = prepare_completion(current_model(request), body, current_account(request))
    return await _answer(request, response, await cancel_on_disconnect(request, asked))


async def _answer(
    request: Request, response: Response, reply: Reply
) -> ChatCompletion | TextCompletion | StreamingResponse:
    reply = reply.with_name(request.state.request_id)
    headers = steering_headers([part.choice for part in reply.parts])
    if reply.request.stream:
        return await sse_response(request, stream_chunks(reply), headers)
    answer = await cancel_on_disconnect(request, complete(reply))
    response.headers.update(headers)
    return answer
