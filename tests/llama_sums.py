"""llama.cpp's sums over a GGUF's keys and tensors, in numpy: what its graph of Llama, Qwen2 and Qwen3 computes.

Written from what ggml documents of its operators: rotary positions in pairs (Llama) or halves (Qwen), divided by
`rope_freqs`, scaled by the factor, with YaRN's ramp and factor of attention.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray


class File:
    def __init__(self, path: Path) -> None:
        import gguf

        reader = gguf.GGUFReader(path)
        self.keys = {name: field.contents() for name, field in reader.fields.items()}
        self.kind = str(self.keys["general.architecture"])
        self.tensors = {t.name: gguf.quants.dequantize(t.data, t.tensor_type) for t in reader.tensors}

    def key(self, name: str, default: Any = None) -> Any:
        return self.keys.get(f"{self.kind}.{name}", default)

    def linear(self, x: Array, name: str) -> Array:
        return x @ self.tensors[f"{name}.weight"].T + self.tensors.get(f"{name}.bias", np.float32(0))

    def norm(self, x: Array, name: str) -> Array:
        mean = (x.astype(np.float64) ** 2).mean(-1, keepdims=True)
        scale = np.sqrt(mean + self.key("attention.layer_norm_rms_epsilon"))
        return x / scale * self.tensors[f"{name}.weight"]

    def angles(self, count: int, width: int) -> tuple[Array, float]:
        """[count, width / 2], and what cosine and sine are multiplied with."""
        base, scaling = self.key("rope.freq_base"), self.key("rope.scaling.type")
        plain = base ** (-np.arange(0, width, 2) / width) / self.tensors.get("rope_freqs.weight", np.float32(1))
        size = self.key("rope.scaling.attn_factor", 1.0)
        factor = self.key("rope.scaling.factor", 1.0)
        if scaling == "linear":
            plain = plain / factor
        if scaling == "yarn":
            original = self.key("rope.scaling.original_context_length")

            def turns(times: float) -> float:
                return width * math.log(original / (times * 2 * math.pi)) / (2 * math.log(base))

            # never the file's own betas: for these architectures llama.cpp does not read them
            low, high = max(0, math.floor(turns(32.0))), min(width - 1, math.ceil(turns(1.0)))
            ramp = 1 - np.clip((np.arange(width // 2) - low) / max(0.001, high - low), 0, 1)
            plain = plain / factor * (1 - ramp) + plain * ramp
            size *= 1 + 0.1 * math.log(factor)
        return np.arange(count)[:, None] * plain, size

    def rotated(self, x: Array) -> Array:
        """[count, heads, width] turned by position."""
        angles, size = self.angles(len(x), x.shape[-1])
        cos, sin = (size * f(angles)[:, None] for f in (np.cos, np.sin))
        half = x.shape[-1] // 2
        pairs = self.kind == "llama"
        one, two = (x[..., 0::2], x[..., 1::2]) if pairs else (x[..., :half], x[..., half:])
        made = np.empty_like(x)
        into = (made[..., 0::2], made[..., 1::2]) if pairs else (made[..., :half], made[..., half:])
        into[0][:], into[1][:] = one * cos - two * sin, one * sin + two * cos
        return made

    def attention(self, x: Array, block: str) -> Array:
        heads, key_heads = self.key("attention.head_count"), self.key("attention.head_count_kv")
        q, k, v = (self.linear(x, f"{block}.attn_{slot}").reshape(len(x), n, -1) for slot, n in
                   (("q", heads), ("k", key_heads), ("v", key_heads)))  # fmt: skip
        if f"{block}.attn_q_norm.weight" in self.tensors:
            q, k = self.norm(q, f"{block}.attn_q_norm"), self.norm(k, f"{block}.attn_k_norm")
        q, k = self.rotated(q), self.rotated(k)
        k, v = (np.repeat(one, heads // key_heads, axis=1) for one in (k, v))
        scores = np.einsum("ihd,jhd->hij", q, k) / math.sqrt(self.key("attention.key_length"))
        scores = np.where(np.tril(np.ones((len(x), len(x)), bool)), scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        return self.linear(np.einsum("hij,jhd->ihd", weights, v).reshape(len(x), -1), f"{block}.attn_output")

    def logits(self, ids: list[int]) -> Array:
        x = self.tensors["token_embd.weight"][ids].astype(np.float64)
        for i in range(self.key("block_count")):
            x = x + self.attention(self.norm(x, f"blk.{i}.attn_norm"), f"blk.{i}")
            y = self.norm(x, f"blk.{i}.ffn_norm")
            gate = self.linear(y, f"blk.{i}.ffn_gate")
            x = x + self.linear(gate / (1 + np.exp(-gate)) * self.linear(y, f"blk.{i}.ffn_up"), f"blk.{i}.ffn_down")
        head = self.tensors.get("output.weight", self.tensors["token_embd.weight"])
        return self.norm(x, "output_norm") @ head.T
