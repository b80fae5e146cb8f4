"""sherpa-onnx's graphs: what transformers computes, in onnxruntime; the files as ONNX's own reader takes them."""

from __future__ import annotations

import base64
import json
import shutil
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import chorus
from altered import EMBEDDING, changed, grown
from chorus.cli.main import run
from chorus.errors import CheckpointError, UsageError
from chorus.export.onnx import reader, wire, writer
from chorus.export.onnx.exporter import INFIXES, Onnx
from sounds import BASE, tiny

ort = pytest.importorskip("onnxruntime", reason="the graphs are computed in onnxruntime")
KINDS = list(Onnx.types)
CLOSE = 2e-4  # of logits of some thirty: sums in another order
NAMES = {"encoder": (["mel"], ["n_layer_cross_k", "n_layer_cross_v"]), "decoder": (
    ["tokens", "in_n_layer_self_k_cache", "in_n_layer_self_v_cache", "n_layer_cross_k", "n_layer_cross_v", "offset"],
    ["logits", "out_n_layer_self_k_cache", "out_n_layer_self_v_cache", "cross_attention_weights"],
)}  # fmt: skip


class Runs:
    """A directory in onnxruntime, its decoder step by step."""

    def __init__(self, place: Path) -> None:
        found = reader.find(place)
        assert found is not None
        self.files = found
        self.encoder, self.decoder = (ort.InferenceSession(str(path)) for path in (found.encoder, found.decoder))
        self.metadata = self.encoder.get_modelmeta().custom_metadata_map
        self.crossed: list[np.ndarray] = []

    def hear(self, mel: np.ndarray) -> None:
        self.crossed = self.encoder.run(None, {"mel": mel})

    def empty(self) -> list[np.ndarray]:
        layers, positions, width = (int(self.metadata[f"n_text_{part}"]) for part in ("layer", "ctx", "state"))
        return [np.zeros((layers, self.crossed[0].shape[1], positions, width), np.float32)] * 2

    def step(self, tokens: np.ndarray, caches: list[np.ndarray], offset: int) -> list[np.ndarray]:
        values = [tokens, *caches, *self.crossed, np.array([offset])]
        return self.decoder.run(None, dict(zip(NAMES["decoder"][0], values, strict=True)))


def as_transformers(source: Path, mel: np.ndarray, tokens: np.ndarray) -> Any:
    from transformers import WhisperForConditionalGeneration

    model = WhisperForConditionalGeneration.from_pretrained(source, dtype=torch.float32, attn_implementation="eager")
    with torch.inference_mode():
        return model.eval()(
            torch.from_numpy(mel), decoder_input_ids=torch.from_numpy(tokens), output_attentions=True
        )  # fmt: skip


