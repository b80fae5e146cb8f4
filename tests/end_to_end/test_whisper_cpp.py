"""The digits' base in whisper.cpp: what it hears, its logits, its front end, and types that end its process."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, WhisperFeatureExtractor, WhisperForConditionalGeneration

import chorus
from chorus.data.audio import RATE
from chorus.data.manifest import read_manifest, write_manifest
from chorus.data.utterance import Utterance
from chorus.errors import CheckpointError, ChorusError, DataError, UsageError
from chorus.evaluate.run import evaluate
from chorus.models.whisper_tokens import special_ids
from chorus.transcribe.backends import whisper_cpp
from chorus.transcribe.backends.child import EndedError
from chorus.transcribe.backends.converting import converted
from chorus.transcribe.backends.isolated import Isolated
from chorus.transcribe.backends.protocol import Hypothesis, Sound
from chorus.transcribe.decoding import Decoding
from chorus.transcribe.native.remote import NativeWhisper
from chorus.transcribe.systems import open_system
from sounds import BASE, MANIFEST, tiny

pytest.importorskip("_pywhispercpp", reason="pywhispercpp is not installed")

SPOKEN = Decoding(max_new_tokens=12)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base as whisper.cpp's files, of several types."""
    place = tmp_path_factory.mktemp("ggml")
    chorus.export(BASE, place, "ggml", types="f16,f32,q5_0")
    return place


@pytest.fixture(scope="module")
def file(files: Path) -> Path:
    return files / "ggml-base.bin"


@pytest.fixture(scope="module")
def recordings() -> list[Sound]:
    """Twenty test recordings, four of each speaker."""
    rows = [r for r in read_manifest(MANIFEST).rows if r.split == "test"]
    chosen = [r for name in ("george", "jackson", "nicolas", "theo", "yweweler")
              for r in [r for r in rows if r.speaker == name][::12][:4]]  # fmt: skip
    return [Sound(Utterance(row).audio(), row) for row in chosen]


def heard(file: Path, sounds: list[Sound], decoding: Decoding = SPOKEN) -> list[Hypothesis]:
    made = whisper_cpp.open_backend(open_system(file), decoding, "cpu")
    try:
        return made.transcribe(sounds)
    finally:
        made.close()


# ---- as a runtime ----


def test_it_hears_what_transformers_hears(recordings: list[Sound], file: Path, tmp_path: Path) -> None:
    few = write_manifest([sound.row for sound in recordings], tmp_path / "few.csv")
    ours = evaluate(str(BASE), few, tmp_path / "t", decoding=SPOKEN, device="cpu")
    theirs = evaluate(str(file), few, tmp_path / "w", decoding=SPOKEN, device="cpu")
    assert theirs.summary["backend"] == "whisper.cpp"
    told = theirs.summary["versions"]
    assert (bool(told["whisper.cpp"]), bool(told["pywhispercpp"]), told["ggml type"]) == (True, True, "f16")
    assert len(ours.rows) == len(recordings)
    assert [r["hypothesis"] for r in theirs.rows] == [r["hypothesis"] for r in ours.rows]
    assert len({r["hypothesis"] for r in theirs.rows}) > 4


def test_a_model_is_converted_once_by_content_and_type(
    recordings: list[Sound], file: Path, tmp_path: Path, cache: Path
) -> None:
    few = write_manifest([sound.row for sound in recordings[:4]], tmp_path / "few.csv")
    made = evaluate(str(BASE), few, tmp_path / "c", decoding=SPOKEN, device="cpu", backend="whisper.cpp")
    direct = evaluate(str(file), few, tmp_path / "d", decoding=SPOKEN, device="cpu")
    assert [r["hypothesis"] for r in made.rows] == [r["hypothesis"] for r in direct.rows]
    kept = [place / "ggml.bin" for place in (cache / "ggml").iterdir()]
    assert [path.read_bytes() == file.read_bytes() for path in kept] == [True]
    written = kept[0].stat().st_ino
    small = SPOKEN.model_copy(update={"dtype": "int8"})
    found = evaluate(str(BASE), few, tmp_path / "s", decoding=small, device="cpu", backend="whisper.cpp")
    assert found.summary["versions"]["ggml type"] == "q8_0"
    assert converted(open_system(BASE), "ggml", whisper_cpp.TYPES["float16"], whisper_cpp.FILE).exists()
    assert sorted(p.stat().st_ino == written for p in (cache / "ggml").glob("*/ggml.bin")) == [False, True]


def test_a_merge_is_heard_without_being_written(recordings: list[Sound], file: Path, tmp_path: Path) -> None:
    shutil.copytree(BASE, tmp_path / "twin")
    models = [{"model": str(place)} for place in (BASE, tmp_path / "twin")]
    recipe = tmp_path / "same.yml"
    recipe.write_text(json.dumps({"merge_method": "linear", "parameters": {"weight": 1}, "models": models}))
    made = whisper_cpp.open_backend(open_system(recipe), SPOKEN, "cpu")
    try:
        assert made.transcribe(recordings[:3]) == heard(file, recordings[:3])
    finally:
        made.close()


