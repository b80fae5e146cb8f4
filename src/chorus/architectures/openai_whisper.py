"""openai-whisper's own checkpoints: what its tensors and dimensions are in transformers' words."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from chorus.plain import JsonMap

# openai-whisper's module names -> transformers', in this order
OPENAI_NAMES = (
    (r"\.blocks\.", ".layers."),
    (r"\.cross_attn_ln\.", ".encoder_attn_layer_norm."),
    (r"\.cross_attn\.", ".encoder_attn."),
    (r"\.attn_ln\.", ".self_attn_layer_norm."),
    (r"\.attn\.", ".self_attn."),
    (r"\.query\.", ".q_proj."),
    (r"\.key\.", ".k_proj."),
    (r"\.value\.", ".v_proj."),
    # `.attn.` is `.self_attn.` by now, so that this one takes both kinds of attention
    (r"_attn\.out\.", "_attn.out_proj."),
    (r"\.mlp_ln\.", ".final_layer_norm."),
    (r"\.mlp\.0\.", ".fc1."),
    (r"\.mlp\.2\.", ".fc2."),
    (r"\.ln_post\.", ".layer_norm."),
    (r"^decoder\.ln\.", "decoder.layer_norm."),
    # a tensor of its own there, the weight of an embedding here
    (r"\.positional_embedding$", ".embed_positions.weight"),
    (r"\.token_embedding\.", ".embed_tokens."),
)


def transformers_name(name: str) -> str:
    """The name that transformers gives to a tensor of openai-whisper.

    >>> transformers_name("decoder.blocks.0.cross_attn.out.bias")
    'model.decoder.layers.0.encoder_attn.out_proj.bias'
    """
    for pattern, replacement in OPENAI_NAMES:  # in their order: `attn` is a part of `cross_attn`
        name = re.sub(pattern, replacement, name)
    return f"model.{name}"


def openai_names(encoder_layers: int, decoder_layers: int) -> list[str]:
    """All tensors of a Whisper of so many layers under openai-whisper's names, which whisper.cpp has too.

    >>> len(openai_names(4, 4)) == 11 + 15 * 4 + 24 * 4
    True
    """
    names = ["encoder.positional_embedding", *_both("encoder", "conv1", "conv2")]
    for layer in range(encoder_layers):
        names += _block(f"encoder.blocks.{layer}", ("attn",))
    names += [*_both("encoder", "ln_post"), "decoder.positional_embedding", "decoder.token_embedding.weight"]
    for layer in range(decoder_layers):
        names += _block(f"decoder.blocks.{layer}", ("attn", "cross_attn"))
    return [*names, *_both("decoder", "ln")]


def _block(block: str, attentions: Sequence[str]) -> list[str]:
    names: list[str] = []
    for attention in attentions:
        # keys have no bias: softmax does not see one
        names += [*_both(f"{block}.{attention}", "query"), f"{block}.{attention}.key.weight"]
        names += [*_both(f"{block}.{attention}", "value", "out"), *_both(block, f"{attention}_ln")]
    return [*names, *_both(block, "mlp.0", "mlp.2", "mlp_ln")]


def _both(within: str, *modules: str) -> list[str]:
    return [f"{within}.{module}.{part}" for module in modules for part in ("weight", "bias")]


def dimensions(config: JsonMap) -> dict[str, int]:
    """openai-whisper's ten dimensions of a transformers config."""
    return {
        "n_mels": int(config["num_mel_bins"]),
        "n_audio_ctx": int(config["max_source_positions"]),
        "n_audio_state": int(config["d_model"]),
        "n_audio_head": int(config["encoder_attention_heads"]),
        "n_audio_layer": int(config["encoder_layers"]),
        "n_vocab": int(config["vocab_size"]),
        # not `max_length`, which fine-tunes set to what they generate: the table has as many rows as before
        "n_text_ctx": int(config["max_target_positions"]),
        "n_text_state": int(config["d_model"]),
        "n_text_head": int(config["decoder_attention_heads"]),
        "n_text_layer": int(config["decoder_layers"]),
    }


def transformers_config(dims: Mapping[str, int]) -> dict[str, object]:
    """The transformers config of these dimensions."""
    # openai-whisper's own rule (`is_multilingual`): 51864 tokens are English alone, 51865 and 51866 have 99 and 100
    # languages
    multilingual = dims["n_vocab"] >= 51865
    # <|startoftranscript|>; <|endoftext|> is the token before it, and is begin, end and padding as well
    start = 50258 if multilingual else 50257
    return {
        "architectures": ["WhisperForConditionalGeneration"],
        "model_type": "whisper",
        "vocab_size": dims["n_vocab"],
        "num_mel_bins": dims["n_mels"],
        "d_model": dims["n_audio_state"],
        "encoder_layers": dims["n_audio_layer"],
        "encoder_attention_heads": dims["n_audio_head"],
        # not among the dimensions: openai-whisper's code fixes it at four times the width
        "encoder_ffn_dim": 4 * dims["n_audio_state"],
        "decoder_layers": dims["n_text_layer"],
        "decoder_attention_heads": dims["n_text_head"],
        "decoder_ffn_dim": 4 * dims["n_text_state"],
        "max_source_positions": dims["n_audio_ctx"],
        "max_target_positions": dims["n_text_ctx"],
        "num_hidden_layers": dims["n_audio_layer"],
        "is_encoder_decoder": True,
        "decoder_start_token_id": start,
        "bos_token_id": start - 1,
        "eos_token_id": start - 1,
        "pad_token_id": start - 1,
        "torch_dtype": "float16",
    }
