"""The general rule on models that have no rule of their own: what must hold whatever the architecture."""

from __future__ import annotations

import pytest

from chorus.architectures.classes import architecture
from chorus.architectures.families import FAMILIES
from chorus.architectures.general import general_layout
from chorus.architectures.layouts import layout_of
from chorus.architectures.on_meta import build_on_meta
from chorus.architectures.roles import COMPONENTS, KINDS, Layout, Stack, layer_index, relative_depth

TEXT = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 8}  # fmt: skip
CONVOLUTIONS = {"conv_dim": [8, 8], "conv_stride": [5, 2], "conv_kernel": [10, 3], "num_feat_extract_layers": 2,
                "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2}  # fmt: skip
SEQUENCES = {"d_model": 16, "encoder_layers": 3, "decoder_layers": 2, "encoder_attention_heads": 2,
             "decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "vocab_size": 32,
             "max_position_embeddings": 16}  # fmt: skip
TOWER = {"d_model": 16, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 24, "num_mel_bins": 80,
         "max_source_positions": 50}  # fmt: skip

# model type -> class, settings, the components that it has, the layers of its stacks
MODELS = {
    "wav2vec2": ("Wav2Vec2ForCTC", {**TEXT, **CONVOLUTIONS}, {"encoder", "lm_head"}, {3}),
    "hubert": ("HubertForCTC", {**TEXT, **CONVOLUTIONS}, {"encoder", "lm_head"}, {3}),
    "wavlm": ("WavLMForCTC", {**TEXT, **CONVOLUTIONS, "num_buckets": 8}, {"encoder", "lm_head"}, {3}),
    "data2vec-audio": ("Data2VecAudioForCTC", {**TEXT, **CONVOLUTIONS}, {"encoder", "lm_head"}, {3}),
    "speech_to_text": (
        "Speech2TextForConditionalGeneration",
        {**SEQUENCES, "max_source_positions": 32, "max_target_positions": 16, "input_feat_per_channel": 8,
         "conv_channels": 8},
        {"encoder", "decoder", "cross_attention", "embeddings"}, {3, 2},
    ),
    "moonshine": (
        "MoonshineForConditionalGeneration",
        {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "encoder_num_hidden_layers": 3,
         "decoder_num_hidden_layers": 2, "encoder_num_attention_heads": 2, "decoder_num_attention_heads": 2,
         "encoder_num_key_value_heads": 2, "decoder_num_key_value_heads": 2},
        {"encoder", "decoder", "cross_attention", "embeddings"}, {3, 2},
    ),
    "qwen2_audio": (
        "Qwen2AudioForConditionalGeneration",
        {"audio_config": {"model_type": "qwen2_audio_encoder", **TOWER}, "text_config": {"model_type": "qwen2", **TEXT},
         "audio_token_index": 1},
        {"encoder", "projector", "language_model", "embeddings"}, {2, 3},
    ),
    "bart": (
        "BartForConditionalGeneration", SEQUENCES, {"encoder", "decoder", "cross_attention", "embeddings"}, {3, 2}
    ),
    "t5": (
        "T5ForConditionalGeneration",
        {"d_model": 16, "num_layers": 3, "num_decoder_layers": 2, "num_heads": 2, "d_kv": 8, "d_ff": 24,
         "vocab_size": 32},
        {"encoder", "decoder", "cross_attention", "embeddings"}, {3, 2},
    ),
    "gpt2": (
        "GPT2LMHeadModel", {"n_embd": 16, "n_layer": 3, "n_head": 2, "vocab_size": 32, "n_positions": 16},
        {"language_model", "embeddings"}, {3},
    ),
    "gemma": ("GemmaForCausalLM", TEXT, {"language_model", "embeddings"}, {3}),
    "phi3": ("Phi3ForCausalLM", {**TEXT, "pad_token_id": 0}, {"language_model", "embeddings", "lm_head"}, {3}),
    "mixtral": (
        "MixtralForCausalLM", {**TEXT, "num_local_experts": 2}, {"language_model", "embeddings", "lm_head"}, {3}
    ),
    "opt": (
        "OPTForCausalLM",
        {"vocab_size": 32, "hidden_size": 16, "ffn_dim": 24, "num_hidden_layers": 3, "num_attention_heads": 2,
         "word_embed_proj_dim": 16, "max_position_embeddings": 16},
        {"language_model", "embeddings"}, {3},
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def made():
    """For each: the model, the names in its file, its config, its layout."""
    known: dict[str, tuple] = {}

    def make(kind):
        if kind not in known:
            import transformers

            cls, settings, _, _ = MODELS[kind]
            model = build_on_meta({**settings, "model_type": kind, "architectures": [cls]})
            tied = set(getattr(model, "all_tied_weights_keys", None) or {})
            names = [n for n in model.state_dict() if n not in tied]
            config = {**transformers.AutoConfig.for_model(kind, **settings).to_dict(), "architectures": [cls]}
            known[kind] = (model, names, config, general_layout(config, names))
        return known[kind]

    return make


@pytest.mark.parametrize("kind", MODELS)
def test_every_tensor_has_a_role_of_the_known_words(made, kind):
    _, names, config, layout = made(kind)
    assert not any(matches(config) for matches, _ in FAMILIES)
    assert list(layout.roles) == names
    assert layout.family == kind
    assert {r.component for r in layout.roles.values()} <= set(COMPONENTS)
    assert {r.kind for r in layout.roles.values()} <= set(KINDS)
    assert {r.place for r in layout.roles.values()} <= {"before", "layer", "after"}


@pytest.mark.parametrize("kind", MODELS)
def test_the_components_are_those_of_the_architecture(made, kind):
    *_, layout = made(kind)
    assert {r.component for r in layout.roles.values()} >= MODELS[kind][2]
    assert "other" not in {r.component for r in layout.roles.values()}


@pytest.mark.parametrize("kind", MODELS)
def test_layers_are_counted_from_the_first_to_the_last(made, kind):
    _, names, _, layout = made(kind)
    assert {stack.count for stack in layout.stacks} == MODELS[kind][3]
    assert len({stack.module for stack in layout.stacks}) == len(layout.stacks)
    for stack in layout.stacks:
        inside = {n: layer_index(n, stack.prefix) for n in names if n.startswith(stack.prefix)}
        assert {number for number, _ in inside.values()} == set(range(stack.count))
        for name, (number, _) in inside.items():
            role = layout.roles[name]
            assert (role.layer, role.module, role.place) == (number, stack.module, "layer")
            assert role.depth == relative_depth(number, stack.count)
        rests = [sorted(rest for n, rest in inside.values() if n == number) for number in range(stack.count)]
        # layers are alike, but for what only the first has (T5's and WavLM's relative positions)
        assert all(set(rests[1]) == set(rest) for rest in rests[1:])
        assert set(rests[1]) <= set(rests[0])
    outside = [r for n, r in layout.roles.items() if not any(n.startswith(s.prefix) for s in layout.stacks)]
    assert outside
    assert all(r.layer is None and r.place != "layer" for r in outside)


@pytest.mark.parametrize("kind", MODELS)
def test_what_is_not_learnt_is_what_training_leaves_alone(made, kind):
    model, _, _, layout = made(kind)
    learned = {n for n, p in model.named_parameters(remove_duplicate=False) if p.requires_grad}
    assert {n for n, r in layout.roles.items() if r.learned} == learned & set(layout.roles)


@pytest.mark.parametrize("kind", MODELS)
def test_kinds_are_those_of_the_modules(made, kind):
    model, _, _, layout = made(kind)
    modules = dict(model.named_modules())
    for name, role in layout.roles.items():
        module = type(modules.get(name.rpartition(".")[0])).__name__
        if module.endswith(("LayerNorm", "RMSNorm", "GroupNorm")):
            assert role.kind == "norm", name
        elif name.endswith(".bias"):
            assert role.kind == "bias", name
        elif module in ("Conv1d", "Conv2d"):
            assert role.kind in ("convolution", "position"), name
        elif role.kind == "convolution":
            assert "conv" in name, name
    inside = {r.kind for r in layout.roles.values() if r.place == "layer"}
    assert inside >= {"attention", "mlp", "norm"}


@pytest.mark.parametrize("kind", MODELS)
def test_tied_tensors_lead_to_one_that_the_file_has(made, kind):
    model, names, _, layout = made(kind)
    assert set(layout.tied.values()) <= set(names)
    assert not set(layout.tied) & set(names)
    assert len(layout.tied) == len(getattr(model, "all_tied_weights_keys", None) or {})


@pytest.mark.parametrize("kind", ["wav2vec2", "gpt2"])
def test_names_with_and_without_the_base_models_prefix_have_one_role(made, kind):
    """A file of the base model alone is read as its part of the whole."""
    model, names, config, layout = made(kind)
    prefix = f"{model.base_model_prefix}."
    bare = [n.removeprefix(prefix) for n in names if n.startswith(prefix)]
    found = general_layout(config, bare)
    assert len(bare) > 10
    assert {n: layout.roles[prefix + n] for n in bare} == found.roles
    assert [s.count for s in found.stacks] == [s.count for s in layout.stacks]
    assert all(not s.prefix.startswith(prefix) for s in found.stacks)


def test_statistics_are_no_weights(made):
    """Buffers of running means, wherever they come from: merges keep the base's."""
    _, names, config, _ = made("wav2vec2")
    found = general_layout(config, [*names, "norm.running_mean", "norm.num_batches_tracked"])
    for name in ("norm.running_mean", "norm.num_batches_tracked"):
        assert (found.roles[name].kind, found.roles[name].learned) == ("statistics", False)


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({}, 'architecture "unnamed" is unknown to transformers'),
        ({"model_type": "no_such"}, 'architecture "no_such" is unknown'),
        ({"architectures": ["BertForMaskedLM"], "model_type": "no_such"}, "cannot build BertForMaskedLM"),
        ({"architectures": ["BertModel"], "model_type": "bert", "hidden_size": "x"}, "cannot build BertModel"),
        ({"architectures": ["BertModel"], "model_type": "bert", "hidden_size": 7}, "cannot build BertModel"),
    ],
)
def test_what_cannot_be_built_is_told(config, told):
    with pytest.raises(ValueError, match=told):
        layout_of(config, ["a"])


@pytest.mark.parametrize(
    ("config", "name"), [({}, ""), ({"architectures": []}, ""), ({"architectures": ["A", "B"]}, "A")]
)
def test_the_first_class_counts(config, name):
    assert architecture(config) == name


@pytest.mark.parametrize(
    ("name", "found"),
    [("l.3.a.b", (3, "a.b")), ("l.12.w", (12, "w")), ("l.3", None), ("l.x.w", None), ("m.3.w", None), ("l.", None)],
)
def test_layers_of_names(name, found):
    assert layer_index(name, "l.") == found


def test_depths_go_from_nought_to_one():
    assert [relative_depth(i, 3) for i in range(3)] == [0.0, 0.5, 1.0]
    assert relative_depth(0, 1) == 1.0


def test_a_layout_knows_its_stacks_by_name():
    stacks = (Stack("encoder", "e.", 2, None), Stack("decoder", "d.", 3, "n"))
    layout = Layout("any", {}, stacks)
    assert layout.stack("decoder") is stacks[1]
    assert layout.stack("vision") is None
    assert layout.modules == ("encoder", "decoder")
    assert Layout("any", {}, ()).modules == ("default",)
