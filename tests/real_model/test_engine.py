"""The engine on SmolLM2-135M-Instruct: plain replies are the model's own, steered ones do not depend on the batch."""

import asyncio

import pytest
import pytest_asyncio
import torch
from torch.nn.functional import normalize
from transformers import AutoModelForCausalLM, AutoTokenizer

from server.engines.base import Generation, Sampling
from server.engines.transformers.engine import TransformersEngine
from steering.edits import ResidualEdit
from steering.model.chat_template import default_system_prompt
from steering.model.hooks import steer

pytestmark = pytest.mark.asyncio(loop_scope="module")
HOOK, WIDTH, TYPICAL_NORM = "layers.12", 576, 140.0
GREEDY = Sampling(temperature=0, max_tokens=16)
QUESTIONS = ("Who are you?", "How do I bake bread?", "Tell me a story.", "What is money for?")
NONE, EMPTY = torch.zeros(0, WIDTH), torch.zeros(0)


def push(number: int) -> ResidualEdit:
    """A random direction, a third of the typical norm long; none for every fourth."""
    generator = torch.Generator().manual_seed(number)
    direction = normalize(torch.randn(WIDTH, generator=generator), dim=0)
    return ResidualEdit(0.33 * TYPICAL_NORM * direction * (number % 4 > 0), NONE, EMPTY, EMPTY, NONE, EMPTY)


@pytest.fixture(scope="module")
def model(checkpoint):
    return AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(checkpoint):
    engine = TransformersEngine.load(checkpoint, hooks=[HOOK], device="cpu", dtype="float32")
    yield engine
    await engine.close()


def wanted(engine, number: int) -> Generation:
    chat = engine.encode_chat([{"role": "user", "content": QUESTIONS[number % 4]}])
    edits = {HOOK: push(number)} if number % 4 else {}
    return Generation(chat.ids, chat.assistant, True, edits, f"s_{number if edits else 0}", sampling=GREEDY)


async def ids_of(engine, request: Generation) -> list[int]:
    return [i async for piece in engine.generate(request) for i in piece.ids]


def by_hand(model, request: Generation) -> list[int]:
    """Greedy tokens with a hook, the whole sequence anew at each step."""
    ids, said = list(request.ids), list[int]()
    for _ in range(GREEDY.max_tokens):
        marks = [*request.steered, *(True,) * len(said)]
        with torch.no_grad(), steer(model, request.edits, where=torch.tensor([marks])):
            token = int(model(torch.tensor([ids + said])).logits[0, -1].argmax())
        said.append(token)
        if token == 2:
            break
    return said


async def test_an_unsteered_reply_is_what_the_model_generates(engine, model, checkpoint):
    request = wanted(engine, 0)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    expected = model.generate(
        torch.tensor([request.ids]), do_sample=False, max_new_tokens=GREEDY.max_tokens, pad_token_id=2
    )[0, len(request.ids) :].tolist()
    assert await ids_of(engine, request) == expected
    assert tokenizer.decode(expected).strip()


async def test_sixteen_requests_with_their_own_steering_get_what_each_gets_alone(engine):
    requests = [wanted(engine, i) for i in range(16)]
    together = await asyncio.gather(*(ids_of(engine, r) for r in requests))
    alone = [await ids_of(engine, r) for r in requests]
    assert together == alone
    assert together[1] != together[5]  # one question, two directions


async def test_a_steered_reply_is_that_of_the_model_with_a_hook(engine, model):
    for number in (1, 2, 3):
        request = wanted(engine, number)
        assert await ids_of(engine, request) == by_hand(model, request)


async def test_the_chat_template_adds_no_system_message_of_its_own(engine):
    """The original one tells the model that it is SmolLM, a rival of every slider; the package's does not."""
    chat = engine.encode_chat([{"role": "user", "content": "Hello!"}])
    assert chat.text == "<|im_start|>user\nHello!<|im_end|>\n<|im_start|>assistant\n"
    assert default_system_prompt(engine.tokenizer) == ""
