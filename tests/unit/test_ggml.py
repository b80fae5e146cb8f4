"""whisper.cpp's file: what is written is what the source holds, and what is no such file is told."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import chorus
from altered import EMBEDDING, changed, grown
from chorus.errors import CheckpointError, OutputError, UsageError
from chorus.export.ggml.layout import BY_TENSOR, MAGIC, TYPES, GgmlHeader, header_of, shape_of, shapes, stored
from chorus.export.ggml.mel import mel_filters
from chorus.export.ggml.quants import as_blocks, dequantised, needs, quantised
from chorus.export.ggml.reader import read
from chorus.export.values import as_bfloat16, as_float16, as_float32
from chorus.export.whisper import is_padding
from chorus.identity import file_hash
from chorus.linalg import casts
from chorus.models.whisper_tokens import IN_ORDER, special_ids
from sounds import BASE

PLAIN = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
LEGACY = ("q8_0", "q5_0", "q5_1", "q4_0", "q4_1")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("ggml")
    return chorus.export(BASE, folder, "ggml", types=[*PLAIN, *LEGACY]).places


def test_names_are_those_of_whisper_cpp_s_models(written):
    assert [p.name for p in written.values()][:4] == [
        "ggml-base-f32.bin", "ggml-base.bin", "ggml-base-bf16.bin", "ggml-base-q8_0.bin"
    ]  # fmt: skip
    assert len(written) == 8


@pytest.mark.parametrize("kind", [*PLAIN, *LEGACY])
def test_every_tensor_is_the_source_s_in_the_type_that_it_has_there(written, kind):
    gguf = pytest.importorskip("gguf")
    source, found = chorus.open_model(BASE), read(written[kind])
    assert list(found.problems()) == []
    back = chorus.open_model(written[kind])
    assert len(back.checkpoint) == len(found.entries) == 11 + 15 * 2 + 24 * 1
    names = dict(zip(back.checkpoint, found.entries.values(), strict=True))
    for name, entry in names.items():
        value = source.checkpoint[name].read().float()
        raw = written[kind].read_bytes()[entry.start : entry.start + entry.nbytes]
        if entry.kind.quantised:
            number = gguf.GGMLQuantizationType(entry.kind.tensor)
            assert raw == gguf.quants.quantize(value.numpy(), number).tobytes()
        else:
            cast = value.to(PLAIN[entry.kind.name])
            assert raw == cast.reshape(-1).view(torch.uint8).numpy().tobytes()
            assert torch.equal(back.checkpoint[name].read().float().reshape(-1), cast.float().reshape(-1))
    kinds = {entry.kind.name for entry in names.values()}
    assert kinds == {"f32", "f16", kind} - ({"f16"} if kind == "f32" else set())


@pytest.mark.parametrize("kind", [*PLAIN, *LEGACY])
def test_a_file_that_is_exported_in_its_own_type_is_the_same_file(written, kind, tmp_path):
    pytest.importorskip("gguf")
    again = chorus.export(written[kind], tmp_path / "x.bin", "ggml", types=kind, tokenizer=BASE).places[kind]
    assert again.read_bytes() == written[kind].read_bytes()


def test_the_header_the_filters_and_the_tokens(written):
    found = read(written["q5_0"])
    assert vars(found.header) == {
        "n_vocab": 51865, "n_audio_ctx": 1500, "n_audio_state": 64, "n_audio_head": 4, "n_audio_layer": 2,
        "n_text_ctx": 448, "n_text_state": 64, "n_text_head": 4, "n_text_layer": 1, "n_mels": 80, "ftype": 2008,
    }  # fmt: skip
    from transformers import AutoTokenizer, WhisperFeatureExtractor

    theirs = WhisperFeatureExtractor(feature_size=80).mel_filters.T
    assert np.abs(found.filters - theirs).max() < 1e-8
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    assert len(found.tokens) == 50257
    assert found.tokens[-1] == b""
    for text in ("seven, and Zürich", "三"):
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert b"".join(found.tokens[i] for i in ids).decode() == text


def test_mel_filters_of_128_bins_are_transformers():
    from transformers import WhisperFeatureExtractor

    theirs = WhisperFeatureExtractor(feature_size=128).mel_filters.T
    assert np.abs(mel_filters(128) - theirs).max() < 1e-8


def test_languages_are_in_the_order_of_their_tokens():
    from transformers.models.whisper.tokenization_whisper import LANGUAGES

    assert list(LANGUAGES) == list(IN_ORDER)
    for size, end, none, first in (
        (51864, 50256, 50361, 50363),
        (51865, 50257, 50362, 50364),
        (51866, 50257, 50363, 50365),
    ):
        ids = special_ids(size)
        assert (ids["<|endoftext|>"], ids["<|nospeech|>"], ids["<|0.00|>"]) == (end, none, first)
        assert max(ids.values()) == size - 1
    assert special_ids(51866)["<|yue|>"] == 50358


def test_a_recipe_is_merged_while_it_is_written(tmp_path):
    recipe = tmp_path / "half.yml"
    one = f"{{model: {BASE}, parameters: {{weight: 1}}}}"
    recipe.write_text(f"merge_method: linear\nmodels:\n  - {one}\n")
    chorus.export(recipe, tmp_path / "half.bin", "ggml")
    plain = chorus.export(BASE, tmp_path / "plain.bin", "ggml").places["f16"]
    assert (tmp_path / "half.bin").read_bytes() == plain.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "half.bin", "half.bin.json", "half.yml", "plain.bin", "plain.bin.json"
    ]  # fmt: skip
    facts = json.loads((tmp_path / "half.bin.json").read_text())
    assert facts["inputs"] == [{"file": "base/model.safetensors", "xxh3": file_hash(BASE / "model.safetensors")}]
    assert facts["recipe"]["merge_method"] == "linear"


# ---- refused, and nothing is left ----


def test_what_is_there_stays(tmp_path):
    mine, other = tmp_path / "mine.bin", tmp_path / "other.bin"
    chorus.export(BASE, mine, "ggml")
    other.write_bytes(b"somebody's")
    with pytest.raises(OutputError, match="exists"):
        chorus.export(BASE, mine, "ggml")
    with pytest.raises(OutputError, match="no file of this format"):
        chorus.export(BASE, other, "ggml", overwrite=True)
    assert other.read_bytes() == b"somebody's"
    before = mine.read_bytes()
    chorus.export(BASE, mine, "ggml", overwrite=True)
    assert mine.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine.bin", "mine.bin.json", "other.bin"]


@pytest.mark.parametrize(("kind", "told"), [("q4_k", "--type q4_0"), ("q6_k", "--type q5_1"), ("q5_k", "--type q5_0")])
def test_rows_that_no_block_fits_name_the_nearest_type(kind, told, tmp_path):
    with pytest.raises(CheckpointError, match=r"rows of 64 values are no whole blocks of 256") as caught:
        chorus.export(BASE, tmp_path / "x.bin", "ggml", types=kind)
    assert caught.value.hint.startswith(told)


def test_unknown_words_name_the_nearest(tmp_path):
    with pytest.raises(UsageError, match=r'did you mean "q5_0"'):
        chorus.export(BASE, tmp_path / "x.bin", "ggml", types="q5-0")
    with pytest.raises(UsageError, match=r'did you mean "ggml"'):
        chorus.export(BASE, tmp_path / "x.bin", "gmml")
    with pytest.raises(UsageError, match="modelfile: without a meaning for ggml"):
        chorus.export(BASE, tmp_path / "x.bin", "ggml", settings=chorus.ExportOptions(modelfile=True))


def test_a_padded_vocabulary_is_cut_on_request_and_a_trained_one_is_not(tmp_path):
    padded = changed(tmp_path / "a", vocabulary=51872, **{EMBEDDING: grown(torch.full((7, 64), 0.02))})
    with pytest.raises(CheckpointError, match="51,872 tokens") as caught:
        chorus.export(padded, tmp_path / "x.bin", "ggml")
    assert "--trim-vocab" in caught.value.hint
    settings = chorus.ExportOptions(trim_vocabulary=True)
    made = chorus.export(padded, tmp_path / "x.bin", "ggml", settings=settings).places["f16"]
    plain = chorus.export(BASE, tmp_path / "plain.bin", "ggml").places["f16"]
    assert made.read_bytes() == plain.read_bytes()
    learnt = changed(tmp_path / "b", vocabulary=51872, **{EMBEDDING: grown(torch.randn(7, 64) * 0.02)})
    with pytest.raises(CheckpointError, match="51,872 tokens") as caught:
        chorus.export(learnt, tmp_path / "y.bin", "ggml", settings=settings)
    assert "base's own tokenizer" in caught.value.hint
    assert not (tmp_path / "y.bin").exists()


@pytest.mark.parametrize(("value", "cut"), [(0.0, True), (None, True), (0.5, False)])
def test_one_row_is_padding_where_it_is_zero_or_the_mean_of_all(tmp_path, value, cut):
    """None is the mean, which resizing draws around. Alone, a row that was trained is as like itself as any."""
    mean = grown(torch.zeros(0, 64)).float().mean(0, keepdim=True)
    place = changed(
        tmp_path, vocabulary=51866, **{EMBEDDING: grown(mean if value is None else torch.full((1, 64), value))}
    )
    model = chorus.open_model(place)
    assert is_padding(model, 51865) == cut


def test_values_beyond_float16_are_refused(tmp_path):
    name = "model.encoder.layers.0.fc1.weight"
    place = changed(tmp_path, **{name: torch.full((256, 64), 1e5)})
    with pytest.raises(CheckpointError, match=r"mlp\.0\.weight: holds values beyond float16"):
        chorus.export(place, tmp_path / "x.bin", "ggml")
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
    assert chorus.export(place, tmp_path / "x.bin", "ggml", types="f32").places


def test_other_models_are_refused_with_all_that_stands_in_the_way(tmp_path):
    from sounds import tiny

    with pytest.raises(CheckpointError, match="a model of the type qwen2") as caught:
        chorus.export(tiny(tmp_path / "qwen", "qwen2"), tmp_path / "x.bin", "ggml")
    assert "whisper.cpp runs Whisper alone" in caught.value.hint
    place = changed(tmp_path)
    (place / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match="no tokenizer is beside it"):
        chorus.export(place, tmp_path / "x.bin", "ggml")
    assert chorus.export(place, tmp_path / "x.bin", "ggml", tokenizer=BASE).places


# ---- read back ----


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_file_that_is_cut_off_is_told_wherever_it_ends(written, tmp_path_factory, data):
    whole = written["q4_0"].read_bytes()
    found = read(written["q4_0"])
    edges = [0, 4, 20, 48, *(entry.start for entry in found.entries.values()), len(whole) - 1]
    end = data.draw(st.sampled_from(edges) | st.integers(0, len(whole) - 1))
    place = tmp_path_factory.mktemp("cut") / "cut.bin"
    place.write_bytes(whole[:end])
    try:
        problems = list(read(place).problems())
    except CheckpointError as error:
        problems = [error.message]
    assert problems


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2000), st.integers(0, 255))
def test_no_byte_of_the_beginning_makes_it_fail_in_another_way(written, tmp_path_factory, at, value):
    raw = bytearray(written["q4_0"].read_bytes())
    raw[at] = value
    place = tmp_path_factory.mktemp("byte") / "byte.bin"
    place.write_bytes(raw)
    with suppress(CheckpointError):
        list(read(place).problems())


def test_a_header_that_promises_other_tensors_is_told(written, tmp_path):
    raw = bytearray(written["f16"].read_bytes())
    raw[20:24] = struct.pack("<i", 3)  # encoder layers
    place = tmp_path / "x.bin"
    place.write_bytes(raw)
    assert any("lacks encoder.blocks.2" in problem for problem in read(place).problems())
    with pytest.raises(CheckpointError, match=r"lacks encoder.blocks.2"):
        chorus.open_model(place)


@pytest.mark.parametrize(
    ("at", "value", "told"),
    [
        (16, 0, "0 heads"),
        (16, 5, "5 heads for 64 values"),
        (32, 6, "6 heads for 64 values"),
        (28, 128, "128 values wide"),
    ],
)
def test_heads_and_widths_that_do_not_fit_are_told(written, tmp_path, at, value, told):
    raw = bytearray(written["f16"].read_bytes())
    raw[at : at + 4] = struct.pack("<i", value)
    (tmp_path / "x.bin").write_bytes(raw)
    with pytest.raises(CheckpointError, match=told):
        chorus.open_model(tmp_path / "x.bin")


# ---- numbers ----


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-60000, 60000, width=32), min_size=1, max_size=64))
def test_half_types_are_torch_s(values):
    given_values = np.array(values, np.float32)
    tensor = torch.from_numpy(given_values)
    halves, brains = tensor.half().numpy().tobytes(), tensor.bfloat16().view(torch.int16).numpy()
    for _ in by_llvm_and_by_numpy():
        assert as_float16(given_values, "x").tobytes() == halves
        assert as_bfloat16(given_values, "x").tobytes() == brains.tobytes()
        # a source in bfloat16 comes as its bits
        bits = brains.view(np.uint16)
        assert as_bfloat16(bits, "x").tobytes() == brains.tobytes()
        assert as_float32(bits, "x").tobytes() == tensor.bfloat16().float().numpy().tobytes()
        assert as_float16(bits, "x").tobytes() == tensor.bfloat16().half().numpy().tobytes()


def by_llvm_and_by_numpy() -> Iterator[bool]:
    """Once as it is, once where nothing can be compiled."""
    yield True
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(casts, "_loop", lambda source, target: None)
        yield False


@pytest.mark.parametrize("source", ["float32", "bfloat16", "float16"])
def test_every_number_of_sixteen_bits_is_cast_as_torch_casts_it(source):
    bits = np.arange(1 << 16, dtype=np.uint16)
    values = torch.from_numpy(bits.view(np.int16)).view(torch.float16 if source == "float16" else torch.bfloat16)
    given_values = bits if source == "bfloat16" else values.float().numpy()
    given_values = bits.view(np.float16) if source == "float16" else given_values
    for compiled in by_llvm_and_by_numpy():
        for dtype, cast in ((torch.float16, as_float16), (torch.bfloat16, as_bfloat16), (torch.float32, as_float32)):
            wanted = values.float().to(dtype)
            whole = torch.isfinite(wanted)
            found = cast(given_values[whole.numpy()], "x")
            assert found.tobytes() == wanted[whole].view(torch.uint8).numpy().tobytes(), (compiled, dtype)
            for i in torch.nonzero(~whole).reshape(-1).tolist()[::500]:
                with pytest.raises(CheckpointError, match=r"x: holds (NaN or infinity|values beyond)"):
                    cast(given_values[i : i + 1], "x")
                with pytest.raises(CheckpointError, match=r"x: holds (NaN or infinity|values beyond)"):
                    cast(np.concatenate([given_values[:100], given_values[i : i + 1], given_values[:99]]), "x")


def test_float32_is_rounded_as_torch_rounds_it_at_every_step():
    """Numbers around each half step of float16 and bfloat16: below, on it and above, of both signs."""
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float64)
    middles = ((halves[1:] + halves[:-1]) / 2).astype(np.float32)
    brains = (np.arange(0x7F7F, dtype=np.uint32) << 16) + 0x8000
    values = np.concatenate([middles, brains.view(np.float32)]).view(np.uint32)
    values = np.concatenate([values - 1, values, values + 1]).view(np.float32)
    values = np.concatenate([values, -values])
    for _ in by_llvm_and_by_numpy():
        for dtype, cast in ((torch.float16, as_float16), (torch.bfloat16, as_bfloat16)):
            wanted = torch.from_numpy(values).to(dtype)
            whole = torch.isfinite(wanted)
            assert cast(values[whole.numpy()], "x").tobytes() == wanted[whole].view(torch.uint8).numpy().tobytes()
    assert len(values) > 300_000


@pytest.mark.parametrize("kind", [name for name, one in TYPES.items() if one.quantised])
def test_blocks_are_ggml_s_and_come_back_near(kind):
    if needs(TYPES[kind]):
        pytest.skip("the package that makes these blocks is not installed")
    rows = np.random.default_rng(0).normal(0, 0.02, (8, 512)).astype(np.float32)
    blocks = quantised(rows, TYPES[kind])
    assert blocks.shape == (8, TYPES[kind].nbytes(512))
    error = np.sqrt(np.mean((dequantised(blocks, TYPES[kind]) - rows) ** 2)) / 0.02
    assert error < 1.2 * 2.0 ** (1.2 - TYPES[kind].bits)


@pytest.mark.parametrize("kind", [name for name, one in TYPES.items() if one.quantised])
@pytest.mark.parametrize("size", [1e10, 3e38])
def test_values_that_no_block_can_scale_are_refused(kind, size):
    if needs(TYPES[kind]):
        pytest.skip("the package that makes these blocks is not installed")
    rows = np.random.default_rng(0).uniform(-1, 1, (2, 512)).astype(np.float32)
    assert as_blocks(rows * np.float32(6e4), TYPES[kind], "x").any()
    rows[1, 300] = size
    with pytest.raises(CheckpointError, match=f"x: holds values beyond what {kind} can scale"):
        as_blocks(rows, TYPES[kind], "x")


def test_types_are_named_once_and_matrices_alone_have_them():
    assert len({one.file for one in TYPES.values()}) == len(BY_TENSOR) == len(TYPES) == 14
    dims = GgmlHeader(51866, 1500, 1280, 20, 32, 448, 1280, 20, 32, 128, 1).dims
    known = shapes(dims)
    cases = {
        "encoder.conv1.weight": "f16", "encoder.conv2.bias": "f32", "decoder.positional_embedding": "f32",
        "decoder.token_embedding.weight": "q4_k", "encoder.blocks.3.mlp.0.weight": "q4_k",
        "encoder.blocks.3.mlp.0.bias": "f32", "decoder.ln.weight": "f32",
    }  # fmt: skip
    for name, kind in cases.items():
        assert stored(name, shape_of(name, known), TYPES["q4_k"]).name == kind
    assert header_of(chorus.open_model(BASE).config, TYPES["f16"], 51865).packed()[:4] == struct.pack("<i", MAGIC)
