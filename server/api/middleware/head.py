"""HEAD requests: answered as GET is, without the body (RFC 9110, 9.3.2)."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send


async def answer_head(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Serve a HEAD request by the application's GET; a stream ends after its headers, with what generates it."""
    ended = False

    async def headers_only(message: Message) -> None:
        nonlocal ended
        if message["type"] == "http.response.start":
            await send(message)
        elif not ended:
            ended = True
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def gone_after_headers() -> Message:
        return {"type": "http.disconnect"} if ended else await receive()

    await app({**scope, "method": "GET"}, gone_after_headers, headers_only)
