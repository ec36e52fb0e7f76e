"""Request preparation: resolves the steering, tokenizes the prompts and runs the guards.

A request becomes a `Reply` only after all validation.
"""

import asyncio
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from server.auth.caller import Caller
from server.chat.context_window import fit_chat, left_out_warning, turn_starts
from server.chat.reply import PromptPart, Reply, max_concurrency
from server.engines.token_kinds import token_kinds
from server.errors import bad_request
from server.executors import CHAT, run_in
from server.limits.account import UNCOUNTED, Account
from server.schemas.completions import Warned
from server.schemas.generation import ChatRequest, CompletionRequest, GenerationRequest, Prompt
from server.schemas.steering import SteeringRequest
from server.serving.served_model import ServedModel
from server.serving.steering_choice import SteeringChoice
from server.telemetry import metrics, tracing
from server.user_data.feedback import with_user_defaults
from steering.model.chat_template import EncodedChat, Message, special_ids

MOST_SCORED = 1 << 20
"""Maximum number of log-probabilities of prompts in one answer."""
FOLDED = Warned(
    code="system_folded",
    feature="",
    message="this model's chat template has no place for a system message, so it was put before the user's text",
)


async def prepare_chat(served: ServedModel, body: ChatRequest, account: Account = UNCOUNTED) -> Reply:
    """Prepare a chat. Raises ApiError and SteeringError."""
    choice = await _choose_steering(served, body, account)
    messages = body.chat()
    if choice.preset and choice.preset.system_prompt and all(m["role"] != "system" for m in messages):
        messages = [{"role": "system", "content": choice.preset.system_prompt}, *messages]
    context = served.engine.max_model_len
    _check_number(messages, context, truncated=body.truncation == "auto")
    encode = partial(served.engine.encode_chat, continue_final_message=body.continue_final_message)
    if body.truncation != "auto":
        prompt = await run_in(CHAT, encode, messages)
        return _with_notes(await _prepare(served, choice, body, {"messages": prompt}, account), 0)
    prompt, left_out = await run_in(CHAT, fit_chat, encode, messages, context=context, reply=body.requested_max_tokens)
    reply = await _prepare(served, choice, body, {"messages": prompt}, account)
    return _with_notes(reply, left_out)


def _check_number(messages: Sequence[Message], context: int, *, truncated: bool) -> None:
    """Raises ApiError for more messages than the context has tokens, before they are rendered: each takes one or more."""
    least = len(messages) if not truncated else len(messages) - turn_starts(messages)[-1]
    if least > context:
        raise bad_request(
            f"the context holds {context} tokens, and {least} messages take more: shorten messages",
            param="messages",
            code="context_length_exceeded",
        )


def _with_notes(reply: Reply, left_out: int) -> Reply:
    """The reply with warnings about what was done to its messages; `left_out` of them were left out."""
    context, prompt = reply.served.engine.max_model_len, reply.parts[0].prompt
    notes = (left_out_warning(left_out, context),) if left_out else ()
    return replace(reply, notes=(*notes, FOLDED) if prompt.folded else notes)


async def prepare_completion(served: ServedModel, body: CompletionRequest, account: Account = UNCOUNTED) -> Reply:
    """Prepare a text completion. Raises ApiError and SteeringError."""
    choice = await _choose_steering(served, body, account)
    prompts = {p.place: await run_in(CHAT, _encode_prompt, served, p) for p in body.prompt}
    return await _prepare(served, choice, body, prompts, account)


def _encode_prompt(served: ServedModel, prompt: Prompt) -> EncodedChat:
    """Token ids of a prompt. It has no roles, so the scope `assistant` means `generated`."""
    place, said = prompt
    if isinstance(said, str):
        _refuse_special_tokens(served, said, place)
        ids, text = served.engine.encode(said), said
        if not ids:
            raise bad_request(f"{place} is empty and this model has no beginning-of-text token", param=place)
    else:
        _check_token_ids(served, said, place, each=True)
        ids, text = said, served.engine.decode(said)
    names = special_ids(served.engine.tokenizer)
    special = tuple(i in names for i in ids)
    return EncodedChat(ids, (False,) * (len(ids) - 1) + (True,), text, special=special, special_ids=names, raw=True)


def _refuse_special_tokens(served: ServedModel, text: str, place: str) -> None:
    """Raises ApiError for text that spells a special token, such as a chat that a client has rendered itself: raw text
    holds none, so the model would read its letters."""
    special = token_kinds(served.engine.tokenizer).special
    ids = served.engine.tokenizer(text, add_special_tokens=False)["input_ids"]
    if (found := next((special[i] for i in ids if i in special and special[i] in text), None)) is not None:
        raise bad_request(
            f"{place} contains {found!r}, a special token, which raw text cannot hold: send the chat as messages to "
            "/v1/chat/completions, or the prompt as token ids",
            param=place,
        )


def _check_token_ids(served: ServedModel, ids: Sequence[int], place: str, *, each: bool = False) -> None:
    """Raises ApiError for a token id outside the vocabulary; `each` has a location of its own."""
    size = served.engine.vocab_size
    if (at := next((i for i, token in enumerate(ids) if not 0 <= token < size), None)) is not None:
        place = f"{place}.{at}" if each else place
        raise bad_request(f"{place}: token {ids[at]} is not in the vocabulary of {size} tokens", param=place)


