"""Control vectors as files: what is written is read again, by others too, and bad files are refused in a sentence."""

import struct

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter
from safetensors.torch import save_file

from steering.errors import SteeringError
from steering.formats import control_vectors
from steering.formats.control_vectors import read_control_vector, write_control_vector

WIDTH = 8


def push(seed=0):
    return torch.randn(WIDTH, generator=torch.Generator().manual_seed(seed)) * 5


def gguf_of(path, rows, *, arch="controlvector", hint="llama", raw_dtype=None):
    writer = GGUFWriter(path, arch)
    writer.add_string("controlvector.model_hint", hint)
    writer.add_uint32("controlvector.layer_count", len(rows))
    for name, row in rows.items():
        writer.add_tensor(name, np.asarray(row), raw_dtype=raw_dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("suffix", ["gguf", "safetensors"])
def test_what_is_written_comes_back_bit_by_bit(tmp_path, suffix):
    file = tmp_path / f"a.{suffix}"
    write_control_vector(file, push(), layer=3, model_hint="llama", format_=suffix)
    found = read_control_vector(file, layer=3, width=WIDTH)
    assert torch.equal(found.push, push())
    assert (found.layer, found.layers, found.model_hint) == (3, (3,), "llama")


def test_the_gguf_package_reads_what_llama_cpp_requires(tmp_path):
    file = tmp_path / "a.gguf"
    write_control_vector(file, push(), layer=3, model_hint="llama", format_="gguf")
    read = GGUFReader(file)
    assert read.get_field("general.architecture").contents() == "controlvector"
    assert read.get_field("controlvector.model_hint").contents() == "llama"
    assert read.get_field("controlvector.layer_count").contents() == 1
    (tensor,) = read.tensors
    assert (tensor.name, tensor.tensor_type, tensor.shape.tolist()) == (
        "direction.3",
        GGMLQuantizationType.F32,
        [WIDTH],
    )
    np.testing.assert_array_equal(tensor.data, push().numpy())


def test_of_several_layers_the_wanted_one_is_taken_and_all_are_told(tmp_path):
    rows = {f"direction.{n}": push(n).numpy() for n in (1, 2, 12)}
    found = read_control_vector(gguf_of(tmp_path / "a.gguf", rows), layer=2, width=WIDTH)
    assert torch.equal(found.push, push(2))
    assert found.layers == (1, 2, 12)


def test_several_tensors_of_a_safetensors_file_are_told_apart_by_their_names(tmp_path):
    save_file({f"direction.{n}": push(n) for n in (1, 2)}, tmp_path / "a.safetensors")
    assert torch.equal(read_control_vector(tmp_path / "a.safetensors", layer=2, width=WIDTH).push, push(2))


def test_one_tensor_of_any_name_has_its_layer_in_the_metadata_or_is_taken_for_the_one_that_is_named(tmp_path):
    save_file({"v": push()}, tmp_path / "said.safetensors", metadata={"layer": "3"})
    assert read_control_vector(tmp_path / "said.safetensors", layer=3, width=WIDTH).layer == 3
    save_file({"v": push().half()}, tmp_path / "silent.safetensors")
    with pytest.raises(SteeringError, match="does not say for which layer it is; say it with --layer"):
        read_control_vector(tmp_path / "silent.safetensors", layer=3, width=WIDTH)
    found = read_control_vector(tmp_path / "silent.safetensors", layer=3, width=WIDTH, chosen=True)
    assert torch.equal(found.push, push().half().float())


def test_a_layer_that_is_not_there_is_refused_with_those_that_are(tmp_path):
    file = gguf_of(tmp_path / "a.gguf", {"direction.1": push().numpy(), "direction.2": push().numpy()})
    with pytest.raises(SteeringError, match=r"no direction for layer 3, .* it has 1, 2: choose one with --layer"):
        read_control_vector(file, layer=3, width=WIDTH)


def test_llama_cpp_has_no_direction_for_block_0(tmp_path):
    with pytest.raises(SteeringError, match="--format safetensors"):
        write_control_vector(tmp_path / "a.gguf", push(), layer=0, model_hint="", format_="gguf")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (np.ones(WIDTH + 1), "has the shape 9; this model's stream has a width of 8"),
        (np.ones((2, WIDTH)), "has the shape 2 × 8"),
        (np.full(WIDTH, np.nan), "holds NaN or infinity"),
        (np.array([np.inf] + [0.0] * 7), "holds NaN or infinity"),
        (np.zeros(WIDTH), "is zero, so it points nowhere"),
    ],
)
@pytest.mark.parametrize("suffix", ["gguf", "safetensors"])
def test_a_direction_that_cannot_be_added_is_refused(tmp_path, row, says, suffix):
    file, row = tmp_path / f"a.{suffix}", row.astype(np.float32)
    if suffix == "gguf":
        gguf_of(file, {"direction.3": row})
    else:
        save_file({"direction.3": torch.from_numpy(row)}, file)
    with pytest.raises(SteeringError, match=f"the direction for layer 3 in a.{suffix} {says}"):
        read_control_vector(file, layer=3, width=WIDTH)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".pkl"])
