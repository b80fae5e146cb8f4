"""What files of the families with a rule hold, from the config alone: neither torch nor transformers is asked.

The inventories that transformers' module tree gives must be the same (a test).
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Collection

from chorus.architectures.classes import UnknownClassError, architecture, check_counts
from chorus.architectures.families import is_causal_lm, is_whisper, whisper_prefix
from chorus.architectures.inventory import Inventory, Shape, with_prefix
from chorus.architectures.salmonn import is_salmonn
from chorus.plain import JsonMap

# defaults of the classes' configs, where a config.json is silent
WHISPER_DEFAULTS = {
    "vocab_size": 51865, "num_mel_bins": 80, "d_model": 384, "encoder_layers": 4, "decoder_layers": 4,
    "encoder_ffn_dim": 1536, "decoder_ffn_dim": 1536, "max_source_positions": 1500, "max_target_positions": 448,
}  # fmt: skip
_SMALL_MISTRAL = {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32}
CAUSAL_DEFAULTS: dict[str, dict[str, object]] = {
    "LlamaForCausalLM": {**_SMALL_MISTRAL, "vocab_size": 32000, "intermediate_size": 11008},
    "MistralForCausalLM": {
        **_SMALL_MISTRAL, "vocab_size": 32000, "intermediate_size": 14336, "num_key_value_heads": 8,
    },
    "Qwen2ForCausalLM": {
        **_SMALL_MISTRAL, "vocab_size": 151936, "intermediate_size": 22016, "num_key_value_heads": 32,
    },
    "Qwen3ForCausalLM": {
        **_SMALL_MISTRAL, "vocab_size": 151936, "intermediate_size": 22016, "num_key_value_heads": 32, "head_dim": 128,
    },
}  # fmt: skip
# which of q, k, v, o have a bias: of the class, else as the config says
BIASED = {"Qwen2ForCausalLM": "qkv", "MistralForCausalLM": ""}
ROTARY = re.compile(r"rotary_emb\.inv_freq$")


def family_inventory(config: JsonMap) -> Inventory | None:
    """The inventory of a config whose family has a rule; None for others. `ValueError` for numbers that are none."""
    if is_salmonn(config):  # which of its parts were trained nothing tells; and transformers need not be asked
        raise UnknownClassError("SALMONN's parts are known by their names alone")
    if not (is_whisper(config) or is_causal_lm(config)):
        return None
    check_counts(config)
    keys = {"architectures", "model_type", "tie_word_embeddings", "attention_bias", "mlp_bias", "num_key_value_heads",
            "head_dim", *WHISPER_DEFAULTS, *CAUSAL_DEFAULTS["LlamaForCausalLM"]}  # fmt: skip
    # ten fine-tunes of one model have one: a large Whisper's list is a thousand names
    return _known(json.dumps({key: config[key] for key in sorted(keys & set(config))}, default=str))


@functools.lru_cache(maxsize=16)
def _known(plain: str) -> Inventory:
    config = json.loads(plain)
    return whisper_inventory(config) if is_whisper(config) else causal_lm_inventory(config)


def whisper_inventory(config: JsonMap) -> Inventory:
    """Whisper of any size, with and without the head."""
    size = _numbers(config, WHISPER_DEFAULTS)
    prefix, width = whisper_prefix(config), size["d_model"]
    shapes: dict[str, Shape] = {}
    for side, positions in (("encoder", "max_source_positions"), ("decoder", "max_target_positions")):
        here = f"{prefix}{side}."
        shapes[f"{here}embed_positions.weight"] = (size[positions], width)
        _norm(shapes, f"{here}layer_norm", width)
        for layer in range(size[f"{side}_layers"]):
            _whisper_layer(shapes, f"{here}layers.{layer}.", side, width, size[f"{side}_ffn_dim"])
    shapes[f"{prefix}encoder.conv1.weight"] = (width, size["num_mel_bins"], 3)
    shapes[f"{prefix}encoder.conv2.weight"] = (width, width, 3)
    shapes[f"{prefix}encoder.conv1.bias"] = shapes[f"{prefix}encoder.conv2.bias"] = (width,)
    embedding = f"{prefix}decoder.embed_tokens.weight"
    shapes[embedding] = (size["vocab_size"], width)
    tied = {}
    if prefix:
        shapes["proj_out.weight"] = (size["vocab_size"], width)
        tied = {"proj_out.weight": embedding} if config.get("tie_word_embeddings", True) else {}
    return _inventory(config, shapes, tied)


def _whisper_layer(shapes: dict[str, Shape], here: str, side: str, width: int, inner: int) -> None:
    for attention in ("self_attn", "encoder_attn") if side == "decoder" else ("self_attn",):
        for part in ("k_proj", "v_proj", "q_proj", "out_proj"):
            shapes[f"{here}{attention}.{part}.weight"] = (width, width)
            if part != "k_proj":  # Whisper's keys have no bias
                shapes[f"{here}{attention}.{part}.bias"] = (width,)
        _norm(shapes, f"{here}{attention}_layer_norm", width)
    shapes |= {f"{here}fc1.weight": (inner, width), f"{here}fc1.bias": (inner,)}
    shapes |= {f"{here}fc2.weight": (width, inner), f"{here}fc2.bias": (width,)}
    _norm(shapes, f"{here}final_layer_norm", width)


def causal_lm_inventory(config: JsonMap) -> Inventory:
    """Qwen2, Qwen3, Llama, Mistral."""
    name = architecture(config)
    size = _numbers(config, CAUSAL_DEFAULTS[name])
    width, heads = size["hidden_size"], size["num_attention_heads"]
    shapes: dict[str, Shape] = {
        "model.embed_tokens.weight": (size["vocab_size"], width),
        "model.norm.weight": (width,),
        "lm_head.weight": (size["vocab_size"], width),
    }
    each = size.get("head_dim") or width // heads
    grouped = size.get("num_key_value_heads") or heads
    wide = {"q": heads * each, "k": grouped * each, "v": grouped * each}
    biased = BIASED.get(name, "qkvo" if config.get("attention_bias") else "")
    for layer in range(size["num_hidden_layers"]):
        here = f"model.layers.{layer}."
        for part in "qkvo":
            shape = (width, wide["q"]) if part == "o" else (wide[part], width)
            shapes[f"{here}self_attn.{part}_proj.weight"] = shape
            if part in biased:
                shapes[f"{here}self_attn.{part}_proj.bias"] = shape[:1]
        if name == "Qwen3ForCausalLM":
            shapes |= {f"{here}self_attn.q_norm.weight": (each,), f"{here}self_attn.k_norm.weight": (each,)}
        for part in ("gate", "up", "down"):
            shape = (width, size["intermediate_size"]) if part == "down" else (size["intermediate_size"], width)
            shapes[f"{here}mlp.{part}_proj.weight"] = shape
            if name == "LlamaForCausalLM" and config.get("mlp_bias"):
                shapes[f"{here}mlp.{part}_proj.bias"] = shape[:1]
        shapes |= {f"{here}input_layernorm.weight": (width,), f"{here}post_attention_layernorm.weight": (width,)}
    # where the config is silent its class's default holds: transformers ties none of these four
    tied = {"lm_head.weight": "model.embed_tokens.weight"} if config.get("tie_word_embeddings", False) else {}
    return _inventory(config, shapes, tied)


def _inventory(config: JsonMap, shapes: dict[str, Shape], tied: dict[str, str]) -> Inventory:
    return Inventory(architecture(config), shapes, tied, with_prefix(shapes, "model."), _ignored)


def _ignored(name: str) -> bool:
    return ROTARY.search(name) is not None


def _norm(shapes: dict[str, Shape], name: str, width: int) -> None:
    shapes |= {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _numbers(config: JsonMap, defaults: JsonMap) -> dict[str, int]:
    """The sizes that a config gives, its class's where it is silent."""
    found = {}
    optional = {"num_key_value_heads", "head_dim"}
    wanted: Collection[str] = {*defaults, *optional}
    for key in wanted:
        value = config.get(key, defaults.get(key))
        if value is None and key in optional:
            continue
        least = 0 if key.endswith("layers") else 1
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(f"{key} of its config.json is {value!r}, which is no size")
        found[key] = value
    return found
