"""What is asked, checked: which steering, which tokens, and what the guards say of each prompt. Knows no wire and no routes.

A request only becomes a `Reply` when nothing about it has to be refused any more.
"""

import asyncio
import time
import uuid
from collections.abc import Sequence

from server.auth.caller import Caller
from server.chat.reply import Part, Reply, at_once
from server.errors import bad_request
from server.limits.account import NOBODYS, Account
from server.schemas.generation import ChatRequest, CompletionRequest, GenerationRequest, Prompt
from server.schemas.steering import SteeringRequest
from server.serving.served_model import Tiller
from server.serving.steering_choice import Choice
from server.telemetry import metrics, tracing
from server.user_data.feedback import own
from steering.model.chat_template import EncodedChat


async def chat_reply(tiller: Tiller, body: ChatRequest, account: Account = NOBODYS) -> Reply:
    """Check a chat. Raises ApiError and SteeringError."""
    choice = await _chosen(tiller, body, account)
    messages = body.chat()
    if choice.preset and choice.preset.system_prompt and all(m["role"] != "system" for m in messages):
        messages = [{"role": "system", "content": choice.preset.system_prompt}, *messages]
    prompt = await asyncio.to_thread(tiller.engine.encode_chat, messages)
    return await _reply(tiller, choice, body, {"messages": prompt}, account)


async def text_reply(tiller: Tiller, body: CompletionRequest, account: Account = NOBODYS) -> Reply:
    """Check raw text that is to be continued. Raises ApiError and SteeringError."""
    choice = await _chosen(tiller, body, account)
    prompts = {p.place: await asyncio.to_thread(_encoded, tiller, p) for p in body.prompt}
    return await _reply(tiller, choice, body, prompts, account)


def _encoded(tiller: Tiller, prompt: Prompt) -> EncodedChat:
    """A prompt's tokens. It has no roles, so the scope `assistant` means `generated`."""
    place, said = prompt
    if isinstance(said, str):
        ids, text = tiller.engine.encode(said), said
        if not ids:
            raise bad_request(f"{place} is empty and this model has no token to begin with", param=place)
    else:
        _check_known(tiller, said, place, each=True)
        ids, text = said, tiller.engine.decode(said)
    return EncodedChat(ids, (False,) * (len(ids) - 1) + (True,), text)


def _check_known(tiller: Tiller, ids: Sequence[int], place: str, *, each: bool = False) -> None:
    """Raises ApiError for a token that the model has not; `each` has a place of its own."""
    size = tiller.engine.vocab_size
    if (at := next((i for i, token in enumerate(ids) if not 0 <= token < size), None)) is not None:
        place = f"{place}.{at}" if each else place
        raise bad_request(f"{place}: token {ids[at]} is not in the vocabulary of {size} tokens", param=place)


async def _chosen(tiller: Tiller, body: GenerationRequest, account: Account) -> Choice:
    """What is steered, checked, and counted among the caller's steerings."""
    asked = await _with_own_defaults(tiller, body, account.caller)
    with tracing.span("policy"):
        choice = await tiller.choose(body.model, asked, user=body.user, caller=account.caller)
    await account.steers(choice.resolved.fingerprint)
    return choice


async def _with_own_defaults(tiller: Tiller, body: GenerationRequest, caller: Caller) -> SteeringRequest | None:
    """The steering that is asked for, with what its user came to like where it leaves that open."""
    asked = body.steering
    if asked is None or not asked.personal:
        return asked
    person = caller.person(body.user)
    if not person:
        raise bad_request("steering.personal takes a user's own defaults; say whose with `user`", param="user")
    _, _, preset = body.model.partition("@")
    return await own(tiller, caller, person, asked.model_copy(update={"preset": asked.preset or preset or None}))


async def _reply(
    tiller: Tiller, choice: Choice, body: GenerationRequest, prompts: dict[str, EncodedChat], account: Account
) -> Reply:
    """Check what depends on the model, and let the guards read each prompt; `prompts` are by their places."""
    _check_known(tiller, [*(body.logit_bias or ())], "logit_bias")
    _check_known(tiller, body.stop_token_ids or (), "stop_token_ids")
    longest = [_longest(tiller, body, prompt, place) for place, prompt in prompts.items()]
    parts = await _parts(tiller, choice, body, [*zip(prompts.values(), longest, strict=True)], account)
    kind, prefix = ("chat.completion", "chatcmpl-") if isinstance(body, ChatRequest) else ("text_completion", "cmpl-")
    reply = Reply(tiller, body, parts, kind, prefix + uuid.uuid4().hex[:24], int(time.time()), account)
    spec, used = reply.choice.resolved.spec, sum(len(p.ids) for p in prompts.values())
    metrics.asked((f.mode for f in spec.features), spec.scope, prompt=used, n_features=len(spec.features))
    return reply


def _longest(tiller: Tiller, body: GenerationRequest, prompt: EncodedChat, place: str) -> int:
    """How many tokens may be said. Raises ApiError where the context has no room for them."""
    context, used, asked = tiller.engine.max_model_len, len(prompt.ids), body.asked_max_tokens
    room = context - used
    if room <= 0 or (asked or 0) > room:
        wanted = f"{used} tokens" + (f" and max_tokens asks for {asked}" if asked else "")
        takes = f"{place} {'take' if place == 'messages' else 'takes'} {wanted}"
        raise bad_request(
            f"the context holds {context} tokens; {takes}: shorten {place} or lower max_tokens",
            param=place if room <= 0 else "max_tokens",
            code="context_length_exceeded",
        )
    return asked or room


async def _parts(
    tiller: Tiller,
    choice: Choice,
    body: GenerationRequest,
    prompts: Sequence[tuple[EncodedChat, int]],
    account: Account,
) -> tuple[Part, ...]:
    """Each prompt as the guards let it through; while they read, places are held, and who leaves then has had all of it read."""
    if tiller.watch is None:
        return tuple([await _part(tiller, choice, body, *prompt) for prompt in prompts])
    used, places = sum(len(p.ids) for p, _ in prompts), at_once(tiller, account, len(prompts) * body.n, body.n)
    async with account.replying(places=places, expected=used):
        try:
            return tuple([await _part(tiller, choice, body, *prompt) for prompt in prompts])
        except asyncio.CancelledError:
            await account.spent(used)
            raise


async def _part(tiller: Tiller, choice: Choice, body: GenerationRequest, prompt: EncodedChat, most: int) -> Part:
    sampling = body.sampling(choice.preset, most)
    choice = await tiller.judged(choice, choice.generation(prompt, sampling))
    return Part(choice, prompt, choice.generation(prompt, sampling))
