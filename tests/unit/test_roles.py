"""Every tensor of every family gets its role, and the general rule agrees with the families' own."""

from __future__ import annotations

from collections import Counter

import pytest

from chorus.architectures import families
from chorus.architectures.general import general_layout
from chorus.architectures.layouts import layout_of
from models import CONFIGS, build

EXTRA = {
    "whisper large-v3": ("whisper", {"vocab_size": 51866, "num_mel_bins": 128}),
    "whisper .en": ("whisper", {"vocab_size": 51864}),
    "whisper turbo": ("whisper", {"vocab_size": 51866, "num_mel_bins": 128, "encoder_layers": 4, "decoder_layers": 1}),
    "qwen2 untied": ("qwen2", {"tie_word_embeddings": False}),
}
CASES = {**{kind: (kind, {}) for kind in CONFIGS}, **EXTRA}


def names_and_config(kind, changes):
    model = build(kind, **changes)
    tied = set(getattr(model, "all_tied_weights_keys", {}))
    config = {**model.config.to_dict(), "architectures": [type(model).__name__]}
    return [n for n in model.state_dict() if n not in tied], config


@pytest.mark.parametrize("case", CASES)
def test_the_general_rule_labels_as_the_family_does(case):
    names, config = names_and_config(*CASES[case])
    own, general = layout_of(config, dict.fromkeys(names)), general_layout(config, names)
    assert len(own.roles) == len(names) > 10
    assert {n: r for n, r in own.roles.items() if general.roles[n] != r} == {}
    assert [(s.module, s.prefix, s.count, s.config_key) for s in own.stacks] == [
        (s.module, s.prefix, s.count, s.config_key) for s in general.stacks
    ]
    assert own.tied == general.tied


def test_whisper_roles_are_those_of_its_parts():
    names, config = names_and_config("whisper", {})
    layout = layout_of(config, dict.fromkeys(names))
    count = Counter(r.component for r in layout.roles.values())
    # 11 outside the layers, 15 a layer of the encoder, 24 of the decoder, of which 9 are cross-attention
    assert len(names) == 11 + 15 * 2 + 24 * 3
    assert count["cross_attention"] == 9 * 3
    assert count["encoder"] == 15 * 2 + 7
    assert count["decoder"] == 15 * 3 + 3
    assert count["embeddings"] == 1
    position = layout.roles["model.encoder.embed_positions.weight"]
    assert (position.kind, position.learned) == ("position", False)
    assert layout.roles["model.decoder.embed_positions.weight"].learned
    assert layout.tied == {"proj_out.weight": "model.decoder.embed_tokens.weight"}


@pytest.mark.parametrize(
    ("kind", "changes", "expected"),
    [
        ("wav2vec2", {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16,
                      "conv_dim": [8, 8], "conv_stride": [5, 2], "conv_kernel": [10, 3], "num_feat_extract_layers": 2,
                      "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2, "vocab_size": 12},
         {"encoder", "lm_head"}),
        ("gpt2", {"n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": 32, "n_positions": 16},
         {"language_model", "embeddings"}),
        ("t5", {"d_model": 16, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 2, "d_kv": 8, "d_ff": 16,
                "vocab_size": 32}, {"encoder", "decoder", "cross_attention", "embeddings"}),
    ],
)  # fmt: skip
def test_a_family_without_a_rule_is_labelled_by_structure(kind, changes, expected):
    import transformers

    config = transformers.AutoConfig.for_model(kind, **changes)
    cls = {"wav2vec2": "Wav2Vec2ForCTC", "gpt2": "GPT2LMHeadModel", "t5": "T5ForConditionalGeneration"}[kind]
    model = getattr(transformers, cls)(config)
    tied = set(getattr(model, "all_tied_weights_keys", {}))
    names = [n for n in model.state_dict() if n not in tied]
    settings = {**model.config.to_dict(), "architectures": [cls]}
    assert not any(rule(settings) for rule, _ in families.FAMILIES)
    layout = layout_of(settings, dict.fromkeys(names))
    assert {r.component for r in layout.roles.values()} >= expected
    assert sum(r.layer is not None for r in layout.roles.values()) > len(names) / 2


def test_an_unknown_class_is_an_error_that_names_it():
    with pytest.raises(ValueError, match="NoSuchModel"):
        general_layout({"architectures": ["NoSuchModel"], "model_type": "none"}, ["a"])
