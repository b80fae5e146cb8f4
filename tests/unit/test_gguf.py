"""llama.cpp's file, read by the package's reader and by transformers: tensors, tokens, positions, what is refused."""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import chorus
from chats import CHATML, LLAMA3, SPECIALS, TEXT, edited, language_model, model_proto, pieces
from chorus.errors import CheckpointError, OutputError, UsageError
from chorus.export.ggml.layout import TYPES
from chorus.export.ggml.quants import needs
from chorus.export.gguf.keys import attention_ratio
from chorus.export.gguf.kinds import rope_of
from chorus.export.gguf.modelfile import CHATML as QWENS
from chorus.export.gguf.modelfile import TALK
from chorus.export.gguf.pre_tokenizers import KNOWN
from chorus.export.gguf.tensors import frequency_factors, pairs
from chorus.export.gguf.writer import FILE_TYPES
from llama_sums import File

gguf = pytest.importorskip("gguf")
KINDS = ("qwen2", "qwen3", "llama3", "llama2")
LEGACY = ("q8_0", "q5_0", "q5_1", "q4_0", "q4_1")
LLAMA2 = pieces()
TEXTS = ("The quick brown fox", "she's 12345!\n\n  ok\t東京 🦙", "<|im_start|>user<tool>", "")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model of each kind, and its file in every plain and legacy type."""
    folder = tmp_path_factory.mktemp("models")
    for kind in KINDS:
        language_model(folder / kind, kind, tie_word_embeddings=kind == "qwen2")
        chorus.export(folder / kind, folder / f"{kind}-out", "gguf", types=["f32", "f16", "bf16", *LEGACY])
    return {kind: folder / kind for kind in KINDS}


def file_of(model: Path, kind: str = "f32") -> Path:
    return model.with_name(f"{model.name}-out") / f"{model.name}-{kind}.gguf"


def keys_of(path: Path) -> dict[str, Any]:
    return {name: field.contents() for name, field in gguf.GGUFReader(path).fields.items()}


def tensors_of(path: Path) -> dict[str, Any]:
    return {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}


def values_of(path: Path) -> dict[str, np.ndarray]:
    return {n: gguf.quants.dequantize(t.data, t.tensor_type) for n, t in tensors_of(path).items()}


def config_of(model: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((model / "config.json").read_text())
    return found


def loaded(folder: Path, **kwargs: Any) -> Any:
    import transformers

    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **kwargs)


# ---- the tensors ----


def in_its_order(name: str, value: np.ndarray, config: dict[str, Any]) -> np.ndarray:
    """A tensor of transformers' as llama.cpp has it: Llama's queries and keys row by row, here one by one."""
    slot = next((s for s in ("q_proj", "k_proj") if s in name), "")
    if config["model_type"] != "llama" or not slot:
        return value
    heads = config["num_attention_heads"] if slot == "q_proj" else config["num_key_value_heads"]
    width = len(value) // heads
    order = [h * width + half * (width // 2) + i for h in range(heads) for i in range(width // 2) for half in (0, 1)]
    return value[order]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", ["f32", "f16", "bf16", *LEGACY])
def test_every_tensor_is_the_source_s_in_its_type(made, kind, number):
    config = config_of(made[kind])
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[config["model_type"].upper()], 2)
    source = {
        names.get_name(name, try_suffixes=(".weight", ".bias")): in_its_order(name, value.numpy(), config)
        for name, value in load_file(made[kind] / "model.safetensors").items()
    }
    found = tensors_of(file_of(made[kind], number))
    assert found.keys() == source.keys()
    assert len(found) == {"qwen2": 26, "qwen3": 25, "llama3": 21, "llama2": 21}[kind]
    plain = 0
    for name, tensor in found.items():
        assert list(reversed(tensor.shape.tolist())) == list(source[name].shape)
        matrix = source[name].ndim == 2
        plain += not matrix
        wanted = gguf.GGMLQuantizationType[number.upper() if matrix else "F32"]
        assert tensor.tensor_type == wanted
        assert tensor.data.tobytes() == gguf.quants.quantize(source[name], wanted).tobytes()
        assert tensor.data_offset % 32 == 0
    assert plain == len(found) - (15 if kind == "qwen2" else 16)


@pytest.mark.parametrize("number", [name for name, one in TYPES.items() if one.values == 256 or name == "iq4_nl"])
def test_ggml_s_own_types_are_ggml_s_bytes(tmp_path, number):
    if needs(TYPES[number]):
        pytest.skip("ggml's library is not here")
    model = language_model(tmp_path / "m", "qwen2", hidden_size=256, intermediate_size=512, num_hidden_layers=1)
    path = chorus.export(model, tmp_path / "m.gguf", "gguf", types=number).places[number]
    found, plain = tensors_of(path), loaded(model).state_dict()
    assert keys_of(path)["general.file_type"] == FILE_TYPES[number]
    value = plain["model.layers.0.mlp.down_proj.weight"].numpy()
    tensor = found["blk.0.ffn_down.weight"]
    assert tensor.tensor_type.name == number.upper()
    back = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
    assert np.sqrt(np.mean((back - value) ** 2)) / value.std() < 1.2 * 2.0 ** (1.2 - TYPES[number].bits)


def test_file_types_are_the_package_s():
    names = {name: gguf.LlamaFileType(number).name for name, number in FILE_TYPES.items()}
    assert FILE_TYPES.keys() == TYPES.keys()
    assert names.pop("f32") == "ALL_F32"
    assert all(found.removeprefix("MOSTLY_").removesuffix("_S") == name.upper() for name, found in names.items())


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 6), st.integers(1, 5), st.integers(1, 4))
def test_rows_in_pairs_are_undone_by_transformers_own(heads, half, columns):
    from transformers.modeling_gguf_pytorch_utils import LlamaTensorProcessor

    rows = np.arange(heads * 2 * half * columns, dtype=np.float32).reshape(-1, columns)
    turned = pairs(rows, 2 * half)
    assert np.array_equal(LlamaTensorProcessor()._reverse_permute_weights(turned, heads), rows)
    assert np.array_equal(turned, rows) == (half == 1)


# ---- as transformers loads it ----


@pytest.mark.parametrize("kind", KINDS)
def test_transformers_hears_the_same_model(made, kind):
    source = loaded(made[kind])
    ids = torch.randint(0, 380, (2, 32), generator=torch.Generator().manual_seed(0))
    folder = file_of(made[kind]).parent
    with torch.no_grad():
        wanted = source(ids).logits
        whole = loaded(folder, gguf_file=file_of(made[kind]).name)
        assert torch.equal(whole(ids).logits, wanted)
        half = loaded(folder, gguf_file=file_of(made[kind], "f16").name)
        assert 0 < (half(ids).logits - wanted).abs().max() < 0.02 * wanted.abs().max()
    prompt = {"input_ids": ids[:1, :8], "attention_mask": torch.ones(1, 8), "max_new_tokens": 12, "do_sample": False}
    assert torch.equal(whole.generate(**prompt), source.generate(**prompt))
    assert whole.config.tie_word_embeddings == (kind == "qwen2")


@pytest.mark.parametrize("kind", KINDS)
def test_transformers_reads_the_same_tokens(made, kind):
    import transformers

    source = transformers.AutoTokenizer.from_pretrained(made[kind])
    found = transformers.AutoTokenizer.from_pretrained(file_of(made[kind]).parent, gguf_file=file_of(made[kind]).name)
    for text in TEXTS:
        assert found.encode(text) == source.encode(text), text
    assert found.eos_token == source.eos_token
    assert found.bos_token in (source.bos_token, "<|endoftext|>")
    if kind != "llama2":
        chat = [{"role": "user", "content": "Hi"}]
        assert found.apply_chat_template(chat, tokenize=False) == source.apply_chat_template(chat, tokenize=False)


LLAMA31 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
YARN = {"factor": 4.0, "original_max_position_embeddings": 64}


@pytest.mark.parametrize(
    ("kind", "rope"),
    [
        *((kind, {}) for kind in KINDS),
        ("llama3", {"rope_type": "llama3", **LLAMA31}),
        ("llama3", {"rope_type": "linear", "factor": 2.0}),
        ("qwen2", {"rope_type": "yarn", **YARN}),
        ("llama2", {"rope_type": "yarn", **YARN, "attention_factor": 1.5}),
        ("qwen3", {"rope_type": "yarn", **YARN, "beta_fast": 32.0, "beta_slow": 1}),
    ],
)
def test_llama_cpp_s_sums_over_the_file_are_the_source_s(tmp_path, kind, rope):
    rope = {"rope_parameters": {"rope_theta": 10000.0, **rope}} if rope else {}
    biases = {"attention_bias": True, "mlp_bias": True} if kind == "llama3" else {}
    model = language_model(tmp_path / "m", kind, tie_word_embeddings=kind == "qwen2", **rope, **biases)
    path = chorus.export(model, tmp_path / "m.gguf", "gguf", types="f32").places["f32"]
    ids = torch.randint(0, 380, (1, 48), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = loaded(model)(ids).logits[0].numpy()
    found = File(path).logits(ids[0].tolist())
    assert np.abs(found - wanted).max() < 2e-5 * np.abs(wanted).max()


# ---- keys ----


def test_sizes_and_tokens_of_a_qwen(made):
    found = keys_of(file_of(made["qwen2"], "q5_0"))
    for name, value in {
        "general.architecture": "qwen2", "general.type": "model", "general.name": "qwen2", "general.file_type": 8,
        "qwen2.block_count": 2, "qwen2.context_length": 256, "qwen2.embedding_length": 64,
        "qwen2.feed_forward_length": 128, "qwen2.attention.head_count": 4, "qwen2.attention.head_count_kv": 2,
        "qwen2.attention.key_length": 16, "qwen2.rope.freq_base": 10000.0, "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2", "tokenizer.ggml.add_bos_token": False, "tokenizer.chat_template": CHATML,
    }.items():  # fmt: skip
        assert found[name] == value, name
    assert found["qwen2.attention.layer_norm_rms_epsilon"] == pytest.approx(1e-6)
    tokens, types = found["tokenizer.ggml.tokens"], found["tokenizer.ggml.token_type"]
    assert len(tokens) == len(types) == 512
    ids = {token: i for i, token in enumerate(tokens)}
    assert {types[ids[token]] for token in SPECIALS["qwen"]} == {gguf.TokenType.CONTROL}
    assert types[ids["<tool>"]] == gguf.TokenType.USER_DEFINED
    assert types[ids["he"]] == gguf.TokenType.NORMAL
    assert (tokens[511], types[511]) == ("[PAD511]", gguf.TokenType.UNUSED)
    assert tokens[found["tokenizer.ggml.eos_token_id"]] == "<|im_end|>"


def test_a_llama_3_begins_its_texts_and_a_llama_2_has_scores(made):
    found = keys_of(file_of(made["llama3"]))
    assert (found["tokenizer.ggml.pre"], found["tokenizer.ggml.add_bos_token"]) == ("llama-bpe", True)
    assert found["tokenizer.ggml.tokens"][found["tokenizer.ggml.bos_token_id"]] == "<|begin_of_text|>"
    assert found["llama.rope.dimension_count"] == 16
    found = keys_of(file_of(made["llama2"]))
    assert (found["tokenizer.ggml.model"], found["tokenizer.ggml.pre"]) == ("llama", "default")
    assert found["tokenizer.ggml.add_space_prefix"] is True
    assert found["tokenizer.ggml.unknown_token_id"] == 0
    types = found["tokenizer.ggml.token_type"]
    assert types[:3] == [2, 3, 3]
    assert set(types[3:259]) == {gguf.TokenType.BYTE}


@pytest.fixture(scope="module")
def llama2(made: dict[str, Path]) -> dict[str, Any]:
    return keys_of(file_of(made["llama2"]))


def by_scores(text: str, tokens: list[str], scores: list[float]) -> list[int]:
    """SentencePiece's BPE: the two neighbours whose piece scores highest are joined, the leftmost of equals."""
    ids = {token: i for i, token in enumerate(tokens)}
    parts = list("▁" + text.replace(" ", "▁"))
    while True:
        joined = [(scores[ids[a + b]], -i) for i, (a, b) in enumerate(pairwise(parts)) if a + b in ids]
        if not joined:
            break
        at = -max(joined)[1]
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    known = [[ids[p]] if p in ids else [ids[f"<0x{byte:02X}>"] for byte in p.encode()] for p in parts]
    return [1, *(i for one in known for i in one)]


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from([*sorted(set(TEXT)), "🦙", "ß"]), min_size=1) | st.sampled_from(["they hey the", TEXT]))
def test_scores_join_what_the_merges_join(llama2, text):
    assert by_scores(text, llama2["tokenizer.ggml.tokens"], llama2["tokenizer.ggml.scores"]) == LLAMA2.encode(text).ids


