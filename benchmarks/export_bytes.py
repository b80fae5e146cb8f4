"""Claim: every tensor of a ggml or GGUF file has the bytes that ggml, or the gguf package, makes of the source.

    python benchmarks/export_bytes.py [--models whisper-small,qwen2.5-0.5b] [--layers 2] [--real DIRECTORY]

Files are read, tensors named, rows turned and blocks made here, by nothing of Chorus: legacy types by the package and
by ggml's library in the wheel of pywhispercpp, k-quants and iq4_nl by the library. Which stay float32 or float16
is the rule of whisper.cpp's quantiser: what has not two dimensions, and convolutions' biases and positions.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import re
import struct
import subprocess
import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import common
import numpy as np
from _export_models import make_sample

Array = np.ndarray
PLAIN = {"f32": 0, "f16": 1, "bf16": 30}
LEGACY = {"q8_0": 8, "q5_0": 6, "q5_1": 7, "q4_0": 2, "q4_1": 3}
GGML = {"iq4_nl": 20, "q6_k": 14, "q5_k": 13, "q4_k": 12, "q3_k": 11, "q2_k": 10}
EVERY = {**PLAIN, **LEGACY, **GGML}
BLOCK = {8: (32, 34), 6: (32, 22), 7: (32, 24), 2: (32, 18), 3: (32, 20), 20: (32, 18), 14: (256, 210), 13: (256, 176),
         12: (256, 144), 11: (256, 110), 10: (256, 84)}  # fmt: skip
KEPT = ("encoder.conv1.bias", "encoder.conv2.bias", "encoder.positional_embedding", "decoder.positional_embedding")
PARTS = {
    "blocks": "layers", "attn.query": "self_attn.q_proj", "attn.key": "self_attn.k_proj",
    "attn.value": "self_attn.v_proj", "attn.out": "self_attn.out_proj", "cross_attn.query": "encoder_attn.q_proj",
    "cross_attn.key": "encoder_attn.k_proj", "cross_attn.value": "encoder_attn.v_proj",
    "cross_attn.out": "encoder_attn.out_proj", "attn_ln": "self_attn_layer_norm",
    "cross_attn_ln": "encoder_attn_layer_norm", "mlp.0": "fc1", "mlp.2": "fc2", "mlp_ln": "final_layer_norm",
}  # fmt: skip


@cache
def library() -> ctypes.CDLL | None:
    """ggml's own, in the wheel of pywhispercpp; None where that is not installed."""
    for path in Path(sysconfig.get_path("platlib")).glob("pywhispercpp.libs/libggml-base*.so*"):
        found = ctypes.CDLL(str(path))
        found.ggml_quantize_chunk.restype = ctypes.c_size_t
        pointer, long = ctypes.c_void_p, ctypes.c_int64
        found.ggml_quantize_chunk.argtypes = [ctypes.c_int, pointer, pointer, long, long, long, pointer]
        return found
    return None


