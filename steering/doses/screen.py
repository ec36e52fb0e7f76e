"""Screening: which features show in replies at all, by a few short replies of each under one push.

A calibration takes seconds a feature, so it is worth it for those that do something. The output score of one forward pass
(`interpret.logit_lens.output_scores`) does not tell them: over 4,358 features of SmolLM2-135M-Instruct its rank
correlation with the share of replies that show the feature is −0.04, that of the feature's density 0.41.
"""

from collections.abc import Callable, Sequence

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from steering.catalogue.bundle import Bundle
from steering.catalogue.feature import Feature, Screening
from steering.doses.bundle_doses import reads_feature
from steering.doses.measure import pushes_along, reading
from steering.doses.rollouts import Rollouts
from steering.doses.sampling import NATURAL
from steering.evaluate.coherence import judge
from steering.model.chat_template import encode_chat

PUSH = 0.28
"""Length of the push, in typical norms: about dose 1.0 of most features."""
QUESTIONS = ("Who are you?", "What should I do this weekend?", "Tell me a story.", "Give me some advice.")
TOKENS = 40
AT_ONCE = 32
"""Features in one batch."""


def screen(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    bundle: Bundle,
    features: Sequence[Feature],
    *,
    on_feature: Callable[[Feature], None] = lambda _: None,
) -> list[Feature]:
    """Return the features with their `screening`; `on_feature` gets each as soon as it is there. Raises BadChat."""
    chats = [encode_chat(tokenizer, [{"role": "user", "content": q}]) for q in QUESTIONS]
    rolls = Rollouts.prepare(model, bundle.info.hook, chats, tokens=TOKENS, draw=NATURAL, where=bundle.info.where)
    length, found = PUSH * bundle.info.typical_norm, list[Feature]()
    for at in range(0, len(features), AT_ONCE):
        some = features[at : at + AT_ONCE]
        edits = [pushes_along(bundle.sae.W_dec[f.row].to(model.device))(length) for f in some]
        # Each batch has its own noise, which a feature shares with its batch only.
        for feature, rollout in zip(some, rolls.run(edits, seed=at, kl=False), strict=True):
            texts = [str(tokenizer.decode(ids, skip_special_tokens=True)) for ids in rollout.replies]
            fluent = [judge(text, p).fluency for text, p in zip(texts, rollout.logprobs, strict=True)]
            read = reads_feature(bundle.sae, feature)
            screening = Screening(
                push=PUSH,
                shown=round(reading(read, rollout) - reading(read, rolls.plain), 3),
                fluent=round(sum(fluent) / len(fluent), 3),
                replies=len(texts),
            )
            found.append(feature.model_copy(update={"screening": screening}))
            on_feature(found[-1])
    return found


def promise(feature: Feature) -> float:
    """Return how much a calibration may find, for sorting: the share that shows it, less where text breaks; −1 unknown."""
    return feature.screening.shown * feature.screening.fluent if feature.screening else -1.0