def heard(source: Path, *, batch: int = 2, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A spectrum and tokens that fit a model."""
    config, draws = json.loads((source / "config.json").read_text()), np.random.default_rng(seed)
    frames = 2 * config["max_source_positions"]
    mel = draws.normal(0, 0.5, (batch, config["num_mel_bins"], frames)).astype(np.float32)
    return mel, draws.integers(0, config["vocab_size"], (batch, 9))


def whisper(tmp_path: Path, **config: Any) -> Path:
    """A Whisper of random weights, with the base's tokenizer."""
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    torch.manual_seed(0)
    place = tmp_path / "model"
    shutil.copytree(BASE, place)
    made = WhisperConfig.from_pretrained(BASE, **config)
    model = WhisperForConditionalGeneration(made)
    for parameter in model.parameters():  # norms and biases too, which are ones and zeros untrained
        parameter.data += 0.1 * torch.randn_like(parameter)
    (place / "model.safetensors").unlink()
    model.generation_config.update(alignment_heads=None)
    model.save_pretrained(place)
    return place


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return chorus.export(BASE, tmp_path_factory.mktemp("onnx") / "all", "onnx", types=KINDS).places


# ---- computed ----


def same_as_transformers(source: Path, place: Path, *, close: float = CLOSE) -> None:
    mel, tokens = heard(source)
    wanted, mine = as_transformers(source, mel, tokens), Runs(place)
    mine.hear(mel)
    whole = mine.step(tokens, mine.empty(), 0)
    assert np.abs(whole[0] - wanted.logits.numpy()).max() < close
    parts, attention, caches = [], [], mine.empty()
    for start, stop in ((0, 3), (3, 4), (4, 8), (8, 9)):
        logits, *caches, seen = mine.step(tokens[:, start:stop], caches, start)
        parts.append(logits)
        attention.append(seen)
    assert np.abs(np.concatenate(parts, 1) - wanted.logits.numpy()).max() < close
    heads = [tuple(map(int, pair.split(":"))) for pair in mine.metadata["alignment_heads"].split(",")]
    assert len(heads) == int(mine.metadata["n_alignment_heads"]) > 0
    theirs = torch.stack([wanted.cross_attentions[layer][:, head] for layer, head in heads], 1).numpy()
    assert np.abs(np.concatenate(attention, 2) - theirs).max() < 1e-4


def test_float32_computes_what_transformers_does(written):
    same_as_transformers(BASE, written["float32"])


@pytest.mark.parametrize(
    "config",
    [
        {"num_mel_bins": 128, "encoder_layers": 3, "decoder_layers": 2, "encoder_attention_heads": 2},
        {"encoder_ffn_dim": 96, "decoder_ffn_dim": 160, "max_source_positions": 60, "max_target_positions": 40},
        {"tie_word_embeddings": False, "decoder_layers": 2, "decoder_attention_heads": 8},
    ],
    ids=["128 bins, deep", "other widths and lengths", "a head of its own"],
)
def test_whispers_of_other_shapes_too(config, tmp_path):
    source = whisper(tmp_path, **config)
    same_as_transformers(source, chorus.export(source, tmp_path / "made", "onnx").places["float32"], close=1e-3)


def test_float16_computes_with_the_rounded_weights(written, tmp_path):
    from safetensors.torch import load_file, save_file

    source = whisper(tmp_path, decoder_layers=2)
    place = chorus.export(source, tmp_path / "made", "onnx", types="float16").places["float16"]
    weights = load_file(source / "model.safetensors")
    plain = ("bias", "norm.weight", "positions.weight")
    save_file(
        {name: w if name.endswith(plain) else w.half().float() for name, w in weights.items()},
        source / "model.safetensors", {"format": "pt"},
    )  # fmt: skip
    same_as_transformers(source, place, close=1e-3)
    # of a source in float16 both are the same numbers, in half the bytes
    sizes = {kind: sum(p.stat().st_size for p in written[kind].glob("*.onnx")) for kind in KINDS}
    assert sizes["int8"] < 0.6 * sizes["float16"] < 0.32 * sizes["float32"]


def test_int8_rounds_weights_to_the_nearest_of_a_row(written):
    from safetensors.torch import load_file

    weights = load_file(BASE / "model.safetensors")
    for part, tensors in (("encoder", ["model.encoder.layers.1.fc1.weight"]),
                          ("decoder", ["model.decoder.layers.0.encoder_attn.q_proj.weight", EMBEDDING])):  # fmt: skip
        found = reader.read(getattr(reader.find(written["int8"]), part))
        for name in tensors:
            wanted = weights[name].float().numpy()
            rounded, scale = (stored(found, f"{name}_{what}") for what in ("quantized", "scale"))
            assert rounded.T.shape == wanted.shape
            assert (np.abs(rounded.T * scale[:, None] - wanted) <= scale[:, None] * 0.501).all()
            assert (np.abs(rounded).max(0) == 127).all()
    mel, tokens = heard(BASE)
    logits = {}
    for kind in ("float32", "int8"):
        mine = Runs(written[kind])
        mine.hear(mel)
        logits[kind] = mine.step(tokens, mine.empty(), 0)[0]
    apart = logits["int8"] - logits["float32"]
    assert 0 < np.abs(apart).mean() < 0.05 * np.abs(logits["float32"]).mean()


def stored(found: reader.OnnxFile, name: str) -> np.ndarray:
    record = found.records[name]
    raw = record.path.read_bytes()[record.start : record.start + record.nbytes]
    return np.frombuffer(raw, writer.NUMPY[record.dtype]).reshape(record.shape)


@pytest.mark.parametrize("top", [1.2, -1.1, 0.0])
def test_behind_a_sound_the_encoder_hears_silence(written, top):
    """What is left out, and frames of zeros, are what transformers' extractor has there."""
    mel, tokens = heard(BASE)
    whole = np.full_like(mel, max(top - 2, -1.5))
    whole[:, :, :700] = np.clip(mel[:, :, :700], top - 2, top)
    whole[:, 3, 5] = top
    mine = Runs(written["float32"])
    given = whole[:, :, :1001].copy()
    given[:, :, 700:] = 0
    found = []
    for one in (whole, whole[:, :, :700], given):
        mine.hear(one)
        assert mine.crossed[0].shape[2] == 1500
        found.append(mine.step(tokens, mine.empty(), 0)[0])
    assert np.abs(found[0] - as_transformers(BASE, whole, tokens).logits.numpy()).max() < CLOSE
    assert np.abs(found[1] - found[0]).max() < CLOSE
    assert np.abs(found[2] - found[0]).max() < CLOSE
    mine.hear(np.zeros_like(mel[:, :, :1000]))  # nothing at all
    assert np.isfinite(mine.crossed[0]).all()
    with pytest.raises(Exception, match="Expand"):
        mine.hear(np.concatenate([mel, mel], 2))


# ---- as sherpa-onnx reads it ----


@pytest.mark.parametrize("kind", KINDS)
def test_inputs_and_outputs_have_sherpas_names_and_order(written, kind):
    mine = Runs(written[kind])
    for part, (inputs, outputs) in NAMES.items():
        session = getattr(mine, part)
        assert [one.name for one in session.get_inputs()] == inputs
        assert [one.name for one in session.get_outputs()] == outputs
        found = reader.read(getattr(mine.files, part))
        assert (found.input_names, found.output_names, found.producer) == (inputs, outputs, "chorus")
    assert mine.files.encoder.name == f"base-encoder{INFIXES[kind]}.onnx"
    assert reader.read(mine.files.encoder).metadata == mine.metadata


def test_metadata_are_openai_whispers_numbers(written):
    told = Runs(written["float32"]).metadata
    assert {key: told[key] for key in ("sot_sequence", "sot", "eot", "blank_id", "translate", "transcribe", "no_speech",
            "no_timestamps", "sot_prev", "sot_lm", "is_multilingual", "n_mels", "n_text_ctx", "n_vocab")} == {
        "sot_sequence": "50258,50259,50359", "sot": "50258", "eot": "50257", "blank_id": "220", "translate": "50358",
        "transcribe": "50359", "no_speech": "50362", "no_timestamps": "50363", "sot_prev": "50361", "sot_lm": "50360",
        "is_multilingual": "1", "n_mels": "80", "n_text_ctx": "448", "n_vocab": "51865",
    }  # fmt: skip
    codes = told["all_language_codes"].split(",")
    numbers = told["all_language_tokens"].split(",")
    assert len(codes) == len(numbers) == 99
    assert dict(zip(codes, numbers, strict=True))["de"] == "50261"
    whisper = pytest.importorskip("whisper.tokenizer", reason="openai-whisper says what they are")
    theirs = whisper.get_tokenizer(True, num_languages=99)
    assert told["non_speech_tokens"] == ",".join(map(str, theirs.non_speech_tokens))
    # its own order is that of a set
    pairs = zip(theirs.all_language_codes, map(str, theirs.all_language_tokens), strict=True)
    assert dict(zip(codes, numbers, strict=True)) == dict(pairs)


def test_the_table_has_a_line_a_text_token(written):
    found = reader.find(written["int8"])
    lines = found.tokens.read_text().splitlines()
    assert [line.split()[1] for line in lines] == [str(i) for i in range(50257)]
    assert base64.b64decode(lines[220].split()[0]) == b" "
    assert lines[50256] == "= 50256"
    assert reader.token_table(found.tokens)[220] == b" "


def test_onnx_itself_takes_the_files(written, tmp_path, monkeypatch):
    onnx = pytest.importorskip("onnx", reason="ONNX's own checker")
    monkeypatch.setattr(writer, "LIMIT", 1000)
    places = [*written.values(), chorus.export(BASE, tmp_path / "apart", "onnx").places["float32"]]
    checked = 0
    for path in (p for place in places for p in place.glob("*.onnx")):
        onnx.checker.check_model(str(path), full_check=True)
        theirs, mine = onnx.load(str(path)), reader.read(path)
        assert [node.SerializeToString(deterministic=True) for node in theirs.graph.node] == mine.nodes
        assert [one.name for one in theirs.graph.initializer] == list(mine.records)
        for one in theirs.graph.initializer:
            if mine.records[one.name].dtype in writer.NUMPY:
                assert np.array_equal(onnx.numpy_helper.to_array(one), stored(mine, one.name))
        checked += 1
    assert checked == 8


def test_weights_beyond_two_gigabytes_lie_beside_the_graph(written, tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "LIMIT", 1000)
    place = chorus.export(BASE, tmp_path / "apart", "onnx").places["float32"]
    names = [f"base-{part}.{ending}" for part in ("decoder", "encoder") for ending in ("onnx", "weights")]
    assert sorted(p.name for p in place.iterdir()) == [*names, "base-tokens.txt", "chorus.json"]
    assert (place / "base-encoder.onnx").stat().st_size < 100_000
    assert set(json.loads((place / "chorus.json").read_text())["contents"]) == {*names, "base-tokens.txt"}
    same_as_transformers(BASE, place)
    found = reader.read(place / "base-decoder.onnx")
    assert {record.start % 4096 for record in found.records.values() if record.path.suffix == ".weights"} == {0}
    one, other = reader.read(written["float32"] / "base-decoder.onnx"), found
    assert all(np.array_equal(stored(one, name), stored(other, name)) for name in one.records if "model." in name)


# ---- what goes in ----


def test_several_types_of_one_read_are_those_of_several(written, tmp_path):
    for kind in KINDS:
        alone = chorus.export(BASE, tmp_path / kind, "onnx", types=kind).places[kind]
        assert {p.name: p.read_bytes() for p in alone.glob("base-*")} == {
            p.name: p.read_bytes() for p in written[kind].glob("base-*")
        }


def test_a_recipe_is_merged_while_it_is_written(written, tmp_path):
    recipe = tmp_path / "base.yml"
    recipe.write_text(f"merge_method: linear\nmodels:\n  - {{model: {BASE}, parameters: {{weight: 1}}}}\n")
    place = chorus.export(recipe, tmp_path / "made", "onnx", types="int8").places["int8"]
    mine, theirs = reader.find(place), reader.find(written["int8"])
    assert mine.decoder.read_bytes() == theirs.decoder.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["base.yml", "made"]


def test_tokens_that_were_added_go_too(tmp_path):
    source = changed(tmp_path, vocabulary=51867, **{EMBEDDING: grown(torch.randn(2, 64) * 0.02)})
    tokenizer = json.loads((source / "tokenizer.json").read_text())
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    tokenizer["added_tokens"] += [{"id": 51865 + i, "content": word, **plain} for i, word in enumerate(("Zürich", "Ω"))]
    (source / "tokenizer.json").write_text(json.dumps(tokenizer))
    place = chorus.export(source, tmp_path / "made", "onnx").places["float32"]
    mine = Runs(place)
    assert mine.metadata["n_vocab"] == "51867"
    table = reader.token_table(mine.files.tokens)
    assert (table[51865].decode(), len(table)) == ("Zürich", 50257 + 2)
    same_as_transformers(source, place)


def test_untouched_padding_goes_as_it_is_or_is_cut(written, tmp_path):
    padded = changed(tmp_path, vocabulary=51872, **{EMBEDDING: grown(torch.full((7, 64), 0.02))})
    same_as_transformers(padded, chorus.export(padded, tmp_path / "whole", "onnx").places["float32"])
    trim = chorus.ExportOptions(trim_vocabulary=True)
    cut = chorus.export(padded, tmp_path / "cut", "onnx", settings=trim, types=KINDS).places
    for kind in KINDS:
        mine, theirs = reader.find(cut[kind]), reader.find(written[kind])
        assert mine.decoder.read_bytes() == theirs.decoder.read_bytes()
    learnt = changed(tmp_path / "b", vocabulary=51872, **{EMBEDDING: grown(torch.randn(7, 64) * 0.02)})
    with pytest.raises(CheckpointError, match="no untouched padding"):
        chorus.export(learnt, tmp_path / "x", "onnx", settings=trim)


def test_what_stands_in_the_way_is_told_with_its_remedy(tmp_path):
    with pytest.raises(CheckpointError, match="a model of the type qwen2"):
        chorus.export(tiny(tmp_path / "qwen", "qwen2"), tmp_path / "x", "onnx")
    with pytest.raises(UsageError, match=r'did you mean "int8"'):
        chorus.export(BASE, tmp_path / "x", "onnx", types="int4")
    source = tmp_path / "model"
    shutil.copytree(BASE, source)
    tokenizer = (source / "tokenizer.json").read_text()
    (source / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match="no tokenizer is beside it") as caught:
        chorus.export(source, tmp_path / "x", "onnx")
    assert "--tokenizer DIR" in caught.value.hint
    (source / "tokenizer.json").write_text(tokenizer.replace("<|notimestamps|>", "<|without|>"))
    with pytest.raises(CheckpointError, match=r"<\|notimestamps\|> is not in it"):
        chorus.export(source, tmp_path / "x", "onnx")
    (source / "tokenizer.json").write_text(tokenizer)
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, "activation_function": "relu"}))
    with pytest.raises(CheckpointError, match="activation_function is relu"):
        chorus.export(source, tmp_path / "x", "onnx")
    assert not (tmp_path / "x").exists()


