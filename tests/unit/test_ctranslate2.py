"""faster-whisper's directory: byte for byte what CTranslate2's own converter writes, read back as the model it was."""

from __future__ import annotations

import json
import os
import shutil
import struct
from importlib.metadata import entry_points
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import chorus
from altered import EMBEDDING, changed, grown
from chorus.checkpoints.adapter import CONFIG as ADAPTER_CONFIG
from chorus.cli.main import run
from chorus.errors import CheckpointError, OutputError, UsageError
from chorus.export.ctranslate2.form import CTranslate2Form
from chorus.export.ctranslate2.layout import TYPES, variables
from chorus.export.ctranslate2.reader import read
from chorus.export.ctranslate2.side_files import vocabulary
from chorus.export.ctranslate2.writer import rounded_rows, rounded_whole, whole_scale
from chorus.transcribe.systems import open_system
from sounds import BASE, tiny

SIDE = ("config.json", "model.bin", "preprocessor_config.json", "tokenizer.json", "vocabulary.json")
PLAIN = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
MODELS = Path(os.environ.get("CHORUS_MODELS", "nowhere"))
SAMPLES = Path(os.environ.get("CHORUS_DATA", "nowhere")) / "samples" / "manifest.csv"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return chorus.export(BASE, tmp_path_factory.mktemp("ct2") / "all", "ctranslate2", types=list(TYPES)).places


def by_the_converter(model: Path, out: Path, kind: str) -> Path:
    converters = pytest.importorskip("ctranslate2.converters")
    converters.TransformersConverter(str(model)).convert(str(out), quantization=kind)
    return out


def same_files(mine: Path, theirs: Path) -> list[str]:
    return [p.name for p in sorted(theirs.iterdir()) if (mine / p.name).read_bytes() == p.read_bytes()]


# ---- written ----


def test_there_are_as_many_types_as_the_converter_knows(written):
    specs = pytest.importorskip("ctranslate2.specs.model_spec")
    assert set(written) == set(specs.ACCEPTED_MODEL_TYPES)
    assert [p.name for p in sorted(written["int8"].iterdir())] == sorted([*SIDE, "chorus.json"])


@pytest.mark.parametrize("kind", TYPES)
def test_every_byte_is_that_of_the_converter(written, kind, tmp_path):
    theirs = by_the_converter(BASE, tmp_path / "theirs", kind)
    assert same_files(written[kind], theirs) == ["config.json", "model.bin", "vocabulary.json"]


@pytest.mark.parametrize("kind", ["float32", "int8"])
def test_equal_variables_are_stored_once_as_the_converter_does(kind, tmp_path):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)  # of a model that nobody trained all biases are zeros, and all norms ones
    model = transformers.WhisperForConditionalGeneration(transformers.WhisperConfig.from_pretrained(BASE))
    source = tmp_path / "model"
    shutil.copytree(BASE, source)
    model.save_pretrained(source)
    (source / "generation_config.json").write_bytes((BASE / "generation_config.json").read_bytes())
    theirs = by_the_converter(source, tmp_path / "theirs", kind)
    mine = chorus.export(source, tmp_path / "mine", "ctranslate2", types=kind).places[kind]
    assert same_files(mine, theirs) == ["config.json", "model.bin", "vocabulary.json"]
    assert len(read(mine / "model.bin").aliases) > 10


def test_the_front_end_is_written_where_transformers_5_wrote_its_new_file_alone(tmp_path):
    source = tmp_path / "model"
    shutil.copytree(BASE, source)
    old = json.loads((source / "preprocessor_config.json").read_text())
    (source / "preprocessor_config.json").unlink()
    (source / "processor_config.json").write_text(json.dumps({"feature_extractor": old}))
    made = chorus.export(source, tmp_path / "mine", "ctranslate2").places["float16"]
    assert json.loads((made / "preprocessor_config.json").read_text()) == {"processor_class": "WhisperProcessor"} | old
    (source / "processor_config.json").unlink()
    made = chorus.export(source, tmp_path / "other", "ctranslate2").places["float16"]
    derived = json.loads((made / "preprocessor_config.json").read_text())
    assert {key: derived[key] for key in ("feature_size", "hop_length", "n_fft", "chunk_length")} == {
        "feature_size": 80, "hop_length": 160, "n_fft": 400, "chunk_length": 30
    }  # fmt: skip