def test_a_tokenizer_model_alone_says_the_same(made, tmp_path):
    model = shutil.copytree(made["llama2"], tmp_path / "m")
    found = keys_of(file_of(made["llama2"]))
    words = [
        t
        for t, kind in zip(found["tokenizer.ggml.tokens"], found["tokenizer.ggml.token_type"], strict=True)
        if kind != 5
    ]
    (model / "tokenizer.json").unlink()
    (model / "tokenizer.model").write_bytes(model_proto(words, [-0.5 * i for i in range(len(words))]))
    path = chorus.export(model, tmp_path / "m.gguf", "gguf").places["f16"]
    again = keys_of(path)
    for name in ("tokens", "token_type", "bos_token_id", "eos_token_id", "add_bos_token", "add_space_prefix", "model"):
        assert again[f"tokenizer.ggml.{name}"] == found[f"tokenizer.ggml.{name}"], name
    assert again["tokenizer.ggml.scores"][300] == -150.0
    (model / "tokenizer.model").write_bytes(model_proto(words, [0.0] * len(words), kind=1))
    with pytest.raises(CheckpointError, match="no BPE"):
        chorus.export(model, tmp_path / "n.gguf", "gguf")


def test_merges_that_no_scores_can_say_are_refused(made, tmp_path):
    model = shutil.copytree(made["llama2"], tmp_path / "m")
    document = json.loads((model / "tokenizer.json").read_text())
    merges = document["model"]["merges"]
    made_by = Counter("".join(pair) for pair in merges)
    at = max(i for i, pair in enumerate(merges) if made_by["".join(pair)] > 1)
    merges.insert(0, merges.pop(at))
    (model / "tokenizer.json").write_text(json.dumps(document))
    with pytest.raises(CheckpointError, match="no SentencePiece model has such merges") as caught:
        chorus.export(model, tmp_path / "m.gguf", "gguf")
    assert "tokenizer.model" in caught.value.hint
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m"]