def test_values_beyond_the_type_are_refused(tmp_path):
    wide = changed(tmp_path, **{"model.encoder.layers.0.fc1.weight": torch.full((256, 64), 1e5)})
    with pytest.raises(CheckpointError, match=r"fc1\.weight: holds values beyond float16"):
        chorus.export(wide, tmp_path / "x", "onnx", types="float16")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model"]


def test_the_command_line_names_what_it_wrote(tmp_path, capsys):
    code = run(["export", str(BASE), "--to", "onnx", "--type", "int8", "-o", str(tmp_path / "made")])
    assert (code, capsys.readouterr().out.strip()) == (0, str(tmp_path / "made"))
    told = json.loads((tmp_path / "made" / "chorus.json").read_text())
    assert (told["format"], told["type"], told["vocabulary"]) == ("onnx", "int8", 51865)
    assert told["alignment_heads"][0] == [0, 0]
    code = run(["export", str(BASE), "--to", "onnx", "-o", str(tmp_path / "made")])
    assert (code, "not empty" in capsys.readouterr().err) == (4, True)


# ---- read ----


@given(st.integers(-(1 << 63), (1 << 63) - 1), st.integers(1, 1000))
def test_numbers_are_read_as_they_were_written(value, number):
    data = memoryview(wire.whole(number, value))
    (one,) = wire.fields(data, 0, len(data), "it")
    assert (one.number, wire.signed(one.value), one.stop) == (number, value, len(data))


