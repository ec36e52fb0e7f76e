"""Files of SAEs as their publishers write them, and their formulas in plain torch."""

import json

import torch
from safetensors.torch import save_file

D, M = 6, 10


def jump(pre, threshold):
    return torch.where((pre > threshold) & (pre > 0), pre, 0.0)


def topk(pre, k):
    kept = pre.topk(k, dim=-1)
    return torch.zeros_like(pre).scatter(-1, kept.indices, kept.values.relu())


def assert_says_the_same(sae, x, a, W_dec, b_dec):  # a: activations as published
    """The same reconstruction, and the same features on."""
    torch.testing.assert_close(sae.decode(sae.encode(x)), a @ W_dec + b_dec, atol=2e-5, rtol=2e-5)
    assert torch.equal(sae.encode(x) > 0, a > 0)
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(M))


def four(parts):
    return {n: parts[n] for n in ("W_enc", "b_enc", "W_dec", "b_dec")}


def saelens(folder, tensors, config):
    """The files with exactly this configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "sae_weights.safetensors")
    (folder / "cfg.json").write_text(json.dumps(config))
    return folder


def lens(folder, architecture, tensors, **config):
    about = {"sae_lens_version": "6.54.12", "hook_name": "blocks.3.hook_resid_post"}
    config = {"architecture": architecture, "normalize_activations": "none", "metadata": about, **config}
    return saelens(folder, tensors, config)


def dictionary(folder, kind, tensors, **trainer):
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(tensors, folder / "ae.pt")
    (folder / "config.json").write_text(json.dumps({"trainer": {"dict_class": kind, "layer": 8, **trainer}}))
    return folder
