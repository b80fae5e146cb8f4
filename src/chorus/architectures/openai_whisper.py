"""openai-whisper's own checkpoints: what its tensors and dimensions are in transformers' words."""

from __future__ import annotations

import re
from collections.abc import Mapping

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