def test_a_pickled_file_is_refused_unopened_with_the_way_out(tmp_path, suffix):
    file = tmp_path / f"a{suffix}"
    file.write_bytes(b"\x80\x04")
    with pytest.raises(SteeringError, match=r"is a pickled file, .* save the tensor with safetensors"):
        read_control_vector(file, layer=3, width=WIDTH)


@pytest.mark.parametrize("suffix", ["gguf", "safetensors"])
def test_a_file_cut_short_anywhere_is_refused(tmp_path, suffix):
    file = tmp_path / f"a.{suffix}"
    write_control_vector(file, push(), layer=3, model_hint="llama", format_=suffix)
    whole = file.read_bytes()
    for end in range(0, len(whole) - 1, 7):
        file.write_bytes(whole[:end])
        with pytest.raises(SteeringError, match="damaged or cut short"):
            read_control_vector(file, layer=3, width=WIDTH)


def test_a_count_beyond_the_file_does_not_keep_the_reader_busy(tmp_path):
    key = b"general.architecture"
    array = struct.pack("<Q", len(key)) + key + struct.pack("<IIQ", 9, 0, 2**60)
    (tmp_path / "a.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + array)
    with pytest.raises(SteeringError, match="damaged or cut short"):
        read_control_vector(tmp_path / "a.gguf", layer=3, width=WIDTH)


def test_a_file_too_big_for_a_control_vector_is_refused_before_it_is_read(tmp_path, monkeypatch):
    with (tmp_path / "a.gguf").open("wb") as file:
        file.truncate(control_vectors.LARGEST + 1)  # a sparse file
    monkeypatch.setattr(control_vectors, "_read_gguf", lambda _: pytest.fail("it was read"))
    with pytest.raises(SteeringError, match="has 64 MB; a control vector has at most 64 MB"):
        read_control_vector(tmp_path / "a.gguf", layer=3, width=WIDTH)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda p: gguf_of(p, {"direction.3": np.ones(8, np.float32)}, arch="llama"), "a GGUF file of 'llama', not a"),
        (
            lambda p: gguf_of(p, {"blk.0.attn": np.ones(8, np.float32)}),
            "holds 'blk.0.attn', but a control vector has only",
        ),
        (
            lambda p: gguf_of(p, {"direction.3": np.ones(8, np.float16)}),
            "is of F16; llama.cpp's control vectors are F32",
        ),
        (lambda p: p.write_bytes(b"hello"), "damaged or cut short"),
        (lambda p: None, "there is no file"),
        (lambda p: p.mkdir(), "there is no file"),
    ],
)
def test_other_files_are_told_from_control_vectors(tmp_path, make, says):
    make(tmp_path / "a.gguf")
    with pytest.raises(SteeringError, match=says):
        read_control_vector(tmp_path / "a.gguf", layer=3, width=WIDTH)


def test_a_suffix_that_names_no_format_is_refused(tmp_path):
    with pytest.raises(SteeringError, match="ends neither with"):
        read_control_vector(tmp_path / "a.npy", layer=3, width=WIDTH)
