"""Chat replies on the page: the request of each pane, the display of a stream, and of an interrupted one."""

import json

import httpx
import pytest

from tests.ui.test_page import RANGE, finished, last, notes, pick, send

pytestmark = pytest.mark.browser

FAKE = """(streams) => {
    const real = window.fetch, encoder = new TextEncoder();
    window.fetch = (url, options) => {
        if (!String(url).endsWith('/chat/completions')) return real(url, options);
        const { events, open } = streams[JSON.parse(options.body).steering ? 'steered' : 'default'];
        return Promise.resolve(new Response(new ReadableStream({ start(stream) {
            for (const event of events) stream.enqueue(encoder.encode(`data: ${JSON.stringify(event)}\\n\\n`));
            if (!open) return stream.close();
            options.signal.addEventListener('abort', () => stream.error(new DOMException('', 'AbortError')));
        } })));
    };
}"""
"""Answers chats with given events; an open stream waits for its abortion after the last of them."""

STREAM = """async () => {
    const { streamReply } = await import('/page/chat/reply_stream.js');
    const reply = { text: '' }, seen = [], onChange = () => seen.push(JSON.parse(JSON.stringify(reply)));
    await streamReply({ steering: {} }, reply, { signal: new AbortController().signal, onChange });
    return [reply, seen];
}"""


def piece(text, **more):
    return {"choices": [{"delta": {"content": text}, **more}]}


END = {"choices": [{"delta": {}, "finish_reason": "stop"}]}


def asked_of_each_side(page, *messages):
    """Send messages; return the last one's two requests."""
    bodies = []
    page.on("request", lambda r: bodies.append(json.loads(r.post_data)) if "completions" in r.url else None)
    for message in messages:
        send(page, message)
        page.wait_for_function(f"document.querySelector('#steered-pane .turn:last-child .user-row').innerText === {message!r}")  # fmt: skip
        finished(page)
    steered, default = sorted(bodies[-2:], key=lambda body: "steering" not in body)
    return steered, default


def test_each_side_is_asked_after_its_own_history_with_the_same_sampling(page):
    pick(page)
    page.click("#sampling summary")
    page.fill("#system", "Be brief.")
    page.fill("#top-p", "")
    page.press("#top-p", "Tab")
    send(page, "hello there")
    finished(page)
    said = {side: page.evaluate(f"import('/page/chat/conversation.js').then((m) => m.conversation.turns[0].{side}.text)") for side in ("steered", "default")}  # fmt: skip
    steered, default = asked_of_each_side(page, "and now?")

    for body, side in ((steered, "steered"), (default, "default")):
        assert [m["role"] for m in body["messages"]] == ["system", "user", "assistant", "user"]
        assert [m["content"] for m in body["messages"]] == ["Be brief.", "hello there", said[side], "and now?"]
        assert (body["temperature"], body["max_tokens"], body["seed"]) == (0.5, 160, 7)
        assert "top_p" not in body  # what is left empty is the server's choice
        assert body["stream"]
        assert body["logprobs"]
    assert said["steered"] != said["default"]
    assert steered["steering"]["features"] == [{"id": "small/1", "strength": 0.8, "mode": "add"}]
    assert (steered["steering"]["unit"], steered["steering"]["scope"]) == ("dose", "assistant")
    assert "steering" not in default
    assert steered["user"] == default["user"] == page.evaluate("JSON.parse(localStorage['tiller.me']).value")


def test_messages_sent_right_after_each_other_all_get_their_replies(page):
    texts = page.evaluate(
        """async (n) => {
        const { conversation, onConversationChange, sendMessage } = await import('/page/chat/conversation.js');
        conversation.sampling.max_tokens = 4;
        await new Promise((done) => {
            onConversationChange(() => {
                if (conversation.busy) return;
                if (conversation.turns.length === n) return done();
                queueMicrotask(() => sendMessage(`message ${conversation.turns.length + 1}`));
            });
            sendMessage('message 1');
        });
        return conversation.turns.map((turn) => [turn.question, turn.default.ended, turn.steered.ended, turn.steered.problem]);
    }""",
        6,
    )
    assert texts == [[f"message {i}", True, True, None] for i in range(1, 7)]