def test_settings_that_are_missing_or_cannot_be_are_made_good(tmp_path):
    source = tmp_path / "model"
    shutil.copytree(BASE, source)
    plain = json.loads((source / "generation_config.json").read_text())
    wrong = {"suppress_tokens": [7, 99_999], "alignment_heads": [[5, 0]]}
    (source / "generation_config.json").write_text(json.dumps(wrong))
    made = chorus.export(source, tmp_path / "mine", "ctranslate2")
    assert len(made.warnings) == 2
    assert json.loads((made.places["float16"] / "config.json").read_text()) == {
        "suppress_ids": [7], "suppress_ids_begin": None, "alignment_heads": [[0, i] for i in range(4)],
        "lang_ids": sorted(plain["lang_to_id"].values()),
    }  # fmt: skip


def test_a_recipe_is_merged_while_it_is_written(tmp_path):
    recipe = tmp_path / "half.yml"
    one = f"{{model: {BASE}, parameters: {{weight: 1}}}}"
    recipe.write_text(f"merge_method: linear\nmodels:\n  - {one}\n")
    mine = chorus.export(recipe, tmp_path / "mine", "ctranslate2").places["float16"]
    plain = chorus.export(BASE, tmp_path / "plain", "ctranslate2").places["float16"]
    assert same_files(mine, plain) == list(SIDE)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["half.yml", "mine", "plain"]


def test_an_untied_head_stays_one(tmp_path):
    from safetensors.torch import load_file

    head = load_file(BASE / "model.safetensors")[EMBEDDING] * 1.5
    source = changed(tmp_path, **{"proj_out.weight": head})
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
    mine = chorus.export(source, tmp_path / "mine", "ctranslate2").places["float16"]
    assert same_files(mine, by_the_converter(source, tmp_path / "theirs", "float16")) == [
        "config.json", "model.bin", "vocabulary.json"
    ]  # fmt: skip
    back = chorus.open_model(mine)
    assert torch.equal(back.checkpoint["proj_out.weight"].read(), head)
    assert back.config["tie_word_embeddings"] is False


# ---- refused, and nothing is left ----


def test_what_is_there_stays(tmp_path):
    mine, other = tmp_path / "mine", tmp_path / "other"
    chorus.export(BASE, mine, "ctranslate2")
    other.mkdir()
    (other / "letter.txt").write_text("somebody's")
    with pytest.raises(OutputError, match="not empty"):
        chorus.export(BASE, mine, "ctranslate2")
    with pytest.raises(OutputError, match="no result of Chorus"):
        chorus.export(BASE, other, "ctranslate2", overwrite=True)
    chorus.export(BASE, mine, "ctranslate2", overwrite=True)
    for _ in range(2):
        two = chorus.export(BASE, tmp_path / "two", "ctranslate2", types="int8,float16", overwrite=True).places
        assert [p.name for p in two.values()] == ["int8", "float16"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine", "other", "two"]


def test_what_stands_in_the_way_is_told_with_its_remedy(tmp_path):
    with pytest.raises(CheckpointError, match="a model of the type qwen2"):
        chorus.export(tiny(tmp_path / "qwen", "qwen2"), tmp_path / "x", "ctranslate2")
    with pytest.raises(UsageError, match=r'did you mean "int8_float16"'):
        chorus.export(BASE, tmp_path / "x", "ctranslate2", types="int8-float16")
    source = tmp_path / "model"
    shutil.copytree(BASE, source)
    (source / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"no tokenizer.json") as caught:
        chorus.export(source, tmp_path / "x", "ctranslate2")
    assert "--tokenizer DIR" in caught.value.hint
    assert chorus.export(source, tmp_path / "given", "ctranslate2", tokenizer=BASE).places
    shutil.copy(BASE / "tokenizer.json", source)
    front = json.loads((source / "preprocessor_config.json").read_text())
    (source / "preprocessor_config.json").write_text(json.dumps({**front, "feature_size": 128}))
    with pytest.raises(CheckpointError, match="makes 128 mel bins, its encoder takes 80"):
        chorus.export(source, tmp_path / "x", "ctranslate2")
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, "activation_function": "relu"}))
    with pytest.raises(CheckpointError, match="for 2 reasons"):
        chorus.export(source, tmp_path / "x", "ctranslate2")
    settings = json.loads((source / "generation_config.json").read_text())
    settings["lang_to_id"]["<|de|>"] += 1
    (source / "generation_config.json").write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match="tokenizer is another model's"):
        chorus.export(source, tmp_path / "x", "ctranslate2")
    assert not (tmp_path / "x").exists()