def test_a_vocabulary_in_two_files_has_its_type_s_rules(made, tmp_path):
    model = shutil.copytree(made["qwen2"], tmp_path / "m")
    document = json.loads((model / "tokenizer.json").read_text())
    (model / "tokenizer.json").unlink()
    (model / "vocab.json").write_text(json.dumps(document["model"]["vocab"]))
    lines = [" ".join(pair) for pair in document["model"]["merges"]]
    (model / "merges.txt").write_text("#version: 0.2\n" + "\n".join(lines) + "\n")
    (model / "added_tokens.json").write_text(json.dumps({t["content"]: t["id"] for t in document["added_tokens"]}))
    found = keys_of(chorus.export(model, tmp_path / "m.gguf", "gguf").places["f16"])
    wanted = keys_of(file_of(made["qwen2"], "f16"))
    for name in ("tokens", "token_type", "merges", "pre", "eos_token_id"):
        assert found[f"tokenizer.ggml.{name}"] == wanted[f"tokenizer.ggml.{name}"], name


def test_other_rules_are_known_or_must_be_named(made, tmp_path):
    model = shutil.copytree(made["qwen2"], tmp_path / "m")
    document = json.loads((model / "tokenizer.json").read_text())
    for rules, name in (
        ({"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}, "gpt-2"),
        (
            {
                "type": "Sequence",
                "pretokenizers": [{"type": "Digits", "individual_digits": True}, {"type": "ByteLevel"}],
            },
            "smollm",
        ),
        (
            {
                "type": "Sequence",
                "pretokenizers": [{"type": "Digits", "individual_digits": False}, {"type": "ByteLevel"}],
            },
            "",
        ),
    ):
        (model / "tokenizer.json").write_text(json.dumps({**document, "pre_tokenizer": rules}))
        if name:
            path = chorus.export(model, tmp_path / f"{name}.gguf", "gguf").places["f16"]
            assert keys_of(path)["tokenizer.ggml.pre"] == name
    with pytest.raises(CheckpointError, match="rules that are none of") as caught:
        chorus.export(model, tmp_path / "m.gguf", "gguf")
    assert "--pre-tokenizer NAME" in caught.value.hint
    wanted = chorus.ExportOptions(pre_tokenizer="deepseek-llm")
    path = chorus.export(model, tmp_path / "m.gguf", "gguf", settings=wanted).places["f16"]
    assert keys_of(path)["tokenizer.ggml.pre"] == "deepseek-llm"
    with pytest.raises(CheckpointError, match="no name of llama"):
        chorus.export(model, tmp_path / "n.gguf", "gguf", settings=chorus.ExportOptions(pre_tokenizer="a b"))


def test_transformers_own_tokenizers_have_known_rules(tmp_path):
    import transformers

    tokenizer = transformers.Qwen2Tokenizer(vocab={"a": 0, "<|endoftext|>": 1}, merges=[])
    tokenizer.save_pretrained(tmp_path)
    document = json.loads((tmp_path / "tokenizer.json").read_text())
    from chorus.export.gguf.pre_tokenizers import recognised

    assert recognised(document) == "qwen2"
    assert len(set(KNOWN.values())) == len(KNOWN) == 5


def test_words_that_are_tokens_as_they_are_belong_to_the_rules(made, tmp_path):
    """llama.cpp takes them so under the name of Llama 3's rules, and under no other's."""
    for kind, whole, name in (("llama3", False, "smaug-bpe"), ("qwen2", True, "")):
        model = shutil.copytree(made[kind], tmp_path / kind)
        document = json.loads((model / "tokenizer.json").read_text())
        document["model"]["ignore_merges"] = whole
        (model / "tokenizer.json").write_text(json.dumps(document))
        if name:
            path = chorus.export(model, tmp_path / "x.gguf", "gguf").places["f16"]
            assert keys_of(path)["tokenizer.ggml.pre"] == name
        else:
            with pytest.raises(CheckpointError, match="words that are tokens as they are"):
                chorus.export(model, tmp_path / "y.gguf", "gguf")


@pytest.mark.parametrize("content", ["<tool>", "[PAD450]", "<tool>\0x"])
def test_tokens_of_one_text_are_refused_for_llama_cpp_would_end_there(made, tmp_path, content):
    model = shutil.copytree(made["qwen2"], tmp_path / "m")
    document = json.loads((model / "tokenizer.json").read_text())
    last = document["added_tokens"][-1]
    document["added_tokens"].append({**last, "id": last["id"] + 1, "content": content})
    (model / "tokenizer.json").write_text(json.dumps(document))
    assert "more than one of its tokens is" in refusal(model, tmp_path).message


def test_a_flag_adds_no_token_that_the_settings_do_not_name(made, tmp_path):
    model = edited(shutil.copytree(made["qwen2"], tmp_path / "m"), "tokenizer_config.json", add_bos_token=True)
    path = chorus.export(model, tmp_path / "x.gguf", "gguf").places["f16"]
    assert keys_of(path)["tokenizer.ggml.add_bos_token"] is False
    model = edited(model, "tokenizer_config.json", bos_token="<|endoftext|>")
    path = chorus.export(model, tmp_path / "y.gguf", "gguf").places["f16"]
    assert keys_of(path)["tokenizer.ggml.add_bos_token"] is True


# ---- positions ----


def test_llama_3_1_s_positions_are_transformers(tmp_path):
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    rope = {
        "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }  # fmt: skip
    config = LlamaConfig(hidden_size=512, num_attention_heads=4, rope_parameters=rope)
    frequencies, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    found = frequency_factors(config.to_dict(), 128)
    plain = 1 / 500000.0 ** (np.arange(0, 128, 2) / 128)
    assert np.allclose(plain / found, frequencies.numpy(), rtol=1e-6)
    assert {1.0, 8.0} < set(found.tolist())
    model = language_model(tmp_path / "m", "llama3", rope_parameters={**rope, "original_max_position_embeddings": 128})
    path = chorus.export(model, tmp_path / "m.gguf", "gguf", types="q8_0").places["q8_0"]
    assert tensors_of(path)["rope_freqs.weight"].data.dtype == np.float32
    assert "llama.rope.scaling.type" not in keys_of(path)
    assert keys_of(path)["llama.rope.freq_base"] == 500000.0


@pytest.mark.parametrize(("extra", "ratio"), [({}, 1.0), ({"attention_factor": 1.5}, 1.5 / (0.1 * math.log(4) + 1))])
def test_yarn_s_whole_factor_is_put_on_llama_cpp_s_own(tmp_path, extra, ratio):
    rope = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 64, **extra}
    model = language_model(tmp_path / "m", "qwen2", rope_parameters=rope)
    found = keys_of(chorus.export(model, tmp_path / "m.gguf", "gguf").places["f16"])
    assert found["qwen2.rope.scaling.type"] == "yarn"
    assert found["qwen2.rope.scaling.factor"] == 4.0
    assert found["qwen2.rope.scaling.original_context_length"] == 64
    assert found.get("qwen2.rope.scaling.attn_factor", 1.0) == pytest.approx(ratio)
    # what llama.cpp multiplies cosine and sine with is what transformers does
    from transformers import Qwen2Config
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    _, factor = ROPE_INIT_FUNCTIONS["yarn"](Qwen2Config(**config_of(model)), "cpu")
    assert attention_ratio(rope) * (0.1 * math.log(4) + 1) == pytest.approx(factor)


def test_old_configs_say_the_same_of_positions(made, tmp_path):
    model = shutil.copytree(made["qwen3"], tmp_path / "m")
    config = config_of(model)
    del config["rope_parameters"]
    config |= {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}}
    (model / "config.json").write_text(json.dumps(config))
    found = keys_of(chorus.export(model, tmp_path / "m.gguf", "gguf").places["f16"])
    assert found["qwen3.rope.freq_base"] == 5e5
    assert (found["qwen3.rope.scaling.type"], found["qwen3.rope.scaling.factor"]) == ("linear", 2.0)


def test_positions_that_are_told_by_the_kind_of_layer_are_those_of_full_attention():
    config = {"rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5}}}
    assert rope_of(config) == {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5}
    assert rope_of({"rope_theta": 1e6, "rope_scaling": None}) == {"rope_type": "default", "rope_theta": 1e6}


# ---- other ways to name a model ----


def test_a_recipe_is_merged_while_it_is_written(made, tmp_path):
    recipe = tmp_path / "same.yml"
    one = {"model": str(made["llama3"]), "parameters": {"weight": 1.0}}
    recipe.write_text(yaml.safe_dump({"merge_method": "linear", "models": [one], "dtype": "float32"}))
    path = chorus.export(recipe, tmp_path / "same.gguf", "gguf", types="q4_0").places["q4_0"]
    wanted = values_of(file_of(made["llama3"], "q4_0"))
    assert all(np.array_equal(value, wanted[name]) for name, value in values_of(path).items())
    facts = json.loads((tmp_path / "same.gguf.json").read_text())
    assert (facts["format"], facts["type"], facts["architecture"]) == ("gguf", "q4_0", "llama")
    assert facts["recipe"]["merge_method"] == "linear"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["same.gguf", "same.gguf.json", "same.yml"]


def test_what_is_there_stays(made, tmp_path):
    mine, other = tmp_path / "mine.gguf", tmp_path / "Modelfile"
    wanted = chorus.ExportOptions(modelfile=True)
    other.write_text("FROM llama3\n")
    with pytest.raises(OutputError, match="Modelfile: no file of this format"):
        chorus.export(made["qwen2"], mine, "gguf", settings=wanted, overwrite=True)
    assert other.read_text() == "FROM llama3\n"
    assert not mine.exists()
    other.unlink()
    for overwrite in (False, True):
        chorus.export(made["qwen2"], mine, "gguf", settings=wanted, overwrite=overwrite)
    with pytest.raises(OutputError, match="exists"):
        chorus.export(made["qwen2"], mine, "gguf")
    assert mine.read_bytes() == file_of(made["qwen2"], "f16").read_bytes()


# ---- refused ----


def refusal(model: Path, tmp_path: Path, **kwargs: Any) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        chorus.export(model, tmp_path / "x.gguf", "gguf", **kwargs)
    assert not list(tmp_path.glob("x.gguf*"))
    return caught.value


@pytest.mark.parametrize(
    ("changes", "told", "remedy"),
    [
        ({"use_sliding_window": True, "sliding_window": 8, "layer_types": None}, "a sliding window", "attend to"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "sliding_attention", "attend to everything"),
        ({"hidden_act": "gelu"}, "activation is gelu", "no such model"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantised (gptq)", "the unquantised model"),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, "scaled by dynamic", "linear"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "no usable factor for yarn", "config.json"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "a part of each head", "no such"),
        ({"rope_parameters": {"rope_type": "yarn", **YARN, "beta_slow": 2.0}}, "a ramp of its own", "rope_type"),
        ({"rope_parameters": {"rope_type": "llama3", **LLAMA31}}, "llama.cpp has for no qwen2", "rope_type"),
        ({"num_attention_heads": None}, "num_attention_heads of its config.json is None", "config.json"),
        ({"vocab_size": None}, "vocab_size of its config.json is None", "config.json"),
        ({"rms_norm_eps": None}, "no usable rms_norm_eps", "config.json"),
        ({"rms_norm_eps": "small"}, "no usable rms_norm_eps", "config.json"),
    ],
)  # fmt: skip
def test_what_llama_cpp_would_compute_otherwise_is_refused(made, tmp_path, changes, told, remedy):
    model = edited(shutil.copytree(made["qwen2"], tmp_path / "m"), **changes)
    error = refusal(model, tmp_path)
    assert told in str(error)
    assert remedy in str(error)


def test_sizes_that_the_config_leaves_to_its_class_are_asked_for(made, tmp_path):
    model = shutil.copytree(made["qwen2"], tmp_path / "m")
    config = config_of(model)
    del config["num_attention_heads"], config["num_key_value_heads"]
    config |= {"num_key_value_heads": 16, "head_dim": 2}  # so that its shapes are those of 32 heads, its class's number
    weights = load_file(model / "model.safetensors")
    for layer in range(2):
        for slot in "kv":
            weights[f"model.layers.{layer}.self_attn.{slot}_proj.weight"] = torch.zeros(32, 64)
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    (model / "config.json").write_text(json.dumps(config))
    assert "no usable num_attention_heads" in refusal(model, tmp_path).message


def test_models_of_other_kinds_are_refused_with_who_knows_them(tmp_path):
    from models import build
    from sounds import BASE, tiny

    error = refusal(BASE, tmp_path)
    assert "a Whisper" in error.message
    assert "--to ggml" in error.hint
    error = refusal(tiny(tmp_path / "audio", "qwen2_audio"), tmp_path)
    assert "a tower for sound or images" in error.message
    assert "--mmproj" in error.hint
    build("mistral").save_pretrained(tmp_path / "mistral")
    error = refusal(tmp_path / "mistral", tmp_path)
    assert "MistralForCausalLM" in error.message
    assert "convert_hf_to_gguf.py" in error.hint


def test_a_mixture_of_experts_is_refused(tmp_path):
    import transformers

    config = transformers.Qwen3MoeConfig(
        hidden_size=32, intermediate_size=32, moe_intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, vocab_size=64, num_experts=2, head_dim=16,
    )  # fmt: skip
    transformers.Qwen3MoeForCausalLM(config).save_pretrained(tmp_path / "moe")
    assert "a mixture of experts" in refusal(tmp_path / "moe", tmp_path).message


def test_rows_that_a_type_does_not_allow_name_the_nearest_and_nothing_is_mixed(made, tmp_path):
    for number, remedy in (("q4_k", "--type q4_0"), ("q6_k", "--type q5_1")):
        error = refusal(made["llama3"], tmp_path, types=number)
        assert "rows of 64, 128 values are no whole blocks of 256" in error.message
        assert error.hint.startswith(remedy)


def test_a_tokenizer_that_is_missing_or_too_large_is_told_and_another_may_be_named(made, tmp_path):
    model = shutil.copytree(made["qwen2"], tmp_path / "m")
    (model / "tokenizer.json").unlink()
    assert "no tokenizer is beside it" in refusal(model, tmp_path).message
    assert chorus.export(model, tmp_path / "y.gguf", "gguf", tokenizer=made["qwen2"]).places
    document = json.loads((made["qwen2"] / "tokenizer.json").read_text())
    document["added_tokens"].append({"id": 512, "content": "<new>", "special": True})
    (model / "tokenizer.json").write_text(json.dumps(document))
    assert "has a token 512, its embedding 512 rows" in refusal(model, tmp_path).message


def test_a_bias_that_llama_cpp_would_not_read_is_refused(tmp_path):
    model = language_model(tmp_path / "m", "qwen3", attention_bias=True)
    assert "_proj.bias has no place in a GGUF of a qwen3" in refusal(model, tmp_path).message
    model = language_model(tmp_path / "n", "llama3", attention_bias=True)
    found = values_of(chorus.export(model, tmp_path / "n.gguf", "gguf", types="f32").places["f32"])
    own = loaded(model).state_dict()["model.layers.1.self_attn.q_proj.bias"].numpy()
    assert np.array_equal(found["blk.1.attn_q.bias"], in_its_order("q_proj", own, config_of(model)))


def test_values_beyond_float16_are_refused(tmp_path):
    model = language_model(tmp_path / "m", "llama3")
    weights = load_file(model / "model.safetensors")
    weights["model.layers.0.mlp.up_proj.weight"][3, 3] = 1e5
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    assert "mlp.up_proj.weight: holds values beyond float16" in refusal(model, tmp_path).message


@pytest.mark.parametrize(
    "document",
    [
        {}, {"model": []}, {"model": {"type": "Unigram", "vocab": [["a", 0.0]]}}, {"model": {"type": "BPE"}},
        {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [["a"]]}, "pre_tokenizer": {"type": "ByteLevel"}},
        {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}},
        {"model": {"type": "BPE", "vocab": {}}, "pre_tokenizer": {"type": "ByteLevel"}},
        {"model": {"type": "BPE", "vocab": {"a": 0}}, "decoder": {"type": "ByteLevel"}, "added_tokens": [{"id": -1}]},
        {"model": {"vocab": {"a": 0}, "merges": []}, "decoder": {"type": "ByteLevel"}, "normalizer": {"type": "Strip"}},
        {"model": {"vocab": {"a": 0}, "merges": []}, "pre_tokenizer": {"type": "ByteLevel"}},
        {"model": {"vocab": {"a": 0, "b": 0}, "merges": [["a", "b"]]}, "pre_tokenizer": {"type": "ByteLevel"}},
        {"model": {"vocab": {"a": "0"}, "merges": [["a", "b"]]}, "pre_tokenizer": {"type": "ByteLevel"}},
    ],
)  # fmt: skip
def test_no_tokenizer_of_anybody_s_fails_in_another_way(made, tmp_path, document):
    model = shutil.copytree(made["qwen2"], tmp_path / "m")
    (model / "tokenizer.json").write_text(json.dumps(document))
    assert refusal(model, tmp_path).hint


# ---- Ollama's file ----


def test_known_chats_are_translated_and_others_left_to_the_file(made, tmp_path):
    wanted = chorus.ExportOptions(modelfile=True)
    chorus.export(made["qwen2"], tmp_path / "q", "gguf", types=["f16", "q8_0"], settings=wanted)
    text = (tmp_path / "q" / "Modelfile-q8_0").read_text()
    assert "\nFROM ./qwen2-q8_0.gguf\n" in text
    assert "{{ .Role }}\n{{ .Content }}<|im_end|>\n" in text
    assert '\nSYSTEM """You are Tiny."""\n' in text
    assert '\nPARAMETER stop "<|im_end|>"\n' in text
    (tmp_path / "l").mkdir()
    chorus.export(made["llama3"], tmp_path / "l", "gguf", settings=wanted)
    text = (tmp_path / "l" / "Modelfile").read_text()
    assert "<|start_header_id|>{{ .Role }}<|end_header_id|>" in text
    assert "SYSTEM" not in text
    odd = shutil.copytree(made["llama3"], tmp_path / "odd")
    (odd / "chat_template.jinja").write_text("{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %}")
    chorus.export(odd, tmp_path / "odd.gguf", "gguf", settings=wanted)
    text = (tmp_path / "Modelfile").read_text()
    assert "TEMPLATE" not in text
    assert 'PARAMETER stop "<|eot_id|>"' in text


def test_the_formats_write_what_the_templates_write():
    from transformers.utils.chat_template_utils import render_jinja_template

    (text,), _ = render_jinja_template([TALK], chat_template=CHATML, add_generation_prompt=True)
    assert text == QWENS.written(TALK)
    assert LLAMA3.startswith("{{ bos_token }}")


def test_named_templates_are_kept(made, tmp_path):
    model = shutil.copytree(made["qwen2"], tmp_path / "m")
    (model / "additional_chat_templates").mkdir()
    (model / "additional_chat_templates" / "tool_use.jinja").write_text("{{ messages }}")
    found = keys_of(chorus.export(model, tmp_path / "m.gguf", "gguf").places["f16"])
    assert found["tokenizer.chat_template"] == CHATML
    assert found["tokenizer.chat_template.tool_use"] == "{{ messages }}"
    assert found["tokenizer.chat_templates"] == ["tool_use"] or found["tokenizer.chat_templates"] == "tool_use"


def test_the_file_s_template_goes_before_the_settings_as_in_transformers(made, tmp_path):
    import transformers

    model = edited(shutil.copytree(made["qwen2"], tmp_path / "m"), "tokenizer_config.json", chat_template="old")
    found = keys_of(chorus.export(model, tmp_path / "m.gguf", "gguf").places["f16"])
    assert found["tokenizer.chat_template"] == transformers.AutoTokenizer.from_pretrained(model).chat_template == CHATML
    (model / "chat_template.jinja").unlink()
    found = keys_of(chorus.export(model, tmp_path / "n.gguf", "gguf").places["f16"])
    assert found["tokenizer.chat_template"] == transformers.AutoTokenizer.from_pretrained(model).chat_template == "old"


def test_flags_of_other_formats_are_refused(made, tmp_path):
    with pytest.raises(UsageError, match=r"trim_vocabulary.*: without a meaning for gguf"):
        chorus.export(made["qwen2"], tmp_path / "x", "gguf", settings=chorus.ExportOptions(trim_vocabulary=True))
