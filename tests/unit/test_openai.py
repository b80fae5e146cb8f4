"""openai-whisper's `.pt`: what `torch.save` would write, without the whole model in memory."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import chorus
from altered import EMBEDDING, changed, grown
from chorus.architectures.openai_whisper import transformers_name
from chorus.checkpoints.model import OpenOptions
from chorus.errors import CheckpointError, OutputError, UsageError
from chorus.export.openai.archive import looks_so
from sounds import BASE, tiny

TYPES = {"float16": torch.float16, "float32": torch.float32}
TRUSTED = OpenOptions(allow_pickle=True)
MODELS = Path(os.environ.get("CHORUS_MODELS", "nowhere"))
SAMPLES = Path(os.environ.get("CHORUS_DATA", "nowhere")) / "samples" / "manifest.csv"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return chorus.export(BASE, tmp_path_factory.mktemp("pt"), "openai", types=list(TYPES)).places


@pytest.mark.parametrize("kind", TYPES)
def test_it_holds_ten_numbers_and_every_tensor(written, kind):
    found = torch.load(written[kind], weights_only=True, mmap=True)
    assert list(found) == ["dims", "model_state_dict"]
    assert found["dims"] == {
        "n_mels": 80, "n_audio_ctx": 1500, "n_audio_state": 64, "n_audio_head": 4, "n_audio_layer": 2,
        "n_vocab": 51865, "n_text_ctx": 448, "n_text_state": 64, "n_text_head": 4, "n_text_layer": 1,
    }  # fmt: skip
    source = chorus.open_model(BASE).checkpoint
    assert len(found["model_state_dict"]) == len(source) == 11 + 15 * 2 + 24 * 1
    for name, value in found["model_state_dict"].items():
        assert torch.equal(value, source[transformers_name(name)].read().to(TYPES[kind])), name


def test_its_pickle_is_that_of_torch_save(written, tmp_path):
    found = torch.load(written["float16"], weights_only=True)
    torch.save(found, tmp_path / "theirs.pt")
    for place in (written["float16"], tmp_path / "theirs.pt"):
        with zipfile.ZipFile(place) as archive:
            assert archive.testzip() is None  # the checksums of all records
    with zipfile.ZipFile(written["float16"]) as mine, zipfile.ZipFile(tmp_path / "theirs.pt") as theirs:
        folder = {"archive": mine, "theirs": theirs}
        pickles = [archive.read(f"{name}/data.pkl") for name, archive in folder.items()]
        assert pickles[0] == pickles[1]
        records = [name.removeprefix("archive") for name in mine.namelist()]
        assert [name for name in records if mine.read(f"archive{name}") != theirs.read(f"theirs{name}")] == []
        raw = written["float16"].read_bytes()
        for one in mine.infolist():
            begins = one.header_offset + 30 + len(one.filename) + len(one.extra)
            assert begins % 64 == 0
            assert raw[begins : begins + one.file_size] == mine.read(one)


def test_the_same_model_gives_the_same_bytes_and_comes_back(written, tmp_path):
    again = chorus.export(BASE, tmp_path / "again.pt", "openai").places["float16"]
    assert again.read_bytes() == written["float16"].read_bytes()
    back = chorus.open_model(again, TRUSTED)
    round_trip = chorus.export(back, tmp_path / "back.pt", "openai", types="float16").places["float16"]
    assert round_trip.read_bytes() == again.read_bytes()
    with pytest.raises(CheckpointError, match="not opened by default"):
        chorus.open_model(again)
    ggml = chorus.export(back, tmp_path / "a.bin", "ggml", tokenizer=BASE).places["f16"]
    assert ggml.read_bytes() == chorus.export(BASE, tmp_path / "b.bin", "ggml").places["f16"].read_bytes()


def test_openai_whisper_loads_it_and_computes_the_same(written):
    whisper = pytest.importorskip("whisper")
    from transformers import WhisperForConditionalGeneration

    mine = whisper.load_model(str(written["float32"]), device="cpu")
    theirs = WhisperForConditionalGeneration.from_pretrained(BASE, dtype=torch.float32).eval()
    torch.manual_seed(0)
    mel, tokens = torch.randn(1, 80, 3000), torch.tensor([[50258, 50259, 50359, 50363, 11, 12]])
    with torch.no_grad():
        found, wanted = mine(mel, tokens), theirs(mel, decoder_input_ids=tokens).logits
    assert (found - wanted).abs().max() < 1e-3
    assert torch.equal(found.argmax(-1), wanted.argmax(-1))


def test_a_recipe_is_merged_while_it_is_written(written, tmp_path):
    recipe = tmp_path / "half.yml"
    recipe.write_text(f"merge_method: linear\nmodels:\n  - {{model: {BASE}, parameters: {{weight: 1}}}}\n")
    made = chorus.export(recipe, tmp_path / "half.pt", "openai").places["float16"]
    assert made.read_bytes() == written["float16"].read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["half.pt", "half.pt.json", "half.yml"]
    assert [p.name for p in written.values()] == ["openai-base.pt", "openai-base-float32.pt"]


# ---- refused, and nothing is left ----


class Shout:
    """What a pickle runs that nobody should load."""

    def __reduce__(self):
        return os.system, ("echo ran > ran",)


def test_what_is_ours_is_told_without_unpickling_it(written, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert looks_so(written["float16"])
    openai = {"dims": {"n_mels": 80}, "model_state_dict": OrderedDict(a=torch.zeros(2).half())}
    others = {
        "openai.pt": (openai, True), "optimizer.pt": ({"state": {}}, False),
        "dangerous.pt": ({**openai, "more": Shout()}, False),
    }  # fmt: skip
    for name, (value, ours) in others.items():
        torch.save(value, name)
        assert looks_so(Path(name)) is ours, name
    (tmp_path / "text.pt").write_text("no archive")
    assert not looks_so(tmp_path / "text.pt")
    for name in ("optimizer.pt", "dangerous.pt", "text.pt"):
        before = (tmp_path / name).read_bytes()
        with pytest.raises(OutputError, match="no file of this format"):
            chorus.export(BASE, tmp_path / name, "openai", overwrite=True)
        assert (tmp_path / name).read_bytes() == before
    chorus.export(BASE, tmp_path / "openai.pt", "openai", overwrite=True)
    assert not (tmp_path / "ran").exists()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_damage_makes_the_telling_fail(written, tmp_path_factory, data):
    raw = bytearray(written["float16"].read_bytes()[:20_000] + written["float16"].read_bytes()[-20_000:])
    for _ in range(data.draw(st.integers(0, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    place = tmp_path_factory.mktemp("pt") / "x.pt"
    place.write_bytes(raw[: data.draw(st.integers(0, len(raw)))])
    assert looks_so(place) in (True, False)


def test_what_openai_whisper_could_not_run_is_told(tmp_path):
    with pytest.raises(CheckpointError, match="a model of the type qwen2"):
        chorus.export(tiny(tmp_path / "qwen", "qwen2"), tmp_path / "x.pt", "openai")
    with pytest.raises(UsageError, match=r'did you mean "float16"'):
        chorus.export(BASE, tmp_path / "x.pt", "openai", types="float-16")
    short = changed(tmp_path / "a", model__encoder__embed_positions__weight=torch.zeros(750, 64))
    config = json.loads((short / "config.json").read_text())
    (short / "config.json").write_text(json.dumps({**config, "max_source_positions": 750}))
    with pytest.raises(CheckpointError, match="750 positions of audio"):
        chorus.export(short, tmp_path / "x.pt", "openai")
    large = changed(tmp_path / "b", **{"model.encoder.layers.0.fc1.weight": torch.full((256, 64), 1e5)})
    with pytest.raises(CheckpointError, match="beyond float16"):
        chorus.export(large, tmp_path / "x.pt", "openai")
    bare = tmp_path / "bare"
    shutil.copytree(BASE, bare)
    (bare / "tokenizer.json").unlink()
    assert chorus.export(bare, tmp_path / "bare.pt", "openai").places  # it has a tokenizer of its own
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", "bare", "bare.pt", "bare.pt.json", "qwen"]


def test_a_padded_vocabulary_is_cut_on_request(written, tmp_path):
    padded = changed(tmp_path, vocabulary=51872, **{EMBEDDING: grown(torch.full((7, 64), 0.02))})
    with pytest.raises(CheckpointError, match="51,872 tokens"):
        chorus.export(padded, tmp_path / "x.pt", "openai")
    settings = chorus.ExportOptions(trim_vocabulary=True)
    made = chorus.export(padded, tmp_path / "x.pt", "openai", settings=settings).places["float16"]
    assert made.read_bytes() == written["float16"].read_bytes()


# ---- heard ----


@pytest.mark.slow
def test_openai_whisper_hears_what_transformers_hears(tmp_path):
    whisper = pytest.importorskip("whisper")
    if not (MODELS / "whisper-tiny.en").is_dir() or not SAMPLES.is_file():
        pytest.skip("set CHORUS_MODELS and CHORUS_DATA to a real Whisper and real recordings")
    from chorus.data.audio import read_audio
    from chorus.data.manifest import read_manifest, write_manifest
    from chorus.evaluate.run import evaluate

    rows = [row for row in read_manifest(SAMPLES).rows if row.language == "en"]
    english = write_manifest(rows, tmp_path / "en.csv")
    done = evaluate(str(MODELS / "whisper-tiny.en"), english, tmp_path / "t", device="cpu")
    made = chorus.export(MODELS / "whisper-tiny.en", tmp_path / "x.pt", "openai").places["float16"]
    model = whisper.load_model(str(made), device="cpu")
    options = whisper.DecodingOptions(language="en", without_timestamps=True, fp16=False, beam_size=None)
    heard = []
    for row in rows:
        audio = whisper.pad_or_trim(torch.from_numpy(read_audio(row.audio)))
        heard.append(whisper.decode(model, whisper.log_mel_spectrogram(audio), options).text.strip())
    assert len(heard) == 12
    assert heard == [row["hypothesis"] for row in done.rows]