def test_values_beyond_the_type_are_refused(tmp_path):
    place = changed(tmp_path, **{"model.encoder.layers.0.fc1.weight": torch.full((256, 64), 1e5)})
    with pytest.raises(CheckpointError, match=r"fc1\.weight: holds values beyond float16"):
        chorus.export(place, tmp_path / "x", "ctranslate2")
    broken = changed(tmp_path / "b", **{"model.encoder.layers.0.fc1.weight": torch.full((256, 64), float("nan"))})
    with pytest.raises(CheckpointError, match="holds NaN"):
        chorus.export(broken, tmp_path / "x", "ctranslate2", types="int8")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b", "model"]


def test_a_padded_vocabulary_goes_as_it_is_or_cut(tmp_path):
    padded = changed(tmp_path, vocabulary=51872, **{EMBEDDING: grown(torch.full((7, 64), 0.02))})
    whole = chorus.export(padded, tmp_path / "whole", "ctranslate2")
    assert any("51,872 tokens" in warning for warning in whole.warnings)
    assert same_files(
        whole.places["float16"], by_the_converter(padded, tmp_path / "theirs", "float16")
    ) == ["config.json", "model.bin"]  # fmt: skip
    # the converter calls what is padded <|0.00|> and so on, once more
    tokens = json.loads((whole.places["float16"] / "vocabulary.json").read_text())
    assert len(set(tokens)) == len(tokens) == 51872
    cut = chorus.export(
        padded, tmp_path / "cut", "ctranslate2", settings=chorus.ExportOptions(trim_vocabulary=True)
    ).places["float16"]  # fmt: skip
    assert same_files(cut, chorus.export(BASE, tmp_path / "plain", "ctranslate2").places["float16"]) == list(SIDE)
    learnt = changed(tmp_path / "b", vocabulary=51872, **{EMBEDDING: grown(torch.randn(7, 64) * 0.02)})
    with pytest.raises(CheckpointError, match="no untouched padding"):
        chorus.export(
            learnt, tmp_path / "x", "ctranslate2", settings=chorus.ExportOptions(trim_vocabulary=True)
        )  # fmt: skip
    assert not (tmp_path / "x").exists()


def test_times_that_the_tokenizer_does_not_name_are_named():
    ids = {"<|endoftext|>": 0, "<|startoftranscript|>": 1, "<|notimestamps|>": 2}
    assert vocabulary(ids, 6)[2:] == ["<|notimestamps|>", "<|0.00|>", "<|0.02|>", "<|0.04|>"]


# ---- read back ----