async def _choose_steering(served: ServedModel, body: GenerationRequest, account: Account) -> SteeringChoice:
    """Resolved and authorized steering, counted against the caller's limit of distinct steerings."""
    asked = await _with_own_defaults(served, body, account.caller)
    with tracing.span("policy"):
        choice = await served.choose(body.model, asked, user=body.user, caller=account.caller)
    await account.count_spec(choice.resolved.fingerprint)
    return choice


async def _with_own_defaults(served: ServedModel, body: GenerationRequest, caller: Caller) -> SteeringRequest | None:
    """The requested steering, completed with the user's learned defaults where it gives no values."""
    asked = body.steering
    if asked is None or not asked.personal:
        return asked
    person = caller.subject(body.user)
    if not person:
        raise bad_request("steering.personal applies a user's own defaults and requires `user`", param="user")
    _, _, preset = body.model.partition("@")
    return await with_user_defaults(
        served, caller, person, asked.model_copy(update={"preset": asked.preset or preset or None})
    )


async def _prepare(
    served: ServedModel,
    choice: SteeringChoice,
    body: GenerationRequest,
    prompts: dict[str, EncodedChat],
    account: Account,
) -> Reply:
    """Run the checks that need the model, then the guards on each prompt; `prompts` are by their locations."""
    _check_token_ids(served, [*(body.logit_bias or ())], "logit_bias")
    _check_token_ids(served, body.stop_token_ids or (), "stop_token_ids")
    _check_scored(body, prompts)
    longest = [max_new_tokens(served, body, prompt, place) for place, prompt in prompts.items()]
    parts = await _check_prompts(served, choice, body, [*zip(prompts.values(), longest, strict=True)], account)
    kind, prefix = ("chat.completion", "chatcmpl-") if isinstance(body, ChatRequest) else ("text_completion", "cmpl-")
    reply = Reply(served, body, parts, kind, prefix + uuid.uuid4().hex[:24], int(time.time()), account)
    spec, used = reply.choice.resolved.spec, sum(len(p.ids) for p in prompts.values())
    metrics.count_request((f.mode for f in spec.features), spec.scope, prompt=used, n_features=len(spec.features))
    return reply


def max_new_tokens(served: ServedModel, body: GenerationRequest, prompt: EncodedChat, place: str) -> int:
    """Maximum number of new tokens: as requested, but no more than the context has room for.

    Raises ApiError if it has no room.
    """
    context, used, asked = served.engine.max_model_len, len(prompt.ids), body.requested_max_tokens
    room = context - used
    if room < 0 or (room == 0 and asked != 0):
        takes = f"{place} {'take' if place == 'messages' else 'takes'} {used} tokens"
        raise bad_request(
            f"the context holds {context} tokens; {takes}, which leaves no room for a reply: shorten {place}",
            param=place,
            code="context_length_exceeded",
        )
    return room if asked is None else min(asked, room)


def _check_scored(body: GenerationRequest, prompts: Mapping[str, EncodedChat]) -> None:
    """Raises ApiError if the log-probabilities of the prompts are too many for one answer."""
    if body.prompt_alternatives is not None:
        tokens = body.n * sum(len(p.ids) for p in prompts.values())
        if tokens * (1 + body.prompt_alternatives) > MOST_SCORED:
            raise bad_request(
                f"echo with logprobs of {body.prompt_alternatives} returns {MOST_SCORED:,} log-probabilities at most, and "
                f"these prompts have {tokens:,} tokens: send fewer at a time",
                param="prompt",
            )


async def _check_prompts(
    served: ServedModel,
    choice: SteeringChoice,
    body: GenerationRequest,
    prompts: Sequence[tuple[EncodedChat, int]],
    account: Account,
) -> tuple[PromptPart, ...]:
    """Each prompt after the guards. Concurrency slots are held during the check; it runs to its end
    if the client disconnects."""
    if served.guards is None:
        return tuple([await _check_prompt(served, choice, body, *prompt) for prompt in prompts])
    used, places = sum(len(p.ids) for p, _ in prompts), max_concurrency(served, account, len(prompts) * body.n, body.n)
    async with account.reserve(places=places, expected=used):
        try:
            return tuple([await _check_prompt(served, choice, body, *prompt) for prompt in prompts])
        except asyncio.CancelledError:
            await account.count_tokens(used)
            raise


async def _check_prompt(
    served: ServedModel, choice: SteeringChoice, body: GenerationRequest, prompt: EncodedChat, most: int
) -> PromptPart:
    sampling = body.sampling(choice.preset, most, served.bundle.info.sampling)
    if (least := body.min_tokens or 0) > most:
        raise bad_request(f"min_tokens is {least}, but at most {most} tokens can be generated", param="min_tokens")
    choice = await served.apply_guards(choice, choice.generation_request(prompt, sampling))
    begins = prompt.continued if prompt.continued is not None else len(prompt.ids) * isinstance(body, ChatRequest)
    echo = prompt.text if isinstance(body, CompletionRequest) and body.echo else None
    return PromptPart(choice, prompt, replace(choice.generation_request(prompt, sampling), text_from=begins), echo)
