#!/usr/bin/env python3
"""Writes the seeds of the fuzz targets, corpus/TARGET/seed-*: small files of every form, from the fixtures and by hand.

    python3 fuzz/make_seeds.py

Only Python's own library is needed. The other files of corpus/ were found by runs.
"""

import io
import json
import pickle
import struct
import zipfile
from pathlib import Path

HERE = Path(__file__).parent
FIXTURES = HERE.parent / "fixtures"
WIDTHS = {"F32": 4, "BF16": 2, "F16": 2, "I32": 4, "U32": 4, "U8": 1, "F8_E4M3": 1}


def seed(target, name, data):
    folder = HERE / "corpus" / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"seed-{name}").write_bytes(data)


def product(shape):
    result = 1
    for width in shape:
        result *= width
    return result


def configs():
    for folder in sorted((FIXTURES / "goldens").iterdir()):
        if folder.is_dir():
            text = json.loads((folder / "config.json").read_text())
            seed("config", folder.name, json.dumps(text, separators=(",", ":")).encode())
    for name in ["demo", "pytorch"]:
        text = json.loads((FIXTURES / name / "config.json").read_text())
        seed("config", name, json.dumps(text, separators=(",", ":")).encode())
    seed("config", "packed", (HERE / "packed_config.json").read_bytes())


def indices():
    def index(weight_map):
        return json.dumps({"metadata": {"total_size": 8}, "weight_map": weight_map}).encode()

    seed("shard_index", "sound", index({"x": "a", "y": "b"}))
    seed("shard_index", "moved", index({"x": "b", "y": "b"}))
    seed("shard_index", "absent", index({"x": "a", "y": "b", "z": "c"}))
    seed("shard_index", "outside", index({"x": "../a", "y": "/b", "z": "./c"}))
    seed("shard_index", "empty", index({}))


def safetensors_header(tensors):
    """Header text and the number of bytes behind it."""
    entries, end = {}, 0
    for name, dtype, shape in tensors:
        start, end = end, end + product(shape) * WIDTHS[dtype]
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    return json.dumps(entries, separators=(",", ":")).encode(), end


def whole(tensors):
    header, end = safetensors_header(tensors)
    return b"\x00" + struct.pack("<Q", len(header)) + header + bytes(index * 151 % 256 for index in range(end))


def split(tensors):
    header, end = safetensors_header(tensors)
    return b"\x01" + struct.pack("<H", end) + header