@pytest.mark.parametrize("kind", TYPES)
def test_a_directory_is_the_model_that_it_was_made_of(written, kind, tmp_path):
    source, back = chorus.open_model(BASE), chorus.open_model(written[kind])
    assert set(back.checkpoint) == set(source.checkpoint)
    assert len(back.checkpoint) == 2 + 11 + 15 * 2 + 24 * 1 - 2
    for name, tensor in source.checkpoint.items():
        found, value = back.checkpoint[name].read(), tensor.read()
        assert found.shape == value.shape
        if kind in PLAIN:
            assert torch.equal(found, value.to(PLAIN[kind]))
        else:
            # half a step of the largest value of a row, and what the type of the rest lost
            step = value.float().abs().max() / (127 if kind.startswith("int8") else 1024)
            assert (found.float() - value.float()).abs().max() <= step * 0.51 + value.float().abs().max() / 256
    again = chorus.export(back, tmp_path / "again", "ctranslate2", types=kind).places[kind]
    assert same_files(again, written[kind]) == sorted(set(SIDE))


def test_its_config_and_settings_are_transformers(written):
    source, back = chorus.open_model(BASE), chorus.open_model(written["float16"])
    told = {key: value for key, value in back.config.items() if key not in ("torch_dtype", "num_hidden_layers")}
    assert {key: source.config[key] for key in told if key in source.config} | told == told
    theirs = json.loads((BASE / "generation_config.json").read_text())
    differing = {key for key in theirs if back.generation.get(key) != theirs[key]}
    assert differing <= {"transformers_version", "max_initial_timestamp_index", "return_timestamps"}, differing
    assert "ctranslate2" in entry_points(group="chorus.formats").names


def test_every_command_takes_it_and_faster_whisper_still_loads_it_itself(written, tmp_path):
    place = written["float16"]
    assert open_system(place).kind == "converted"
    assert CTranslate2Form().takes(place)
    assert CTranslate2Form().takes(place / "model.bin")
    assert not CTranslate2Form().takes(BASE)
    assert len(chorus.open_model(place / "model.bin").checkpoint) == len(chorus.open_model(BASE).checkpoint)
    ggml = [chorus.export(one, tmp_path / f"{i}.bin", "ggml").places["f16"] for i, one in enumerate((place, BASE))]
    assert ggml[0].read_bytes() == ggml[1].read_bytes()
    recipe = tmp_path / "one.yml"
    recipe.write_text(f"merge_method: linear\nmodels:\n  - {{model: {place}, parameters: {{weight: 1}}}}\n")
    chorus.merge(recipe, tmp_path / "merged")
    merged, source = chorus.open_model(tmp_path / "merged"), chorus.open_model(BASE)
    assert all(torch.equal(merged.checkpoint[n].read(), t.read()) for n, t in source.checkpoint.items())
    assert {"tokenizer.json", "preprocessor_config.json", "generation_config.json"} <= {
        p.name for p in (tmp_path / "merged").iterdir()
    }
    assert not (tmp_path / "merged" / "vocabulary.json").exists()


def test_an_adapter_stands_on_a_converted_base(written, tmp_path):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    from safetensors.torch import save_file

    module = "base_model.model.model.decoder.layers.0.self_attn.k_proj"
    rank = {"r": 2, "lora_alpha": 2, "target_modules": ["k_proj"], "peft_type": "LORA"}
    (adapter / ADAPTER_CONFIG).write_text(json.dumps({**rank, "base_model_name_or_path": str(BASE)}))
    low = {f"{module}.lora_A.weight": torch.randn(2, 64), f"{module}.lora_B.weight": torch.randn(64, 2)}
    save_file(low, adapter / "adapter_model.safetensors")
    one = chorus.export(f"{written['float16']}+{adapter}", tmp_path / "a", "ctranslate2", types="float32")
    other = chorus.export(adapter, tmp_path / "b", "ctranslate2", types="float32")
    assert same_files(one.places["float32"], other.places["float32"]) == list(SIDE)
    assert open_system(f"{written['float16']}+{adapter}").generation["lang_to_id"]["<|en|>"] == 50259


