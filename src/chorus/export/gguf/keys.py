"""The keys of a file: what the model is called, its sizes, positions and tokens."""

from __future__ import annotations

import math
from pathlib import PurePath

from chorus.checkpoints.model import Model
from chorus.export.ggml.layout import NumberType
from chorus.export.gguf.kinds import LanguageKind, heads_of, rope_of
from chorus.export.gguf.package import Keys, package
from chorus.export.gguf.tensors import GgufTensor
from chorus.export.gguf.tokens import Words
from chorus.export.gguf.writer import FILE_TYPES
from chorus.plain import JsonMap


def called(label: str) -> str:
    """What a model is called, without the place where it lies."""
    return PurePath(label.rpartition("+")[2]).name.partition("@")[0] or "model"


def describe_file(keys: Keys, kind: NumberType, label: str, what: str) -> None:
    """What every file says: `what` it is (a model, an adapter), its name, its type."""
    keys.add_type(what)
    keys.add_name(called(label))
    keys.add_file_type(FILE_TYPES[kind.name])
    # llama.cpp refuses blocks of a version that it does not know
    keys.add_quantization_version(package().GGML_QUANT_VERSION)


def describe_model(keys: Keys, model: Model, kind: LanguageKind, made: list[GgufTensor]) -> None:
    """Sizes and positions, by the names of `kind`'s architecture."""
    config, shapes = model.config, {entry.name: entry.shape for entry in made}
    heads, key_heads, width = heads_of(model, shapes)
    total = sum(entry.count for entry in made)
    keys.add_size_label(package().size_label(total, total, 0, 0))
    keys.add_block_count(int(config["num_hidden_layers"]))
    keys.add_context_length(int(config.get("max_position_embeddings") or kind.context))
    # by the tensors, not the config: the file must fit itself
    keys.add_embedding_length(shapes["token_embd.weight"][1])
    keys.add_feed_forward_length(shapes["blk.0.ffn_up.weight"][0])
    keys.add_head_count(heads)
    keys.add_head_count_kv(key_heads)
    # never left out: Qwen3's heads are wider than its embedding divided among them
    keys.add_key_length(width)
    keys.add_value_length(width)
    keys.add_layer_norm_rms_eps(float(config.get("rms_norm_eps", 1e-6)))
    keys.add_vocab_size(shapes["token_embd.weight"][0])
    # transformers reads a Llama's head from this key, the converter writes it for no other
    if kind.permuted:
        keys.add_rope_dimension_count(width)
    describe_positions(keys, config)


def describe_positions(keys: Keys, config: JsonMap) -> None:
    """Rotary positions. Llama 3.1's scaling is a tensor (see `frequency_factors`), and no kind of scaling here."""
    rope = rope_of(config)
    keys.add_rope_freq_base(float(rope["rope_theta"]))
    kinds = package().RopeScalingType
    if rope["rope_type"] == "linear":
        keys.add_rope_scaling_type(kinds.LINEAR)
        keys.add_rope_scaling_factor(float(rope["factor"]))
    if rope["rope_type"] == "yarn":
        keys.add_rope_scaling_type(kinds.YARN)
        keys.add_rope_scaling_factor(float(rope["factor"]))
        # what it was trained for before it was stretched; a config without it means the context that it has
        original = rope.get("original_max_position_embeddings") or config.get("max_position_embeddings")
        keys.add_rope_scaling_orig_ctx_len(int(original or 0))
        if (ratio := attention_ratio(rope)) != 1:
            keys.add_rope_scaling_attn_factors(ratio)


def attention_ratio(rope: JsonMap) -> float:
    """YaRN's factor of attention over the one that llama.cpp takes by itself, 1 + 0.1 ln(factor).

    transformers' is the whole factor, llama.cpp's (rope.scaling.attn_factor) comes on top of its own.
    """
    factor = float(rope["factor"])

    def scale(times: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * times * math.log(factor) + 1

    given, over, under = rope.get("attention_factor"), rope.get("mscale"), rope.get("mscale_all_dim")
    if given is not None:
        return float(given) / scale(1)
    if over and under:
        return scale(float(over)) / scale(float(under)) / scale(1)
    return 1.0


def describe_words(keys: Keys, words: Words) -> None:
    """The tokenizer."""
    names = package().Keys.Tokenizer
    keys.add_tokenizer_model(words.model)
    keys.add_tokenizer_pre(words.pre)
    keys.add_token_list(words.tokens)
    keys.add_token_types(words.types)
    if words.scores:
        keys.add_token_scores(words.scores)
    if words.merges:
        keys.add_token_merges(words.merges)
    for role, i in words.special.items():
        getattr(keys, f"add_{role}_token_id")(i)
    # said even where it is no: what llama.cpp takes where nothing is said depends on the rules' name
    keys.add_add_bos_token(words.add_bos)
    keys.add_add_eos_token(words.add_eos)
    if words.add_space_prefix is not None:
        keys.add_add_space_prefix(words.add_space_prefix)
    templates = dict(sorted(words.templates.items()))
    if default := templates.pop("default", ""):
        keys.add_string(names.CHAT_TEMPLATE, default)
    for name, template in templates.items():
        keys.add_string(names.CHAT_TEMPLATE_N.format(name=_plain(name)), template)
    # the package's own call lists them in the order of a set, so that no two files were alike
    keys.add_array(names.CHAT_TEMPLATES, [_plain(name) for name in templates])


def _plain(name: str) -> str:
    return "".join(letter if letter.isascii() and letter.isalnum() else "_" for letter in name)
