"""Transcripts of real speech: the texts that evaluation counts, and when they were said, in every runtime."""

from __future__ import annotations

import json
import os
from difflib import SequenceMatcher
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import chorus
from chorus.checkpoints.model import OpenOptions
from chorus.cli.main import run
from chorus.data.audio import RATE, write_flac
from chorus.data.manifest import Row, read_manifest
from chorus.data.utterance import Utterance
from chorus.errors import UsageError
from chorus.models.times import Segment
from chorus.transcribe.backends.choose import BACKENDS
from chorus.transcribe.backends.converting import converted
from chorus.transcribe.backends.protocol import Hypothesis, Sound
from chorus.transcribe.decoding import Decoding
from chorus.transcribe.systems import open_system
from sounds import BASE, MANIFEST, tiny, tone

MODELS = Path(os.environ.get("CHORUS_MODELS", "/nowhere"))
DATA = Path(os.environ.get("CHORUS_DATA", "/nowhere"))
TINY = MODELS / "whisper-tiny.en"
real = pytest.mark.skipif(not (TINY / "model.safetensors").exists(), reason="CHORUS_MODELS has no whisper-tiny.en")
RUNTIMES = {
    "transformers": "transformers", "faster-whisper": "faster_whisper", "openai-whisper": "whisper",
    "whisper.cpp": "_pywhispercpp",
}  # fmt: skip


def digits(count: int, speaker: str = "theo") -> list[Sound]:
    rows = [r for r in read_manifest(MANIFEST).rows if r.speaker == speaker and r.split == "test"][:count]
    return [Sound(u.audio(), u.row, u.key()) for u in map(Utterance, rows)]


def heard(
    decoding: Decoding, sounds: list[Sound], model: Path = BASE, runtime: str = "transformers"
) -> list[Hypothesis]:
    backend = BACKENDS.get(runtime)(open_system(model), decoding, "cpu")
    try:
        return list(backend.transcribe(sounds))
    finally:
        backend.close()


def with_runtime(name: str) -> str:
    if find_spec(RUNTIMES[name]) is None:
        pytest.skip(f"{name} is not installed")
    return name


def whole(segments: tuple[Segment, ...], *, words: bool) -> str:
    """The text of segments, or of their words."""
    return " ".join(" ".join("".join(w.text for w in s.words).split()) if words else s.text for s in segments)


# ---- the demo's model ----


def test_asking_for_times_changes_no_text(tmp_path: Path) -> None:
    """What transcribe writes is what evaluate counts: short, long, with and without timestamps."""
    sounds = digits(4)
    quiet = np.zeros(9 * RATE, np.float32)
    long = np.concatenate([part for s in sounds for part in (s.audio, quiet)])
    sounds.append(Sound(long, sounds[0].row, "long"))
    plain = heard(Decoding(max_new_tokens=8), sounds)
    for stamps in (False, True):
        told = heard(Decoding(max_new_tokens=8, timestamps=stamps, detail="segments"), sounds)
        assert len(sounds) == 5
        assert [one.segments for one in plain] == [()] * 5, "evaluation is told no more than before"
        assert [whole(one.segments, words=False).split() for one in told] == [one.text.split() for one in told]
        for sound, one in zip(sounds, told, strict=True):
            assert all(0 <= s.start <= s.end <= sound.seconds + 0.001 for s in one.segments)
        assert stamps or [one.text for one in told] == [one.text for one in plain]
        stamped = heard(Decoding(max_new_tokens=8, timestamps=True), sounds) if stamps else plain
        assert told[-1].text == stamped[-1].text, "the long form is one and the same"


def test_every_word_of_a_text_has_its_time() -> None:
    """The demo's heads follow no speech: when words were said is shown on a real model, below."""
    silence = np.zeros(2 * RATE, np.float32)
    sounds = [Sound(np.concatenate([silence, s.audio, silence]), s.row, f"later {s.key}") for s in digits(6)]
    for sound, one in zip(sounds, heard(Decoding(detail="words"), sounds), strict=True):
        words = [w for s in one.segments for w in s.words]
        assert whole(one.segments, words=True).split() == one.text.split()
        assert words
        assert all(0 < w.probability <= 1 and w.start <= w.end <= sound.seconds for w in words)
        assert one.segments[0].start == words[0].start, "without timestamps its words say when it was"


def test_a_model_that_names_no_heads_has_no_words(tmp_path: Path) -> None:
    import shutil

    shutil.copytree(BASE, tmp_path / "model")
    place = tmp_path / "model" / "generation_config.json"
    settings = json.loads(place.read_text())
    for heads, told in ((None, "names no alignment_heads"), ([[99, 0]], "not within")):
        place.write_text(json.dumps({**settings, "alignment_heads": heads}))
        with pytest.raises(UsageError, match=told):
            heard(Decoding(detail="words"), digits(1), tmp_path / "model")
    assert heard(Decoding(detail="segments", max_new_tokens=8), digits(1), tmp_path / "model")[0].text