def safetensors():
    some = [("a", "F32", [2, 3]), ("b", "BF16", [5]), ("empty", "F16", [0, 7]), ("scalar", "F32", []), ("q", "U8", [3])]
    seed("safetensors", "whole", whole(some))
    seed("safetensors", "split", split(some))
    text = b'{"__metadata__":{"format":"pt"},"a":{"dtype":"F4","shape":[4],"data_offsets":[0,2]}}'
    seed("safetensors", "metadata", b"\x01" + struct.pack("<H", 2) + text)
    for file in [FIXTURES / "pytorch" / "model.safetensors", FIXTURES / "goldens" / "p7_fp8_experts" / "model.safetensors"]:
        data = file.read_bytes()
        seed("safetensors", f"cut-{file.parent.name}", b"\x00" + data[:3000])
    data = (FIXTURES / "pytorch" / "model.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    seed("safetensors", "fixture", b"\x01" + struct.pack("<H", len(data) - 8 - length) + data[8 : 8 + length])


def parameters():
    """Names, shapes and kinds of packed_config.json's parameters."""
    hidden, head, vocab, dense, width, experts = 32, 2, 4, 2, 32, 2
    yield "model.embed_tokens", [vocab, hidden], "embedding"
    for layer in range(2):
        at = f"model.layers.{layer}"
        yield f"{at}.input_layernorm", [hidden], "float"
        for name, shape in [("q", [head, hidden]), ("k", [head, hidden]), ("v", [head, hidden]), ("o", [hidden, head])]:
            yield f"{at}.self_attn.{name}_proj", shape, "matrix"
        yield f"{at}.post_attention_layernorm", [hidden], "float"
        if layer == 1:
            yield f"{at}.feed_forward.router", [experts, hidden], "float"
            yield f"{at}.feed_forward.experts.gate_up_proj", [experts, hidden, 2 * width], "experts"
            yield f"{at}.feed_forward.experts.down_proj", [experts, width, hidden], "experts"
            mlp, inner = f"{at}.feed_forward.shared_expert", width
        else:
            mlp, inner = f"{at}.feed_forward", dense
        yield f"{mlp}.gate_proj", [inner, hidden], "matrix"
        yield f"{mlp}.up_proj", [inner, hidden], "matrix"
        yield f"{mlp}.down_proj", [hidden, inner], "matrix"
    yield "model.norm", [hidden], "float"
    yield "lm_head", [vocab, hidden], "matrix"


def packed_parameter(name, shape, bits):
    if len(shape) == 3:
        shape = [shape[0], shape[2], shape[1]]
    rows, columns = shape[:-1], shape[-1]
    return [(f"{name}.qweight", "I32", rows + [columns * bits // 32]), (f"{name}.scales", "F16", rows + [columns // 32])]


def apart(name, shape, dtype):
    experts, columns, rows = shape
    base, last = name.rsplit(".", 1)
    for expert in range(experts):
        for part in ["gate_proj", "up_proj"] if last == "gate_up_proj" else ["down_proj"]:
            rows_of = rows // 2 if last == "gate_up_proj" else rows
            weight = f"{base}.{expert}.{part}.weight"
            yield weight, dtype, [rows_of, columns]
            if dtype == "F8_E4M3":
                yield f"{weight}_scale", "BF16", [rows_of, 1]


def packed():
    for bits in [4, 8]:
        tensors = []
        for name, shape, kind in parameters():
            columns = shape[1] if len(shape) == 3 else shape[-1]
            if kind in ("matrix", "experts") and columns % 32 == 0:
                tensors += packed_parameter(name, shape, bits)
            else:
                tensors.append((name if kind == "experts" else f"{name}.weight", "BF16", shape))
        seed("packed", f"q{bits}", split(tensors))
        if bits == 4:
            seed("packed", "q4-whole", whole(tensors))
    for label, dtype in [("apart", "F16"), ("fp8", "F8_E4M3"), ("stacked", None)]:
        tensors = []
        for name, shape, kind in parameters():
            if kind == "experts" and dtype is not None:
                tensors += apart(name, shape, dtype)
            elif kind == "experts":
                tensors.append((name, "F16", shape))
            else:
                tensors.append((f"language_model.{name}.weight", "BF16", shape))
        tensors.append(("vision_model.x", "BF16", [1]))
        seed("packed", label, split(tensors))


def text(value):
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def value(item):
    if isinstance(item, bool):
        return struct.pack("<IB", 7, item)
    if isinstance(item, int):
        return struct.pack("<II", 4, item)
    if isinstance(item, float):
        return struct.pack("<If", 6, item)
    if isinstance(item, str):
        return struct.pack("<I", 8) + text(item)
    if all(isinstance(each, str) for each in item):
        return struct.pack("<IIQ", 9, 8, len(item)) + b"".join(map(text, item))
    return struct.pack("<IIQ", 9, 5, len(item)) + b"".join(struct.pack("<i", each) for each in item)


# ggml's number, values and bytes of a block.
KINDS = {"F32": (0, 1, 4), "F16": (1, 1, 2), "Q4_0": (2, 32, 18), "Q4_1": (3, 32, 20), "Q5_0": (6, 32, 22), "Q5_1": (7, 32, 24),
         "Q8_0": (8, 32, 34), "Q2_K": (10, 256, 84), "Q3_K": (11, 256, 110), "Q4_K": (12, 256, 144), "Q5_K": (13, 256, 176),
         "Q6_K": (14, 256, 210), "IQ4_NL": (20, 32, 18), "IQ4_XS": (23, 256, 136), "BF16": (30, 1, 2), "I8": (24, 1, 1)}


def gguf_file(keys, tensors):
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys))
    for key, item in keys.items():
        head += text(key) + value(item)
    data = b""
    for name, kind, shape in tensors:
        number, values, width = KINDS[kind]
        head += text(name) + struct.pack("<I", len(shape)) + b"".join(struct.pack("<Q", each) for each in reversed(shape))
        head += struct.pack("<IQ", number, len(data))
        bytes_of = product(shape) // values * width
        if name == "rope_freqs.weight":
            data += struct.pack("<f", 1.0) * product(shape)
        else:
            data += bytes(index * 151 % 256 for index in range(bytes_of))
        data += bytes(-len(data) % 32)
    return head + bytes(-len(head) % 32) + data


def gguf():
    keys = {
        "general.architecture": "llama4", "llama4.block_count": 1, "llama4.context_length": 64, "llama4.embedding_length": 32,
        "llama4.feed_forward_length": 32, "llama4.attention.head_count": 1, "llama4.attention.head_count_kv": 1,
        "llama4.attention.key_length": 4, "llama4.attention.value_length": 4, "llama4.attention.layer_norm_rms_epsilon": 1e-5,
        "llama4.rope.freq_base": 5e5, "llama4.rope.dimension_count": 4, "llama4.vocab_size": 4, "llama4.expert_count": 2,
        "llama4.expert_used_count": 1, "llama4.interleave_moe_layer_step": 1, "llama4.expert_feed_forward_length": 32,
    }
    tokenizer = {
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "llama4", "tokenizer.ggml.tokens": ["a", "b", "ab", "<|eot|>"],
        "tokenizer.ggml.token_type": [1, 1, 1, 3], "tokenizer.ggml.merges": ["a b"], "tokenizer.ggml.bos_token_id": 3,
        "tokenizer.ggml.eos_token_id": 3, "tokenizer.ggml.add_bos_token": True, "tokenizer.chat_template": "{{ messages }}",
    }
    layer = [("attn_norm", "F32", [32]), ("attn_q", "Q4_0", [4, 32]), ("attn_k", "Q8_0", [4, 32]), ("attn_v", "F16", [4, 32]),
             ("attn_output", "BF16", [32, 4]), ("ffn_norm", "F32", [32])]
    moe = [("ffn_gate_inp", "F32", [2, 32]), ("ffn_gate_exps", "Q4_1", [2, 32, 32]), ("ffn_up_exps", "Q5_0", [2, 32, 32]),
           ("ffn_down_exps", "IQ4_NL", [2, 32, 32]), ("ffn_gate_shexp", "Q4_0", [32, 32]), ("ffn_up_shexp", "Q4_0", [32, 32]),
           ("ffn_down_shexp", "Q5_1", [32, 32])]
    dense = [("ffn_gate", "Q4_0", [32, 32]), ("ffn_up", "Q4_0", [32, 32]), ("ffn_down", "Q8_0", [32, 32])]
    outer = [("token_embd", "F16", [4, 32]), ("output_norm", "F32", [32]), ("rope_freqs", "F32", [2])]

    def tensors(inner):
        named = [(f"{name}.weight", kind, shape) for name, kind, shape in outer]
        return named + [(f"blk.0.{name}.weight", kind, shape) for name, kind, shape in inner]

    seed("gguf", "moe", gguf_file({**keys, **tokenizer}, tensors(layer + moe)))
    guard = {**keys, "llama4.interleave_moe_layer_step": 0, "llama4.attention.sliding_window": 0}
    seed("gguf", "dense", gguf_file(guard, tensors(layer + dense)))
    seed("gguf", "tokenizer", gguf_file(tokenizer, []))
    kinds = [(kind, kind, [1, KINDS[kind][1]]) for kind in KINDS]
    seed("gguf", "kinds", gguf_file({"general.alignment": 32}, kinds))
    pattern = {**keys, "llama4.attention.sliding_window_pattern": 2, "llama4.attention.head_count_kv": [1, 1]}
    seed("gguf", "pattern", gguf_file(pattern, [("rope_freqs.weight", "F32", [2]), ("output.weight", "I8", [3])]))


class Opcodes:
    """A state dict's pickle, opcode by opcode."""

    def __init__(self, protocol):
        self.data = bytes([0x80, protocol])

    def add(self, data):
        self.data += data
        return self

    def text(self, word):
        return self.add(b"X" + struct.pack("<I", len(word)) + word.encode())

    def name(self, module, name):
        return self.add(f"c{module}\n{name}\n".encode())

    def tensor(self, key, storage, number, shape, strides):
        self.text(key).name("torch._utils", "_rebuild_tensor_v2").add(b"((").text("storage").name("torch", storage)
        self.text(str(number)).text("cpu").add(b"K" + bytes([product(shape)]) + b"tQK\x00")
        for numbers in [shape, strides]:
            self.add(b"(" + b"".join(b"K" + bytes([each]) for each in numbers) + b"t")
        return self.add(b"\x89").name("collections", "OrderedDict").add(b")RtR")


def state_dict():
    return Opcodes(2).add(b"}q\x00(").tensor("a", "FloatStorage", 0, [2, 3], [3, 1]).tensor("b", "BFloat16Storage", 1, [4], [1])


def archive(data):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as file:
        file.writestr("archive/data.pkl", data)
        file.writestr("archive/byteorder", "little")
        file.writestr("archive/data/0", bytes(24))
        file.writestr("archive/data/1", bytes(8))
        file.writestr("archive/version", "3\n")
    return out.getvalue()


def pytorch():
    plain = state_dict().add(b"u.").data
    seed("pytorch", "pickle", b"\x00" + plain)
    seed("pytorch", "archive", b"\x01" + archive(plain))
    nested = Opcodes(4).add(b"\x95" + bytes(8)).text("x").add(b"\x94}\x94(").text("outer").add(b"}(").text("inner").add(b"h\x00uu.")
    seed("pytorch", "nested", b"\x00" + nested.data)
    others = [1, -1, 300, 1 << 40, 2.5, None, True, [1, 2], ("a",), {"k": {"k": ()}}, "é"]
    for protocol in [2, 4]:
        seed("pytorch", f"others-{protocol}", b"\x00" + pickle.dumps({str(each): each for each in others}, protocol))
    with zipfile.ZipFile(FIXTURES / "pytorch" / "pytorch_model.bin") as file:
        name = next(name for name in file.namelist() if name.endswith("data.pkl"))
        seed("pytorch", "fixture", b"\x00" + file.read(name))


if __name__ == "__main__":
    for make in [configs, indices, safetensors, packed, gguf, pytorch]:
        make()