@pytest.mark.parametrize("error", [None, {"error": {"message": "the engine failed", "code": "engine_failed"}}])
def test_replies_that_break_off_say_so_on_both_sides_and_keep_what_came(page, error):
    steered = [piece("ar") | {"steering": {"applied": []}}, *([error] if error else [])]
    page.evaluate(FAKE, {"steered": {"events": steered}, "default": {"events": [piece("good")], "open": True}})
    send(page, "hello there")
    page.wait_for_selector("#steered-pane .problem")

    reason = "the engine failed" if error else "the server ended the stream before the reply was complete"
    for pane, text in (("steered", "ar"), ("default", "good")):
        assert last(page, pane).strip() == text
        assert f"The reply broke off here: {reason}" in notes(page, pane)
    assert "not steered" in notes(page, "steered")
    page.wait_for_selector("#send")


def test_nothing_is_said_of_steering_that_was_never_told(page):
    page.evaluate(FAKE, {side: {"events": [piece("ar")]} for side in ("steered", "default")})
    send(page, "hello there")
    page.wait_for_selector("#steered-pane .problem")

    assert "not steered" not in notes(page, "steered")
    assert "not steered" in notes(page, "default")


def test_a_reply_that_was_complete_before_stop_is_not_said_to_be_stopped(page):
    streams = {
        "default": {"events": [piece("all of it"), END]},
        "steered": {"events": [piece("half of")], "open": True},
    }
    page.evaluate(FAKE, streams)
    send(page, "hello there")
    page.wait_for_function("document.querySelector('#default-pane .reply-text').textContent === 'all of it'")
    page.wait_for_function("document.querySelector('#steered-pane .reply-text').textContent === 'half of'")
    page.click("#stop")

    chips = {p: page.locator(f"#{p}-pane .notes .chip").all_inner_texts() for p in ("default", "steered")}
    assert "stopped" not in chips["default"]
    assert "stopped" in chips["steered"]


def test_an_error_before_the_first_word_is_a_refusal_of_both(page):
    error = {"error": {"message": "there is no room", "code": "overloaded"}}
    page.evaluate(FAKE, {"steered": {"events": [error]}, "default": {"events": [], "open": True}})
    send(page, "hello there")
    page.wait_for_selector(".refusal .problem")

    assert page.inner_text(".refusal") == "No reply: there is no room"
    assert page.input_value("#message textarea") == "hello there"
    assert page.locator(".turn").count() == 0


def test_a_server_that_is_gone_is_told_and_the_text_comes_back(browser, address):
    page = browser.new_page()
    page.goto(address)
    page.wait_for_selector("#cards .card")
    page.route("**/v1/chat/completions", lambda route: route.abort())
    send(page, "hello there")
    page.wait_for_selector(".refusal .problem")

    assert "connection to the server was lost" in page.inner_text(".refusal")
    assert page.input_value("#message textarea") == "hello there"
    page.close()


def test_what_was_applied_is_there_from_the_beginning_and_tokens_with_the_end(page):
    token = {"token": "hi", "logprob": -0.10001, "top_logprobs": [{"token": "ho", "logprob": -2.0}]}
    first = piece("hi", logprobs={"content": [token]}) | {"steering": {"hash": "s"}}
    page.evaluate(FAKE, {"steered": {"events": [first, END]}})
    reply, seen = page.evaluate(STREAM)

    assert seen[0] == {"text": "hi", "before": None, "ended": False, "steering": {"hash": "s"}}
    assert reply == seen[0] | {"ended": True, "tokens": [{"token": "hi", "logprob": -0.1, "top": [["ho", -2]]}]}


def test_tokens_that_make_one_character_together_join_to_the_text(page):
    tokens = [{"token": "�", "logprob": -1, "bytes": part} for part in ([0xC3], [0xA4], [0x68])]
    events = [piece(text, logprobs={"content": [token]}) for text, token in zip(["", "ä", "h"], tokens, strict=True)]
    page.evaluate(FAKE, {"steered": {"events": [*events, END]}})
    reply, _ = page.evaluate(STREAM)

    assert [t["token"] for t in reply["tokens"]] == ["", "ä", "h"]
    assert reply["text"] == "äh"


def test_a_body_that_the_server_cannot_read_is_refused_with_its_sentence(page, address):
    body = {"model": "small", "messages": [{"role": "user", "content": "hi"}], "steering": {"features": [{"id": "small/1", "strength": 0.5, "mode": "explode"}]}}  # fmt: skip
    refusal = httpx.post(f"{address}/v1/chat/completions", json=body).json()["error"]["message"]
    pick(page)
    page.evaluate("import('/page/panel/slider_state.js').then((m) => { m.state.rows[0].mode = 'explode'; })")
    send(page, "hello there")
    page.wait_for_selector(".refusal .problem")

    assert page.inner_text(".refusal") == f"No reply: {refusal}"
    assert page.locator(RANGE).count() == 1