def test_pieces_are_told_where_they_stand_in_their_recording(tmp_path: Path) -> None:
    silence = np.zeros(6 * RATE, np.float32)
    write_flac(tmp_path / "a.flac", np.concatenate([p for s in digits(3) for p in (silence, s.audio)]))
    asked = Decoding(segments="vad", language="en", max_new_tokens=8)
    [one] = chorus.transcribe(BASE, tmp_path / "a.flac", decoding=asked, device="cpu")
    assert one.segments
    assert one.segments[0].start > 5.0, "nothing is said before"
    assert one.text == " ".join(s.text for s in one.segments)


@pytest.mark.parametrize("kind", ["wav2vec2", "wav2vec2_bert"])
def test_words_of_ctc_models_are_told_by_their_frames(kind: str, tmp_path: Path) -> None:
    sounds = [Sound(tone(1.0), Row("a")), Sound(tone(2.5, seed=3), Row("b"))]
    place = tiny(tmp_path, kind)
    plain, told = (heard(Decoding(detail=detail), sounds, place) for detail in ("text", "words"))
    assert [one.text for one in told] == [one.text for one in plain]
    for sound, one in zip(sounds, told, strict=True):
        (segment,) = one.segments
        assert [w.text.strip() for w in segment.words] == one.text.split()
        assert segment.words[0].start >= 0
        assert segment.words[-1].end <= sound.seconds + 0.001
        assert all(w.probability is None for w in segment.words)


def test_speech_llms_tell_no_times_of_words(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="do not tell when a word was said"):
        heard(Decoding(detail="words"), [Sound(tone(0.5), Row("a"))], tiny(tmp_path, "qwen2_audio"))


def test_an_adapter_and_a_recipe_are_heard_as_they_are(tmp_path: Path, capsys: Any) -> None:
    recipe = tmp_path / "soup.yml"
    recipe.write_text(f"merge_method: passthrough\nmodels: [{{model: {BASE}}}]\n")
    write_flac(tmp_path / "a.flac", digits(1)[0].audio)
    line = ["transcribe", recipe, f"base={BASE}", tmp_path / "a.flac", "--language", "en", "--device", "cpu", "-q"]
    assert run([*map(str, line)]) == 0
    told = capsys.readouterr().out
    assert "soup" in told
    assert "[-" not in told.partition("text")[2].partition("[-so-]")[0], "the same weights hear the same"


def test_the_very_pt_that_ships_is_heard_and_its_error_rate_counted(tmp_path: Path, capsys: Any) -> None:
    """As the model that it was made from is, and only where pickles may be read."""
    with_runtime("openai-whisper")
    file = tmp_path / "ours.pt"
    chorus.export(BASE, file, "openai", types="float32")
    line = ["--data", str(MANIFEST), "--where", "speaker=theo", "--limit", "4", "--language", "en"]
    assert run(["evaluate", str(file), *line, "-o", str(tmp_path / "no")]) == 4
    assert "pass --allow-pickle" in capsys.readouterr().err
    models = [str(file), f"base={BASE}", "--allow-pickle", "--backend", "openai-whisper"]
    assert run(["evaluate", *models, *line, "-o", str(tmp_path / "rates"), "--json", "-q"]) == 0
    ours, base = json.loads(capsys.readouterr().out)
    assert (ours["system"]["kind"], base["system"]["kind"]) == ("openai", "model")
    assert ours["all"]["characters"] == base["all"]["characters"]
    audio = str(MANIFEST.parent / read_manifest(MANIFEST).rows[0].path)
    assert run(["transcribe", str(file), audio, "--allow-pickle", "--json", "-q"]) == 0, "by its own runtime"
    assert json.loads(capsys.readouterr().out)["language"]
    with pytest.raises(UsageError, match="ours is converted for openai-whisper"):
        BACKENDS.get("transformers")(open_system(file, options=OpenOptions(allow_pickle=True)), Decoding(), "cpu")


@pytest.mark.parametrize("runtime", ["faster-whisper", "openai-whisper"])
def test_other_runtimes_hear_the_same_digits_with_times(runtime: str) -> None:
    sounds = digits(8)
    ours = heard(Decoding(), sounds)
    told = heard(Decoding(detail="segments"), sounds, runtime=with_runtime(runtime))
    assert sum(a.text == b.text for a, b in zip(ours, told, strict=True)) >= 7
    for sound, one in zip(sounds, told, strict=True):
        assert whole(one.segments, words=False) == one.text
        assert all(0 <= s.start <= s.end <= sound.seconds for s in one.segments)


# ---- a real model ----