def by_library(rows: Array, number: int) -> bytes:
    """All rows in one call."""
    values, size = BLOCK[number]
    out = np.empty(rows.size // values * size, np.uint8)
    found = library()
    assert found is not None
    found.ggml_quantize_chunk(number, rows.ctypes.data, out.ctypes.data, 0, len(rows), rows.shape[1], None)
    return out.tobytes()


def by_package(rows: Array, number: int) -> bytes:
    import gguf

    return bytes(gguf.quants.quantize(rows, gguf.GGMLQuantizationType(number)).tobytes())


def wanted(value: Array, number: int) -> list[bytes]:
    """What a tensor's bytes must be, by each independent maker."""
    if number == 0:
        return [value.tobytes()]
    if number in (1, 30):
        import torch

        cast = torch.from_numpy(value).to(torch.float16 if number == 1 else torch.bfloat16)
        return [cast.view(torch.int16).numpy().tobytes()]
    makers = [by_package] if number in LEGACY.values() else []
    makers += [by_library] if library() is not None else []
    assert makers, "neither the package nor the library is here"
    return [make(np.ascontiguousarray(value).reshape(-1, value.shape[-1]), number) for make in makers]


# ---- the two kinds of files: (name, type of its tensor, type that it should have, source's value, its bytes) ----

Found = tuple[str, int, int, Array, bytes]


def of_ggml(path: Path, source: dict[str, Any], kind: str) -> Iterator[Found]:
    """whisper.cpp's file, record by record to its end."""
    with path.open("rb") as file:

        def numbers(count: int) -> tuple[int, ...]:
            return struct.unpack(f"<{count}i", file.read(4 * count))

        assert numbers(12)[0] == 0x67676D6C
        rows, columns = numbers(2)
        file.seek(4 * rows * columns, 1)
        for _ in range(numbers(1)[0]):
            file.seek(numbers(1)[0], 1)
        while start := file.read(12):
            dimensions, length, number = struct.unpack("<3i", start)
            shape = tuple(reversed(numbers(dimensions)))
            name = file.read(length).decode()
            value = source[transformers_name(name)].float().numpy().reshape(shape)
            convolution = 0 if kind == "f32" else 1
            plain = dimensions == 1 or name in KEPT
            right = 0 if plain else convolution if dimensions == 3 else EVERY[kind]
            count = int(np.prod(shape))
            values, size = BLOCK.get(number, (1, 4 if number == 0 else 2))
            yield name, number, right, value, file.read(count // values * size)


def transformers_name(name: str) -> str:
    """Of whisper.cpp's name, which is openai-whisper's."""
    name = name.replace("decoder.token_embedding", "decoder.embed_tokens")
    name = name.replace("positional_embedding", "embed_positions.weight")
    name = re.sub(r"(encoder\.ln_post|decoder\.ln)\.", lambda m: m[1].partition(".")[0] + ".layer_norm.", name)
    name = re.sub(r"blocks\.(\d+)\.(.+)\.(weight|bias)$", lambda m: f"layers.{m[1]}.{PARTS[m[2]]}.{m[3]}", name)
    return f"model.{name}"


def of_gguf(path: Path, source: dict[str, Any], kind: str, config: dict[str, Any]) -> Iterator[Found]:
    """llama.cpp's file, by the package's reader; Llama's queries and keys row by row in its order."""
    import gguf

    architecture = gguf.MODEL_ARCH[config["model_type"].upper()]
    table = gguf.get_tensor_name_map(architecture, config["num_hidden_layers"])
    own = {table.get_name(name, try_suffixes=(".weight", ".bias")): name for name in source}
    tensors = gguf.GGUFReader(path).tensors
    assert {tensor.name for tensor in tensors} == set(own)
    for tensor in tensors:
        value = source[own[tensor.name]].float().numpy()
        slot = next((s for s in ("q_proj", "k_proj") if s in own[tensor.name]), "")
        if config["model_type"] == "llama" and slot:
            heads = config["num_attention_heads"] if slot == "q_proj" else config["num_key_value_heads"]
            half = len(value) // heads // 2
            order = [h * 2 * half + s * half + i for h in range(heads) for i in range(half) for s in (0, 1)]
            value = value[order]
        yield tensor.name, int(tensor.tensor_type), EVERY[kind] if value.ndim > 1 else 0, value, tensor.data.tobytes()


def compared(path: Path, model: Path, kind: str) -> dict[str, Any]:
    """How many tensors a file has, in the type asked for and in all, and which are not what they must be."""
    from safetensors.torch import load_file

    source = load_file(model / "model.safetensors")
    config = json.loads((model / "config.json").read_text())
    whisper = config["model_type"] == "whisper"
    found = of_ggml(path, source, kind) if whisper else of_gguf(path, source, kind, config)
    seen, wrong = [], []
    for name, number, right, value, raw in found:
        seen.append(number)
        if number != right or any(raw != one for one in wanted(value, number)):
            wrong.append(name)
    assert len(seen) == len(source), f"{len(seen)} tensors, the source has {len(source)}"
    return {"type": kind, "tensors": len(seen), "in the type": seen.count(EVERY[kind]), "wrong": wrong}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="whisper-small,whisper-large-v3,qwen2.5-0.5b,qwen2.5-1.5b,llama-3.2-1b")
    parser.add_argument("--layers", type=int, default=1, help="of each, for the others have the same shapes")
    parser.add_argument("--real", type=Path, help="a model's directory, whole")
    parser.add_argument("--types", default=",".join(EVERY))
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with common.workplace() as place:
        models = [make_sample(place, name, args.layers) for name in args.models.split(",") if name]
        for model in [*([args.real] if args.real else []), *models]:
            for kind in args.types.split(","):
                row = {"model": model.name, **exported(model, place / f"bytes-{kind}.bin", kind)}
                rows.append(row)
                print(row, flush=True)
    common.report("export-bytes", rows)
    wrong = sum(len(row["wrong"]) for row in rows)
    print(f"{sum(row['tensors'] for row in rows) - wrong:,} of {sum(row['tensors'] for row in rows):,} tensors")
    return int(wrong > 0)


def exported(model: Path, path: Path, kind: str) -> dict[str, Any]:
    """One type of one model compared; refused it may be for its rows alone."""
    config = json.loads((model / "config.json").read_text())
    to, width = ("ggml", "d_model") if config["model_type"] == "whisper" else ("gguf", "hidden_size")
    command = [common.CHORUS, "export", model, "--to", to, "--type", kind, "-o", path, "-q", "--overwrite"]
    told = subprocess.run([str(one) for one in command], check=False, capture_output=True, text=True)
    if config[width] % BLOCK.get(EVERY[kind], (1, 0))[0]:
        assert "are no whole blocks of" in told.stderr, told.stderr
        return {
            "type": kind,
            "tensors": 0,
            "in the type": 0,
            "wrong": [],
            "refused": told.stderr.partition("hint: ")[2],
        }
    assert told.returncode == 0, told.stderr
    try:
        return compared(path, model, kind)
    finally:
        path.unlink()
        path.with_name(path.name + ".json").unlink()


if __name__ == "__main__":
    raise SystemExit(main())
