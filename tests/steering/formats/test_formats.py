"""SAE formats: what every reader does with files that are damaged, do not fit together or are unknown."""

import pytest
import torch
from safetensors.torch import save_file

from steering.errors import BadBundle
from steering.formats import read_sae
from tests.steering.formats.publisher_files import lens


def test_a_feature_that_writes_nothing_keeps_its_index_and_stays_silent(parts, tmp_path):
    p = parts
    p["W_dec"][4] = 0
    folder = lens(tmp_path, "standard", {n: p[n] for n in ("W_enc", "b_enc", "W_dec", "b_dec")})
    sae = read_sae(folder).sae
    assert not sae.encode(p["x"])[:, 4].any()
    assert float(sae.W_dec[4].norm()) == 1


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda p: p.update(W_enc=p["W_enc"][:, :-1]), r"W_enc .* must be \[6, 10\].*not \[6, 9\]"),
        (lambda p: p["b_enc"].fill_(float("nan")), "b_enc .* holds NaN"),
        (lambda p: p.pop("W_dec"), "lacks W_dec; it holds"),
    ],
)
def test_what_does_not_fit_is_named(parts, tmp_path, spoil, said):
    del parts["x"]
    spoil(parts)
    with pytest.raises(BadBundle, match=said):
        read_sae(lens(tmp_path, "jumprelu", parts))


def test_what_cannot_be_read_says_why(parts, tmp_path):
    tensors = {n: parts[n] for n in ("W_enc", "b_enc", "W_dec", "b_dec")}
    for name, config, said in (
        ("crosscoder", {}, "'crosscoder' is not known; known are standard, .*as directions only, transcoder"),
        ("standard", {"normalize_activations": "covariance_whitening"}, "not folded in yet"),
        ("standard", {"metadata": {"hook_name": "blocks.3.hook_attn_out"}}, "not the stream after a block"),
        ("standard", {"metadata": {"hook_name": "blocks.3.hook_resid_mid"}}, "not the stream after a block"),
        ("transcoder", {"metadata": {"hook_name_out": "blocks.3.hook_attn_out"}}, "not the stream after a block"),
    ):
        with pytest.raises(BadBundle, match=said):
            read_sae(lens(tmp_path / "lens", name, tensors, **config))
    cut = lens(tmp_path / "cut", "standard", tensors)
    whole = (cut / "sae_weights.safetensors").read_bytes()
    (cut / "sae_weights.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadBundle, match="damaged or cut short"):
        read_sae(cut)
    with pytest.raises(BadBundle, match="there is nothing at"):
        read_sae(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadBundle, match=r"no weights in .*looked for"):
        read_sae(tmp_path / "empty")
    save_file({"odd": torch.zeros(3)}, tmp_path / "odd.safetensors")
    with pytest.raises(BadBundle, match=r"of no known layout: it holds odd\. Known are saelens"):
        read_sae(tmp_path / "odd.safetensors")


class Harmful:
    def __reduce__(self):
        return (print, ("this ran",))


def test_a_pickle_that_would_run_code_is_not_opened(tmp_path, capsys):
    torch.save({"W_enc": Harmful()}, tmp_path / "ae.pt")
    with pytest.raises(BadBundle, match="it could run code"):
        read_sae(tmp_path / "ae.pt")
    assert "this ran" not in capsys.readouterr().out