def test_what_is_no_whisper_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="a model of the type wav2vec2"):
        whisper_cpp.open_backend(open_system(tiny(tmp_path / "ctc", "wav2vec2")), Decoding(), "cpu")
    (tmp_path / "model.bin").write_bytes(b"weights")
    with pytest.raises(UsageError, match="converted for CTranslate2"):
        whisper_cpp.open_backend(open_system(tmp_path), Decoding(), "cpu")


@pytest.mark.parametrize("seconds", [0.0, 0.005, 0.05, 0.11])
def test_the_shortest_audio_is_decoded(seconds: float, file: Path, recordings: list[Sound]) -> None:
    """Under a tenth of a second whisper.cpp alone decodes nothing, and under 201 samples reads what is not there."""
    cut = Sound(recordings[0].audio[: int(seconds * RATE)], recordings[0].row)
    silent = Sound(np.pad(cut.audio, (0, RATE - len(cut.audio))), cut.row)
    assert [one.text for one in heard(file, [cut])] == [one.text for one in heard(file, [silent])]


def test_long_audio_is_decoded_to_its_end(file: Path, recordings: list[Sound]) -> None:
    pause = np.zeros(RATE // 4, np.float32)
    long = np.concatenate([part for sound in recordings * 3 for part in (sound.audio, pause)])
    assert len(long) > 31 * RATE
    backend = whisper_cpp.open_backend(open_system(file), Decoding(), "cpu")
    try:
        assert backend.long_form
        (found,) = backend.transcribe([Sound(long, recordings[0].row)])
    finally:
        backend.close()
    assert found.text


def test_every_setting_reaches_it(file: Path, recordings: list[Sound]) -> None:
    sound = recordings[0]
    (plain,) = heard(file, [sound])
    (cut,) = heard(file, [sound], Decoding(max_new_tokens=2))
    assert (plain.cut, plain.language) == (False, "en")
    assert heard(file, [sound], Decoding(max_new_tokens=12, beam=3))[0].language == "en"
    assert heard(file, [sound], Decoding(max_new_tokens=12, language="Portuguese"))[0].language == "pt"
    assert heard(file, [sound], Decoding(max_new_tokens=12, language="detect"))[0].language
    assert heard(file, [replace(sound, row=replace(sound.row, language="de"))])[0].language == "de"
    told = [heard(file, [sound], Decoding(max_new_tokens=12, **more))[0].text for more in (  # type: ignore[arg-type]
        {"task": "st"}, {"prompt": "nine nine nine"}, {"prompt": "seven " * 400}, {"timestamps": True},
    )]  # fmt: skip
    assert len(told) == 4
    assert len(cut.text) <= len(plain.text)
    (timed,) = heard(file, [sound], Decoding(max_new_tokens=12, timestamps=True, detail="segments"))
    assert [0 <= one.start <= one.end <= sound.seconds for one in timed.segments] == [True] * len(timed.segments)
    assert " ".join(one.text for one in timed.segments).split() == timed.text.split()


def test_a_row_needs_a_language_that_it_knows(file: Path, recordings: list[Sound]) -> None:
    backend = whisper_cpp.open_backend(open_system(file), Decoding(), "cpu")
    row = recordings[0].row
    try:
        backend.check([row])
        with pytest.raises(DataError, match="no language"):
            backend.check([replace(row, language="")])
        with pytest.raises(DataError, match="knows no language"):
            backend.check([replace(row, language="yue")])  # of the larger vocabulary alone
        with pytest.raises(CheckpointError, match="no other weights"):
            backend.replace({})
    finally:
        backend.close()


def test_a_type_that_ends_the_process_is_a_clear_error(files: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """What whisper.cpp 1.8 does with float32, which it loads."""
    system = open_system(files / "ggml-base-f32.bin")
    with NativeWhisper(system.directory) as native:
        if tuple(map(int, native.versions["whisper.cpp"].split(".")[:2])) >= (1, 9):
            pytest.skip("whisper.cpp runs it since 1.9")
        with pytest.raises(EndedError, match=r"signal 6: .*ASSERT"):
            native.logits([0], audio=np.zeros(RATE, np.float32))
    told = r"ggml-base-f32: whisper.cpp cannot run it: .*signal 6: .*ASSERT"
    with pytest.raises(CheckpointError, match=told) as caught:
        whisper_cpp.open_backend(system, Decoding(), "cpu")
    assert "f32" in caught.value.hint
    assert capfd.readouterr() == ("", "")


def test_a_crash_takes_a_sound_with_it_and_no_more(file: Path, recordings: list[Sound]) -> None:
    backend = whisper_cpp.open_backend(open_system(file), SPOKEN, "cpu")
    assert isinstance(backend, Isolated)
    assert backend._child is not None
    try:
        before = backend.transcribe(recordings[:1])
        backend._child._process.kill()
        with pytest.raises(EndedError, match="signal 9"):
            backend.transcribe(recordings[:1])
        assert backend.transcribe(recordings[:1]) == before
    finally:
        backend.close()


# ---- its own numbers ----


@pytest.fixture(scope="module")
def native(file: Path) -> Iterator[NativeWhisper]:
    with NativeWhisper(file) as made:
        yield made


@pytest.fixture(scope="module")
def spectrum(recordings: list[Sound]) -> np.ndarray:
    """The first recording's, as transformers has it."""
    extractor = WhisperFeatureExtractor.from_pretrained(BASE)
    return extractor(recordings[0].audio, sampling_rate=RATE, return_tensors="np").input_features[0]


def test_its_dimensions_and_special_tokens_are_the_files(native: NativeWhisper, file: Path) -> None:
    header = struct.unpack("<11i", file.read_bytes()[4:48])
    assert tuple(native.dims.values()) == header
    assert set(native.versions) == {"whisper.cpp", "pywhispercpp"}
    wanted = special_ids(native.dims["n_vocab"])
    assert {name: wanted[name] for name in native.special_ids} == native.special_ids
    assert len(native.special_ids) == 99 + 9


def test_its_front_end_is_transformers(native: NativeWhisper, recordings: list[Sound], spectrum: np.ndarray) -> None:
    found = native.log_mel(recordings[0].audio)
    assert found.shape[0] == spectrum.shape[0] == native.dims["n_mels"]
    assert np.abs(found[:, :3000] - spectrum).max() < 1e-3
    assert native.log_mel(np.zeros(10, np.float32)).shape[1] >= 3000


def test_its_logits_are_the_models(native: NativeWhisper, recordings: list[Sound], spectrum: np.ndarray) -> None:
    """After a forced text, from the model's own spectrum and from whisper.cpp's."""
    model = WhisperForConditionalGeneration.from_pretrained(BASE, dtype="float32").eval()
    ids = special_ids(native.dims["n_vocab"])
    names = ("<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>")
    tokens = [*(ids[name] for name in names), *native.tokens([f" {recordings[0].row.text}"])[0]]
    with torch.inference_mode():
        inputs = {"input_features": torch.tensor(spectrum)[None], "decoder_input_ids": torch.tensor([tokens])}
        theirs = model(**inputs).logits[0].numpy()
    by_mel, by_audio = native.logits(tokens, mel=spectrum), native.logits(tokens, audio=recordings[0].audio)
    assert by_mel.shape == theirs.shape
    for found in (by_mel, by_audio):
        assert (found.argmax(-1) == theirs.argmax(-1)).all()
        assert np.abs(found - theirs).mean() < 0.005
        assert np.abs(found - theirs).max() < 0.05
    # a prefix sees nothing of what follows it, and a model nothing of the call before
    assert np.array_equal(native.logits(tokens[:3], mel=spectrum), by_mel[:3])
    assert native.logits([], mel=spectrum).shape == (0, native.dims["n_vocab"])


def test_its_tokens_are_the_tokenizers(native: NativeWhisper) -> None:
    texts = [" seven", "Ask not what your country can do for you.", " Grüße, señor", " 日本語", "don't 123", ""]
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    found = native.tokens(texts)
    assert [tokenizer.decode(ids) for ids in found] == texts
    assert found[:1] == tokenizer(texts[:1], add_special_tokens=False).input_ids
    assert found[-1] == []


def test_what_cannot_be_asked_is_told_and_the_next_question_answered(
    native: NativeWhisper, spectrum: np.ndarray
) -> None:
    with pytest.raises(ChorusError, match="token 60000 is not one of"):
        native.logits([60_000], mel=spectrum)
    with pytest.raises(ChorusError, match="449 tokens are more than its 448 positions"):
        native.logits([0] * 449, mel=spectrum)
    with pytest.raises(ChorusError, match="invalid number of mel bands"):
        native.logits([0], mel=spectrum[:40])
    assert native.tokens([" one"])


def test_after_its_end_every_call_says_so(file: Path) -> None:
    with NativeWhisper(file) as made:
        child = made._remote._child
        assert child is not None
        child._process.kill()
        for _ in range(2):
            with pytest.raises(EndedError, match=r"whisper.cpp's process ended"):
                made.tokens(["a"])


def test_a_file_without_half_of_its_tensors_is_no_model(file: Path, tmp_path: Path) -> None:
    cut = tmp_path / "ggml-cut.bin"
    cut.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(CheckpointError, match="not all tensors loaded"):
        NativeWhisper(cut)
    with pytest.raises(CheckpointError, match="no whole ggml file"):
        whisper_cpp.open_backend(open_system(cut), Decoding(), "cpu")