@given(
    st.lists(st.tuples(st.integers(1, 40), st.binary(max_size=40)), max_size=8), st.floats(width=32, allow_nan=False)
)
def test_parts_are_read_as_they_were_written(parts, value):
    data = memoryview(b"".join(wire.part(number, one) for number, one in parts) + wire.real(99, value))
    *found, last = wire.fields(data, 0, len(data), "it")
    assert [(one.number, bytes(data[one.start : one.stop])) for one in found] == parts
    assert struct.unpack("<f", data[last.start : last.stop]) == (value,)


@given(st.binary(max_size=60))
@settings(max_examples=300)
def test_bytes_of_any_kind_are_fields_or_refused(raw):
    found = []
    with suppress(CheckpointError):
        found += wire.fields(memoryview(raw), 0, len(raw), "it")
    assert all(one.start <= one.stop <= len(raw) for one in found)


def test_a_file_that_ends_too_early_is_refused_wherever_it_ends(written, tmp_path):
    whole = (written["int8"] / "base-encoder.int8.onnx").read_bytes()
    place = tmp_path / "cut.onnx"
    stops = [*range(0, 400, 7), *range(400, len(whole), len(whole) // 60)]
    assert len(stops) == 118, "as many as the page says, beside nine in which a verification ends"
    for stop in stops:
        place.write_bytes(whole[:stop])
        with pytest.raises(CheckpointError, match=r"no whole ONNX file"):
            reader.read(place)


def test_weights_elsewhere_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "LIMIT", 1000)
    place = chorus.export(BASE, tmp_path / "apart", "onnx").places["float32"]
    path, weights = place / "base-encoder.onnx", place / "base-encoder.weights"
    plain = path.read_bytes()
    path.write_bytes(plain.replace(b"base-encoder.weights", b"../../encoder.weight"))
    with pytest.raises(CheckpointError, match="not beside it"):
        reader.read(path)
    path.write_bytes(plain)
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match="the file at"):
        reader.read(path)


def test_the_files_of_a_directory_are_found(written, tmp_path):
    assert reader.find(BASE) is None
    assert reader.find(BASE / "config.json") is None
    both = tmp_path / "both"
    both.mkdir()
    for kind in ("int8", "float32"):
        for path in written[kind].iterdir():
            shutil.copy(path, both)
    assert reader.find(both).encoder.name == "base-encoder.onnx"
    assert reader.find(both / "base-decoder.int8.onnx").encoder.name == "base-encoder.int8.onnx"
    (both / "base-tokens.txt").unlink()
    assert reader.find(both) is None
