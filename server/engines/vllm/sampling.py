"""Sampling parameters as vLLM takes them, and the log-probabilities of prompts as it returns them."""

from collections.abc import Sequence
from typing import Any

from server.engines.base import Sampling, ScoredToken
from server.engines.vllm.plugin import KEY


def scored_prompt(ids: Sequence[int], rows: Sequence[Any], most: int) -> tuple[ScoredToken, ...]:
    """The prompt's tokens with their log-probabilities, from vLLM's mapping for each; the first has none."""
    found = [ScoredToken(ids[0], None)]
    for token, row in zip(ids[1:], rows[1:], strict=True):
        ranked = sorted(((i, float(v.logprob)) for i, v in row.items()), key=lambda item: -item[1])
        found.append(ScoredToken(token, float(row[token].logprob), tuple(ranked[:most])))
    return tuple(found)


def sampling_params(s: Sampling, asked: dict[str, Any] | None, stop_ids: list[int]) -> Any:  # noqa: ANN401 - vLLM's class
    """vLLM's parameters for a reply; `asked` goes to the workers. It reads a prompt only together with one new token."""
    from vllm import SamplingParams  # pyright: ignore[reportMissingImports, reportAttributeAccessIssue]
    from vllm.sampling_params import RequestOutputKind  # pyright: ignore[reportMissingImports]

    return SamplingParams(
        max_tokens=max(1, s.max_tokens),
        min_tokens=s.min_tokens,
        temperature=s.temperature,
        top_p=s.top_p,
        top_k=s.top_k,
        min_p=s.min_p,
        repetition_penalty=s.repetition_penalty,
        presence_penalty=s.presence_penalty,
        frequency_penalty=s.frequency_penalty,
        seed=s.seed,
        stop=list(s.stop) or None,
        stop_token_ids=stop_ids or None,
        include_stop_str_in_output=s.include_stop_str_in_output,
        ignore_eos=s.ignore_eos,
        logit_bias=dict(s.logit_bias) or None,
        logprobs=s.logprobs,
        prompt_logprobs=s.prompt_logprobs,
        output_kind=RequestOutputKind.DELTA,
        extra_args={KEY: asked} if asked else None,
    )