def test_the_command_says_what_it_wrote_and_a_damaged_one_fails_in_a_line(tmp_path, capsys):
    out = tmp_path / "made"
    assert run(["export", str(BASE), "--to", "ctranslate2", "--type", "int8", "-o", str(out), "-q"]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    facts = json.loads((out / "chorus.json").read_text())
    assert (facts["format"], facts["type"], facts["vocabulary"]) == ("ctranslate2", "int8", 51865)
    assert set(facts["contents"]) == set(SIDE)
    with (out / "model.bin").open("r+b") as file:
        file.truncate(1000)
    assert run(["export", str(out), "--to", "openai", "-o", str(tmp_path / "x.pt")]) == 4
    told = capsys.readouterr().err
    assert "no whole Whisper of CTranslate2: it ends at byte 1,000" in told or "of which" in told
    assert sorted(p.name for p in tmp_path.iterdir()) == ["made"]


# ---- damaged ----


def damaged(written: dict[str, Path], place: Path, raw: bytes) -> Path:
    shutil.copytree(written["int8_float16"], place)
    (place / "model.bin").write_bytes(raw)
    return place


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_file_that_is_cut_off_is_told_wherever_it_ends(written, tmp_path_factory, data):
    whole = (written["int8_float16"] / "model.bin").read_bytes()
    starts = [record.start for record in read(written["int8_float16"] / "model.bin").records.values()]
    end = data.draw(st.sampled_from([0, 3, 4, 6, 18, 22, *starts, len(whole) - 1]) | st.integers(0, len(whole) - 1))
    place = tmp_path_factory.mktemp("cut") / "model.bin"
    place.write_bytes(whole[:end])
    with pytest.raises(CheckpointError, match=r"model\.bin: no whole Whisper"):
        read(place)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_byte_between_the_values_makes_it_fail_in_another_way(written, tmp_path_factory, data):
    """Or it is read as the same, where the byte was one that nobody goes by."""
    source = written["int8_float16"]
    raw = bytearray((source / "model.bin").read_bytes())
    records = list(read(source / "model.bin").records.values())
    gaps = [range(records[0].start)]
    gaps += [range(a.start + a.nbytes, b.start) for a, b in pairwise(records)]
    gaps.append(range(records[-1].start + records[-1].nbytes, len(raw)))
    at = data.draw(st.sampled_from([i for gap in gaps for i in gap]))
    raw[at] = data.draw(st.integers(0, 255))
    place = tmp_path_factory.mktemp("byte") / "model"
    damaged(written, place, bytes(raw))
    try:
        back = chorus.open_model(place)
    except CheckpointError:
        return
    assert len(back.checkpoint) == len(chorus.open_model(source).checkpoint)


@pytest.mark.parametrize(
    ("at", "value", "told"),
    [
        (0, struct.pack("<I", 5), "with 5"),
        (6, b"TransformSpec"[:11], "no Whisper"),
        (18, struct.pack("<I", 4), "revision 4"),
        (22, struct.pack("<I", 1 << 31), r"announces 2,147,483,648 entries"),
    ],
)
def test_a_beginning_that_is_another_s_is_told_and_nothing_is_made_of_it(written, tmp_path, at, value, told):
    raw = bytearray((written["int8_float16"] / "model.bin").read_bytes())
    raw[at : at + len(value)] = value
    place = damaged(written, tmp_path / "model", bytes(raw))
    with pytest.raises(CheckpointError, match=told):
        chorus.export(place, tmp_path / "x.bin", "ggml")
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def record_of(raw: bytes, name: str) -> int:
    """Where a record begins: at its name's length."""
    return raw.index(struct.pack("<H", len(name) + 1) + name.encode() + b"\0")


@pytest.mark.parametrize(
    ("name", "offset", "value", "told"),
    [
        # after the name: dimensions, sizes, type, bytes
        ("encoder/conv1/bias", 0, struct.pack("<B", 9), "of 9 dimensions"),
        ("encoder/conv1/bias", 1, struct.pack("<I", 1 << 30), "of the shape"),
        ("encoder/conv1/bias", 1, struct.pack("<I", 63), "says 128 bytes, and has 126"),
        ("encoder/conv1/bias", 5, struct.pack("<B", 6), "the type 6"),
        ("encoder/conv1/bias", 6, struct.pack("<I", 1 << 31), "says 2,147,483,648 bytes"),
        ("encoder/num_heads", 6, struct.pack("<h", 0), "0 and 4 heads"),
        ("encoder/num_heads", 6, struct.pack("<h", 5), "5 and 4 heads"),
    ],
)
def test_a_size_that_lies_is_told(written, tmp_path, name, offset, value, told):
    raw = bytearray((written["int8_float16"] / "model.bin").read_bytes())
    at = record_of(raw, name) + 2 + len(name) + 1 + offset
    raw[at : at + len(value)] = value
    with pytest.raises(CheckpointError, match=told):
        chorus.open_model(damaged(written, tmp_path / "model", bytes(raw)))


def test_variables_that_lack_or_mean_another_are_told(written, tmp_path):
    source = (written["int8_float16"] / "model.bin").read_bytes()
    for i, (old, new, told) in enumerate((
        (b"encoder/conv1/bias\0", b"encoder/conv1/bios\0", "lacks encoder/conv1/bias"),
        (b"encoder/conv1/weight_scale\0", b"encoder/conv9/weight_scale\0", "its scale is not float32"),
        (b"decoder/projection/weight\0", b"decoder/projectiom/weight\0", "lacks decoder/projection/weight"),
    )):  # fmt: skip
        assert source.count(old) == 1
        with pytest.raises(CheckpointError, match=told):
            chorus.open_model(damaged(written, tmp_path / str(i), source.replace(old, new)))
    with pytest.raises(CheckpointError, match="5 bytes follow its end"):
        chorus.open_model(damaged(written, tmp_path / "more", source + b"12345"))
    at = record_of(source, "decoder/layer_0/self_attention/linear_0/bias")
    raw = bytearray(source)
    raw[at + 2 + 45 + 10 + 2 * 64] = 1  # a bias of the first key
    with pytest.raises(CheckpointError, match="has a bias of keys"):
        chorus.open_model(damaged(written, tmp_path / "keys", bytes(raw)))


def test_a_vocabulary_of_another_size_is_told(written, tmp_path):
    place = damaged(written, tmp_path / "model", (written["int8_float16"] / "model.bin").read_bytes())
    for text, told in (('["a", "b"]', "2 tokens in its vocabulary, 51,865"), ("{}", "no list of tokens")):
        (place / "vocabulary.json").write_text(text)
        with pytest.raises(CheckpointError, match=told):
            chorus.open_model(place)


# ---- numbers ----


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=4, max_size=40))
def test_rounding_is_the_converter_s(values):
    specs = pytest.importorskip("ctranslate2.specs.model_spec")
    common = pytest.importorskip("ctranslate2.specs.common_spec")
    rows = np.array(values[: len(values) // 4 * 4], np.float32).reshape(-1, 4)
    if not rows.any():
        rows[0, 0] = 1.0  # the converter divides by the largest
    scale = whole_scale(np.abs(rows).max())
    for kind, mine in (("int8", rounded_rows(rows.copy())), ("int16", (rounded_whole(rows.copy(), scale), scale))):
        layer = common.LinearSpec()
        layer.weight = rows.copy()
        layer.validate()
        layer._quantize(kind)
        assert isinstance(layer.weight, specs.NumpyVariable)
        assert mine[0].tobytes() == layer.weight.to_bytes()
        assert mine[1].tobytes() == layer.weight_scale.to_bytes()


def test_blocks_of_any_size_are_rounded_to_the_same_bytes(tmp_path, monkeypatch):
    whole = chorus.export(BASE, tmp_path / "whole", "ctranslate2", types="int16").places["int16"]
    monkeypatch.setattr("chorus.export.ctranslate2.writer.BLOCK", 1000)  # no whole number of rows
    parts = chorus.export(BASE, tmp_path / "parts", "ctranslate2", types="int16").places["int16"]
    assert (parts / "model.bin").read_bytes() == (whole / "model.bin").read_bytes()


def test_there_are_as_many_variables_as_published_whispers_have():
    shape = {"d_model": 1280, "vocab_size": 51866, "num_mel_bins": 128, "max_source_positions": 1500}
    shape |= {"max_target_positions": 448, "encoder_layers": 32, "decoder_layers": 4}
    known = list(variables(shape | {"encoder_ffn_dim": 5120, "decoder_ffn_dim": 5120}))
    assert len(known) == len({one.name for one in known}) == 4 + 2 + 4 + 2 + 12 * 32 + 20 * 4
    parts = [part.tensor for one in known for part in one.parts if part.tensor]
    assert len(parts) == len(set(parts)) == 12 + 15 * 32 + 24 * 4


# ---- heard ----


@pytest.fixture(scope="module")
def whisper_tiny() -> Path:
    if not (MODELS / "whisper-tiny.en").is_dir() or not SAMPLES.is_file():
        pytest.skip("set CHORUS_MODELS and CHORUS_DATA to a real Whisper and real recordings")
    return MODELS / "whisper-tiny.en"


@pytest.mark.slow
@pytest.mark.parametrize("kind", TYPES)
def test_every_byte_of_a_real_whisper_is_that_of_the_converter(whisper_tiny, kind, tmp_path):
    theirs = by_the_converter(whisper_tiny, tmp_path / "theirs", kind)
    mine = chorus.export(whisper_tiny, tmp_path / "mine", "ctranslate2", types=kind).places[kind]
    assert same_files(mine, theirs) == ["config.json", "model.bin", "vocabulary.json"]


@pytest.mark.slow
def test_ctranslate2_hears_what_transformers_hears_of_the_same_spectrum(whisper_tiny, tmp_path):
    """On transformers' features: faster-whisper makes its own, which may turn a word of a short recording."""
    ctranslate2 = pytest.importorskip("ctranslate2")
    transformers = pytest.importorskip("transformers")
    from chorus.data.audio import read_audio
    from chorus.data.manifest import read_manifest

    extractor = transformers.WhisperFeatureExtractor.from_pretrained(whisper_tiny)
    tokenizer = transformers.AutoTokenizer.from_pretrained(whisper_tiny)
    model = transformers.WhisperForConditionalGeneration.from_pretrained(whisper_tiny, dtype=torch.float32).eval()
    sounds = [read_audio(row.audio) for row in read_manifest(SAMPLES).rows if row.language == "en"]
    assert len(sounds) == 12
    spectra = [extractor(one, sampling_rate=16_000, return_tensors="np").input_features for one in sounds]

    def text(ids: list[int]) -> str:
        return str(tokenizer.decode(ids, skip_special_tokens=True)).strip()

    theirs = [text(model.generate(torch.from_numpy(one), num_beams=1, do_sample=False)[0]) for one in spectra]
    for kind in ("float32", "float16"):
        made = chorus.export(whisper_tiny, tmp_path / kind, "ctranslate2", types=kind).places[kind]
        runtime = ctranslate2.models.Whisper(str(made), compute_type="float32", intra_threads=1)
        prompt = tokenizer.convert_tokens_to_ids(["<|startoftranscript|>", "<|notimestamps|>"])
        found = (runtime.generate(ctranslate2.StorageView.from_array(one), [prompt], beam_size=1) for one in spectra)
        assert [text(one[0].sequences_ids[0]) for one in found] == theirs