def long_talk() -> np.ndarray:
    """Forty seconds and more: a president, and passages of a novel."""
    rows = [r for r in read_manifest(DATA / "samples" / "manifest.csv").rows if "jfk" in r.path or "sense" in r.path]
    pause = np.zeros(RATE // 2, np.float32)
    return np.concatenate([part for r in rows for part in (Utterance(r).audio(), pause)])


def like(one: str, other: str) -> float:
    plain = ["".join(c for c in text.lower() if c.isalnum() or c == " ").split() for text in (one, other)]
    return SequenceMatcher(None, *plain, autojunk=False).ratio()


@real
@pytest.mark.slow
@pytest.mark.parametrize(
    ("runtime", "median_s"), [("faster-whisper", 0.1), ("openai-whisper", 0.05), ("whisper.cpp", 0.4)]
)
def test_times_of_words_are_those_of_other_runtimes(runtime: str, median_s: float) -> None:
    """Against two independent implementations, on real speech with the real model."""
    sounds = [Sound(long_talk(), Row("talk", language="en"), "talk")]
    asked = Decoding(timestamps=True, detail="words")
    [ours], [theirs] = (heard(asked, sounds, TINY, name) for name in ("transformers", with_runtime(runtime)))
    assert like(ours.text, theirs.text) > 0.85
    one, other = ([w for s in found.segments for w in s.words] for found in (ours, theirs))
    texts = [[w.text.strip(" ,.").lower() for w in words] for words in (one, other)]
    matched = SequenceMatcher(None, *texts, autojunk=False).get_matching_blocks()
    pairs = [(one[m.a + i], other[m.b + i]) for m in matched for i in range(m.size)]
    assert len(pairs) > 60
    apart = np.array([abs(a.start - b.start) for a, b in pairs])
    assert float(np.median(apart)) <= median_s, apart
    assert float((apart < 8 * median_s).mean()) > 0.9, apart
    print(
        f"{runtime}: {len(pairs)} words, median {np.median(apart):.3f} s, 90 % within {np.quantile(apart, 0.9):.3f} s"
    )


@real
@pytest.mark.slow
def test_faster_whisper_differs_by_what_it_puts_behind_a_sound_and_by_nothing_else() -> None:
    """CTranslate2 writes transformers' texts from transformers' spectra; faster-whisper's own end in zeros."""
    ctranslate2 = pytest.importorskip("ctranslate2", reason="faster-whisper is not installed")
    from transformers import AutoTokenizer, WhisperFeatureExtractor

    rows = [r for r in read_manifest(DATA / "samples" / "manifest.csv").rows if r.language == "en"]
    sounds = [Sound(u.audio(), u.row, u.key()) for u in map(Utterance, rows)]
    ours = [one.text for one in heard(Decoding(), sounds, TINY)]
    theirs = [one.text for one in heard(Decoding(), sounds, TINY, with_runtime("faster-whisper"))]
    place = converted(open_system(TINY), "ctranslate2", "float32", "model.bin")
    model = ctranslate2.models.Whisper(str(place), device="cpu", compute_type="float32")
    extract, tokenizer = WhisperFeatureExtractor.from_pretrained(TINY), AutoTokenizer.from_pretrained(TINY)
    texts = []
    for sound in sounds:
        spectrum = np.ascontiguousarray(extract(sound.audio, sampling_rate=RATE, return_tensors="np").input_features)
        start = tokenizer.convert_tokens_to_ids(["<|startoftranscript|>", "<|notimestamps|>"])
        [made] = model.generate(ctranslate2.StorageView.from_array(spectrum), [start], beam_size=1, max_length=448)
        texts.append(tokenizer.decode(made.sequences_ids[0], skip_special_tokens=True).strip())
    assert len(texts) == 12
    assert texts == ours
    alike = sum(a == b for a, b in zip(ours, theirs, strict=True))
    assert alike < 12
    print(f"faster-whisper writes {alike} of {len(ours)} as transformers does")


@real
@pytest.mark.slow
def test_subtitles_of_a_talk(tmp_path: Path, capsys: Any) -> None:
    write_flac(tmp_path / "talk.flac", long_talk())
    out = tmp_path / "out"
    line = ["transcribe", TINY, tmp_path / "talk.flac", "-f", "all", "-o", out, "--device", "cpu", "-q"]
    assert run([*map(str, line)]) == 0
    told = json.loads((out / "talk.json").read_text())
    assert "ask what you can do for your country" in told["text"].lower().replace("asked", "ask").replace(",", "")
    starts = [one["start"] for one in told["segments"]]
    assert starts == sorted(starts)
    assert len(starts) >= 5
    assert starts[-1] > 30, "the second window too"
    assert told["segments"][-1]["end"] <= told["seconds"]
    assert (out / "talk.txt").read_text().splitlines() == [one["text"] for one in told["segments"]]
    assert (out / "talk.srt").read_text().count(" --> ") == len(starts)
