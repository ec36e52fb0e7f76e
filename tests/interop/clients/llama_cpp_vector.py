"""llama.cpp with a control vector: logits of the next token, and a greedy reply, without and with it.

Arguments: the model as GGUF, the control vector, a JSON list of token ids, and a folder for the logits. With `write` as the
control vector's first letters (`write:layer`), a vector is made by the `gguf` package as llama.cpp's own tool makes one.
"""

import ctypes
import json
import sys
from pathlib import Path

import gguf
import llama_cpp
import numpy as np

model_path, vector_path, ids, folder = sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), Path(sys.argv[4])
TOKENS = 16
llm = llama_cpp.Llama(model_path=model_path, n_ctx=512, n_threads=2, verbose=False)
width, layers = llm.n_embd(), llama_cpp.llama_model_n_layer(llm._model.model)


def write_vector(path, layer):
    """Write a control vector for every layer but the first, as llama.cpp's cvector-generator names them."""
    writer = gguf.GGUFWriter(path, "controlvector")
    writer.add_string("controlvector.model_hint", "llama")
    writer.add_uint32("controlvector.layer_count", layers - 1)
    draw = np.random.default_rng(5)
    for n in range(1, layers):
        direction = draw.standard_normal(width).astype(np.float32)
        writer.add_tensor(f"direction.{n}", direction * (45 / np.linalg.norm(direction)) * (n == layer))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def read_vector(path):
    """Lay the tensors out as `common_control_vector_load` of llama.cpp does: layer n at row n − 1."""
    reader = gguf.GGUFReader(path)
    data = np.zeros((layers - 1, width), dtype=np.float32)
    for tensor in reader.tensors:
        assert tensor.tensor_type == gguf.GGMLQuantizationType.F32
        data[int(tensor.name.removeprefix("direction.")) - 1] = tensor.data
    return data


def apply_vector(data):
    """Add the directions to the stream from now on; none for None."""
    pointer = data.ctypes.data_as(ctypes.POINTER(ctypes.c_float)) if data is not None else None
    size = data.size if data is not None else 0
    assert llama_cpp.llama_set_adapter_cvec(llm._ctx.ctx, pointer, size, width, 1, layers) == 0


def replied(name):
    """Save the logits after the prompt, and return the greedy reply's token ids."""
    llm.reset()
    llm.eval(ids)
    said = []
    for n in range(TOKENS):
        logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits(llm._ctx.ctx), shape=(llm.n_vocab(),))
        if not n:
            np.save(folder / f"{name}.npy", logits)
        said.append(int(logits.argmax()))
        llm.eval(said[-1:])
    return said


if vector_path.startswith("write:"):
    layer, vector_path = int(vector_path.removeprefix("write:")), str(folder / "theirs.gguf")
    write_vector(vector_path, layer)
plain = replied("plain")
apply_vector(read_vector(vector_path))
steered = replied("steered")
apply_vector(None)
assert replied("again") == plain
sys.stdout.write(json.dumps({"plain": plain, "steered": steered, "vector": vector_path}))
