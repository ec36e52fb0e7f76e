"""What a model's architecture must offer, so that it can be steered and served: a reason where it does not."""

from transformers import PretrainedConfig, PreTrainedModel

ATTENTION = {"full_attention", "sliding_attention"}
"""Kinds of layers whose state is keys and values by position, as transformers calls them in `layer_types`."""


def reason_unserved(model: PreTrainedModel) -> str:
    """Why this server cannot generate with a model; empty if nothing speaks against it.

    Sequences come and go while others run, so all that a layer keeps of a sequence has to be keys and values by
    position, which can be copied between rows and cut at any token. A recurrent or convolutional state cannot.
    """
    config = model.config.get_text_config()
    others = sorted(set(getattr(config, "layer_types", None) or ()) - ATTENTION)
    if others:
        return f"it has layers of the kind {' and '.join(map(repr, others))}, not only full and sliding attention"
    if getattr(model, "_is_stateful", False):
        return "its layers keep a recurrent state, not keys and values by position"
    if config.is_encoder_decoder:
        return "it is an encoder and a decoder; only decoders can be steered"
    if max_length(config) is None:
        return "it states no maximum length (max_position_embeddings)"
    return ""


def max_length(config: PretrainedConfig) -> int | None:
    """Number of positions that a model was made for, None if its configuration does not say it."""
    found = getattr(config.get_text_config(), "max_position_embeddings", None)
    return found if isinstance(found, int) else None
