"""Graphs decoded as sherpa-onnx decodes them, and verified: good ones pass, damaged ones are caught, both counted."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import chorus
from chorus.cli.main import run
from chorus.data.manifest import Row
from chorus.errors import CheckpointError, MissingPackageError, UsageError
from chorus.export.ggml.mel import mel_filters
from chorus.export.onnx import reader, writer
from chorus.export.onnx.exporter import Onnx
from chorus.export.onnx.graph import entries
from chorus.export.onnx.wire import opening, part, whole
from chorus.transcribe.backends.choose import BACKENDS, chosen_backend
from chorus.transcribe.backends.protocol import Sound
from chorus.transcribe.decoding import DETECT, Decoding
from chorus.transcribe.native.sherpa import LoadedGraphs
from chorus.transcribe.native.sherpa_mel import energies, log_mel, normalised
from chorus.transcribe.native.sherpa_rules import ruled, segments_of
from chorus.transcribe.systems import open_system
from chorus.verify.options import VerifyOptions
from chorus.verify.recordings import recordings
from chorus.verify.verdict import Verification
from sounds import BASE, MANIFEST, tone

pytest.importorskip("onnxruntime", reason="the graphs are computed in onnxruntime")
KINDS = list(Onnx.types)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return chorus.export(BASE, tmp_path_factory.mktemp("onnx") / "all", "onnx", types=KINDS).places


# ---- the spectrum ----


def by_the_letter(audio: np.ndarray, bins: int) -> np.ndarray:
    """kaldi-native-fbank's frames, sample by sample: centred 80 samples after their hop, mirrored at both ends."""
    filters, found = mel_filters(bins), []
    for frame in range((len(audio) + 80) // 160):
        window = []
        for i in range(400):
            at = frame * 160 + 80 - 200 + i
            while not 0 <= at < len(audio):
                at = -at - 1 if at < 0 else 2 * len(audio) - 1 - at
            window.append(float(audio[at]) * (0.5 - 0.5 * np.cos(2 * np.pi * i / 400)))
        found.append(filters @ np.abs(np.fft.rfft(window)) ** 2)
    return np.array(found, np.float32).reshape(-1, bins)


@given(st.integers(0, 2200), st.sampled_from([80, 128]))
@settings(max_examples=25, deadline=None)
def test_frames_are_those_of_kaldi(length, bins):
    audio = np.random.default_rng(length).normal(0, 0.1, length).astype(np.float32)
    wanted, found = by_the_letter(audio, bins), energies(audio, bins)
    assert found.shape == wanted.shape
    assert np.allclose(found, wanted, rtol=1e-4, atol=1e-7)


def test_frames_are_transformers_of_the_sound_5_ms_later():
    from transformers import WhisperFeatureExtractor

    audio = np.random.default_rng(0).normal(0, 0.1, 32_000).astype(np.float32)  # noise: nothing is far from the top
    theirs = WhisperFeatureExtractor()(audio[80:], sampling_rate=16_000, return_tensors="np")["input_features"][0]
    mine = normalised(energies(audio, 80)).T
    apart = mine[:, 2:196] - theirs[:, 2:196]
    assert np.abs(apart - np.median(apart)).max() < 1e-4  # but for the ends, and so for the loudest of all


def test_behind_a_sound_come_ten_seconds_of_zeros_within_half_a_minute():
    for seconds, frames, heard in ((0.5, 1050, 50), (25, 3000, 2500), (29.8, 3000, 2950), (40, 3000, 2950)):
        found = log_mel(tone(seconds), 80)
        assert (found.shape, found.dtype) == ((80, frames), np.float32)
        assert not found[:, heard:].any()
        assert found[:, :heard].any(0).all()
    assert log_mel(np.zeros(0, np.float32), 80).shape == (80, 1000)


# ---- timestamps ----


def in_openai_whisper(logits: np.ndarray, written: list[int]) -> np.ndarray:
    torch = pytest.importorskip("torch")
    decoding = pytest.importorskip("whisper.decoding", reason="openai-whisper's own rules")
    from whisper.tokenizer import get_tokenizer

    rules = decoding.ApplyTimestampRules(get_tokenizer(True, num_languages=99), 0, 50)
    found = torch.from_numpy(logits.copy())[None]
    rules.apply(found, torch.tensor([written], dtype=torch.long))
    return found[0].numpy()


@given(st.lists(st.one_of(st.integers(0, 50256), st.integers(50364, 51864)), max_size=6), st.integers(0, 999))
@settings(max_examples=60, deadline=None)
def test_timestamps_stand_where_openai_whisper_lets_them(written, seed):
    logits = np.random.default_rng(seed).normal(0, 3, 51865).astype(np.float32)
    logits[50258:50364] = -np.inf  # other special tokens, which sherpa-onnx suppresses in some states and not in all
    mine = ruled(logits, written, first=50364, without=50363, end=50257)
    theirs = in_openai_whisper(logits, written)
    closing = len(written) > 1 and written[-1] >= 50364 > written[-2]
    if closing:  # the end may follow there, however likely a timestamp is
        mine[50257] = theirs[50257]
    assert np.array_equal(mine, theirs)


def test_segments_lie_between_timestamps():
    first = 100
    assert segments_of([100, 7, 8, 150, 150, 9, 200], first, 9.0) == [(0.0, 1.0, [7, 8]), (1.0, 2.0, [9])]
    assert segments_of([110, 7], first, 9.0) == [(0.2, 9.0, [7])]
    assert segments_of([7, 8], first, 9.0) == []
    assert segments_of([], first, 9.0) == []


# ---- decoded ----


def sounds(count: int = 12) -> list[Sound]:
    return recordings([], MANIFEST, VerifyOptions(split="test"))[:count]


def in_transformers(heard: list[Sound]) -> list[str]:
    backend = BACKENDS.get("transformers")(open_system(BASE), Decoding(), "cpu")
    return [one.text for one in backend.transcribe(heard)]


def test_what_is_heard_is_what_transformers_hears(written):
    """But for the five milliseconds, which of a model that is sure of little may turn one of them."""
    heard = sounds(40)
    theirs = in_transformers(heard)
    for kind in ("float32", "int8"):
        backend = BACKENDS.get("onnxruntime")(open_system(written[kind]), Decoding(), "cpu")
        try:
            found = backend.transcribe(heard)
        finally:
            backend.close()
        assert sum(one.text != text for one, text in zip(found, theirs, strict=True)) <= 4
        assert {one.language for one in found} == {"en"}
        assert not any(one.cut for one in found)
    assert "onnxruntime" in backend.facts


def test_a_model_of_any_form_is_converted_into_the_cache(written, tmp_path, monkeypatch):
    monkeypatch.setenv("CHORUS_CACHE", str(tmp_path))
    (sound,) = sounds(1)
    texts = []
    for source in (BASE, written["float32"], written["float32"] / "base-decoder.onnx"):
        backend = BACKENDS.get("onnxruntime")(open_system(source), Decoding(language=DETECT), "cpu")
        texts += backend.transcribe([sound])
        backend.close()
    assert texts[0] == texts[1] == texts[2]
    assert len(list((tmp_path / "onnx").iterdir())) == 1


def test_segments_and_words_are_told(written):
    (sound,) = sounds(1)
    told = {}
    for settings_ in ({}, {"detail": "segments"}, {"detail": "words"}):
        backend = BACKENDS.get("onnxruntime")(open_system(written["float32"]), Decoding(**settings_), "cpu")
        (found,) = backend.transcribe([sound])
        backend.close()
        told[str(settings_)] = found.segments
        text = found.text
        assert text
    none, *others = told.values()
    assert none == ()
    for segments in others:
        assert " ".join(one.text for one in segments) == text
        assert all(0 <= one.start <= one.end <= sound.seconds + 0.01 for one in segments)
    words = others[1][0].words
    assert "".join(word.text for word in words).strip() == text
    assert all(word.start <= word.end and 0 < word.probability <= 1 for word in words)


def test_a_text_is_cut_where_it_is_told_to_be(written):
    graphs = LoadedGraphs(*map(str, vars(reader.find(written["float32"])).values()))
    sound = tone(0.4)
    most = int(0.4 * 6)  # six tokens for a second
    graphs.end = 0  # none of what it writes: a text without an end
    found = graphs.decoded(sound, language="en")
    assert (len(found.tokens), found.ended) == (most, False)
    assert len(graphs.decoded(tone(29.9), language="en").tokens) == 6 * 2950 // 100
    assert len(graphs.decoded(tone(2.0), language="en", limit=3).tokens) == 3
    whole = graphs.decoded(tone(2.0), language="en")
    assert graphs.decoded(tone(2.0), language="en", limit=3).tokens == whole.tokens[:3]


def test_what_it_cannot_do_is_refused(written, tmp_path):
    system = open_system(written["float32"])
    assert (system.kind, chosen_backend("auto", system)) == ("onnx", "onnxruntime")
    for settings_, told in (({"beam": 2}, "greedily alone"), ({"prompt": "digits"}, "takes none")):
        with pytest.raises(UsageError, match=told):
            BACKENDS.get("onnxruntime")(system, Decoding(**settings_), "cpu")
    with pytest.raises(UsageError, match="no bfloat16"):
        BACKENDS.get("onnxruntime")(open_system(BASE), Decoding(dtype="bfloat16"), "cpu")
    ggml = chorus.export(BASE, tmp_path / "ggml-base.bin", "ggml").places["f16"]
    with pytest.raises(UsageError, match=r"ggml-base is converted for whisper\.cpp"):
        BACKENDS.get("onnxruntime")(open_system(ggml), Decoding(), "cpu")
    backend = BACKENDS.get("onnxruntime")(system, Decoding(), "cpu")
    with pytest.raises(chorus.errors.DataError, match="knows no language"):
        backend.check([Row("x.wav", language="Klingon")])
    backend.close()


def test_a_graph_that_is_none_is_an_answer_and_no_crash(written, tmp_path):
    place = tmp_path / "broken"
    shutil.copytree(written["int8"], place)
    path = place / "base-decoder.int8.onnx"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="onnxruntime takes no such graph"):
        BACKENDS.get("onnxruntime")(open_system(place), Decoding(), "cpu")


def test_graphs_of_two_models_are_told_before_a_sound_is(written, monkeypatch):
    """onnxruntime would say so at the first recording, in words of its own."""
    paths = list(map(str, vars(reader.find(written["float32"])).values()))
    assert LoadedGraphs(*paths)._unfit() == ""
    with pytest.raises(CheckpointError, match="its metadata lack"):
        LoadedGraphs(paths[1], paths[0], paths[2])
    read = LoadedGraphs._read

    def of_another(graphs, told):
        read(graphs, {**told, "n_text_state": "640"})

    monkeypatch.setattr(LoadedGraphs, "_read", of_another)
    with pytest.raises(
        CheckpointError, match=r"of another model than base-decoder\.onnx: in_n_layer_self_k_cache is \["
    ):
        LoadedGraphs(*paths)


def test_the_command_line_takes_the_directory(written, tmp_path, capsys):
    (sound,) = sounds(1)
    import soundfile

    soundfile.write(tmp_path / "one.wav", sound.audio, 16_000)
    assert run(["transcribe", str(written["int8"]), str(tmp_path / "one.wav"), "--language", "en"]) == 0
    assert capsys.readouterr().out.strip() == in_transformers([sound])[0]


# ---- in sherpa-onnx itself ----

STAND_IN = """
import json, types
from pathlib import Path
class OfflineRecognizer:
    @classmethod
    def from_whisper(cls, **settings):
        self = cls()
        self.settings = settings
        with Path(__file__).with_name("calls").open("a") as file:
            file.write(json.dumps(settings) + "\\n")
        return self
    def create_stream(self):
        return types.SimpleNamespace(accept_waveform=lambda rate, samples: setattr(self, "heard", (rate, len(samples))))
    def decode_stream(self, stream):
        rate, count = self.heard
        timed = self.settings["enable_segment_timestamps"]
        stream.result = types.SimpleNamespace(
            text=f" {count} at {rate}", lang=self.settings["language"] or "de",
            segment_timestamps=[0.0] * timed, segment_durations=[99.0] * timed, segment_texts=[" all"] * timed)
"""


def test_sherpa_onnx_is_given_the_files_by_name(written, tmp_path, monkeypatch):
    """By a stand-in of its package: what it is asked, and what is made of its answers."""
    package, facts = tmp_path / "sherpa_onnx", tmp_path / "sherpa_onnx-2.0.1.dist-info"
    package.mkdir()
    facts.mkdir()
    (package / "__init__.py").write_text(STAND_IN)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: sherpa-onnx\nVersion: 2.0.1\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path(chorus.__file__).parents[1]}")
    monkeypatch.syspath_prepend(tmp_path)
    heard = [Sound(tone(0.5), Row("a.wav", language="English")), Sound(tone(1.0), Row("b.wav", language="de"))]
    for settings_ in ({}, {"language": DETECT, "timestamps": True, "detail": "segments", "task": "st"}):
        backend = BACKENDS.get("sherpa-onnx")(open_system(written["int8"]), Decoding(**settings_), "cpu")
        found = backend.transcribe(heard)
        backend.close()
        assert [one.text for one in found] == ["8000 at 16000", "16000 at 16000"]
        assert backend.facts == {"sherpa-onnx": "2.0.1"}
    assert [one.text for one in found[0].segments] == ["all"]
    assert found[0].segments[0].end == 0.5
    calls = [json.loads(line) for line in (package / "calls").read_text().splitlines()]
    assert [(one["language"], one["task"]) for one in calls] == [
        ("en", "transcribe"), ("de", "transcribe"), ("", "translate")
    ]  # fmt: skip
    files = ("encoder.int8.onnx", "decoder.int8.onnx", "tokens.txt")
    assert all(Path(calls[0][name]).name == f"base-{file}"
               for name, file in zip(("encoder", "decoder", "tokens"), files, strict=True))  # fmt: skip
    for settings_ in ({"max_new_tokens": 3}, {"detail": "words"}, {"beam": 3}):
        with pytest.raises(UsageError):
            BACKENDS.get("sherpa-onnx")(open_system(written["int8"]), Decoding(**settings_), "cpu")


def test_without_sherpa_onnx_it_says_so(written):
    if "sherpa_onnx" in sys.modules:
        pytest.skip("it is there")
    from importlib.util import find_spec

    if find_spec("sherpa_onnx") is not None:
        pytest.skip("it is installed")
    with pytest.raises(MissingPackageError, match="sherpa-onnx"):
        BACKENDS.get("sherpa-onnx")(open_system(written["int8"]), Decoding(), "cpu")


@pytest.mark.slow
def test_sherpa_onnx_itself_hears_what_the_backend_does(written):
    pytest.importorskip("sherpa_onnx", reason="sherpa-onnx itself, where a wheel of it is installed")
    heard, texts = sounds(24), []
    for name in ("onnxruntime", "sherpa-onnx"):
        backend = BACKENDS.get(name)(open_system(written["float32"]), Decoding(), "cpu")
        texts.append([one.text for one in backend.transcribe(heard)])
        backend.close()
    assert texts[0] == texts[1]


# ---- verified ----


def looked_at(place: Path, level: int = 1) -> Verification:
    return chorus.verify(place, BASE, settings=chorus.VerifyOptions(level=level), form="onnx")


def told(found: Verification) -> str:
    return "; ".join(f"L{one.level} {one.what}: {one.told}" for one in found.failed)


@pytest.mark.parametrize("kind", KINDS)
def test_every_good_directory_passes(written, kind):
    found = looked_at(written[kind], 2)
    assert found.ok, told(found)
    assert (found.format, found.kind, found.counts.keys()) == ("onnx", kind, {"holds"})
    every = [one for one in found.verdicts if one.what.startswith("tensors in")]
    assert sum(one.facts["tensors"] for one in every) == 2 + 11 + 15 * 2 + 24 * 1 - 2
    assert all(one.facts["by_bytes"] == (one.facts["tensors"] if "int8" not in one.what else 0) for one in every)


def test_weights_of_their_own_file_pass_too(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "LIMIT", 1000)
    place = chorus.export(BASE, tmp_path / "apart", "onnx").places["float32"]
    found = looked_at(place)
    assert found.ok, told(found)
    weights = place / "base-decoder.weights"
    data = bytearray(weights.read_bytes())
    data[-5] ^= 1
    weights.write_bytes(data)
    (place / "chorus.json").unlink()
    assert "differs from the source" in told(looked_at(place))


Damage = Callable[[bytearray, reader.OnnxFile], bytearray | bytes]


def swapped(data: bytearray, file: reader.OnnxFile) -> bytearray:
    """Two weights of one shape in each other's place."""
    suffix = "_quantized" if any(name.endswith("_quantized") for name in file.records) else ""
    one, other = (file.records[f"model.encoder.layers.{i}.self_attn.q_proj.weight{suffix}"] for i in (0, 1))
    for a, b in ((one, other), (other, one)):
        data[a.start : a.start + a.nbytes] = file.path.read_bytes()[b.start : b.start + b.nbytes]
    return data


def flipped(name: str, bit: int = 1) -> Damage:
    def damage(data: bytearray, file: reader.OnnxFile) -> bytearray:
        record = file.records.get(name) or file.records[f"{name}_quantized"]
        data[record.start + record.nbytes // 2 + 1] ^= bit
        return data

    return damage


def replaced(old: bytes, new: bytes) -> Damage:
    def damage(data: bytearray, file: reader.OnnxFile) -> bytes:
        assert len(old) == len(new)
        assert old in data
        return bytes(data).replace(old, new, 1)

    return damage


def not_a_number(data: bytearray, file: reader.OnnxFile) -> bytearray:
    record = file.records["model.encoder.layer_norm.weight"]
    data[record.start : record.start + 4] = np.float32(np.nan).tobytes()
    return data


def key(name: str, value: str) -> Damage:
    """Metadata with one key another."""

    def damage(data: bytearray, file: reader.OnnxFile) -> bytes:
        plain = entries(file.metadata, 14)
        assert bytes(data).endswith(plain)
        changed = {**file.metadata, name: value} if value else {k: v for k, v in file.metadata.items() if k != name}
        return bytes(data[: -len(plain)]) + entries(changed, 14)

    return damage


def cut(share: float) -> Damage:
    return lambda data, file: data[: int(len(data) * share)]


ENCODER: dict[str, Damage] = {
    "swapped weights": swapped,
    "a flipped bit of a weight": flipped("model.encoder.layers.0.fc1.weight", 32),
    "a flipped bit of a bias": flipped("model.encoder.layers.1.fc2.bias"),
    "a convolution": flipped("model.encoder.conv1.weight"),
    "a node of another kind": replaced(b"LayerNormalization\x2a", b"InstanceNormalizat\x2a"),
    "another stride": replaced(b"strides@\x02", b"strides@\x01"),
    "no number": not_a_number,
    "another end": key("eot", "50256"),
    "other languages": key("all_language_codes", "en,de"),
    "no beginning": key("sot", ""),
    "128 bins": key("n_mels", "128"),
    "another layer": key("n_text_layer", "2"),
    **{f"cut at {share}": cut(share) for share in (0, 0.001, 0.01, 0.3, 0.9, 0.9999)},
}
DECODER: dict[str, Damage] = {
    "a flipped bit of the embedding": flipped("model.decoder.embed_tokens.weight", 32),
    "a flipped bit of a query": flipped("model.decoder.layers.0.encoder_attn.q_proj.weight", 32),
    "no head": replaced(b"model.decoder.embed_tokens", b"model.decoder.embed_tokenz"),
    "outputs in another order": replaced(b"out_n_layer_self_k", b"out_n_layer_self_q"),
    "no offset": replaced(b"\x06offset", b"\x06ofxset"),
    **{f"cut at {share}": cut(share) for share in (0, 0.5, 0.9999)},
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_damage_is_caught(written, kind, tmp_path):
    caught, missed = 0, []
    for side, damages in (("encoder", ENCODER), ("decoder", DECODER)):
        for what, damage in damages.items():
            place = tmp_path / "damaged"
            shutil.copytree(written[kind], place, ignore=lambda *_: ["chorus.json"])
            path = getattr(reader.find(place), side)
            plain = path.read_bytes()
            made = damage(bytearray(plain), reader.read(path))
            assert bytes(made) != plain, what
            path.write_bytes(made)
            found = looked_at(place)
            caught += not found.ok
            missed += [what] if found.ok else []
            shutil.rmtree(place)
    assert missed == []
    assert caught == len(ENCODER) + len(DECODER) == 26


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (lambda lines: lines[:-1], "token 50256 is None"),
        (lambda lines: [lines[1], lines[0], *lines[2:]], ""),
        (lambda lines: [lines[0].split()[0] + " 1", lines[1].split()[0] + " 0", *lines[2:]], "token 0 is"),
        (lambda lines: [*lines, "AAAA 60000"], "token 60000 is no text"),
        (lambda lines: [*lines[:5], "!!! 5", *lines[6:]], "line 6 is no token"),
    ],
    ids=["one lacks", "another order", "two exchanged", "one more", "no base64"],
)
def test_the_table_is_held_to_the_tokenizer(written, change, wanted, tmp_path):
    place = tmp_path / "made"
    shutil.copytree(written["int8"], place, ignore=lambda *_: ["chorus.json"])
    path = place / "base-tokens.txt"
    path.write_text("\n".join(change(path.read_text().splitlines())) + "\n")
    found = looked_at(place)
    assert wanted in told(found) if wanted else found.ok


def test_what_has_changed_since_it_was_written_is_known_by_its_sidecar(written, tmp_path):
    place = tmp_path / "made"
    shutil.copytree(written["int8"], place)
    path = place / "base-encoder.int8.onnx"
    path.write_bytes(path.read_bytes().replace(b"\x06chorus", b"\x06choruz", 1))
    assert "changed since: base-encoder.int8.onnx" in told(looked_at(place))


def test_graphs_of_other_exporters_are_looked_at_as_far_as_they_can_be(written, tmp_path):
    place = tmp_path / "made"
    shutil.copytree(written["int8"], place, ignore=lambda *_: ["chorus.json"])
    for path in place.glob("*.onnx"):
        path.write_bytes(path.read_bytes().replace(b"\x06chorus", b"\x06pytorc", 1))
    found = looked_at(place)
    assert found.ok
    (one,) = [one for one in found.verdicts if one.status == "flagged"]
    assert "made by pytorc" in one.told
    assert {one.what for one in found.verdicts if one.status == "skipped"} == {"tensors"}


def test_a_cut_vocabulary_is_its_source(tmp_path):
    import torch

    from altered import EMBEDDING, changed, grown

    padded = changed(tmp_path, vocabulary=51872, **{EMBEDDING: grown(torch.full((7, 64), 0.02))})
    trim = chorus.ExportOptions(trim_vocabulary=True)
    places = [chorus.export(padded, tmp_path / name, "onnx", types="int8", settings=one).places["int8"]
              for name, one in (("cut", trim), ("whole", chorus.ExportOptions()))]  # fmt: skip
    for place in places:
        found = chorus.verify(place, padded, settings=chorus.VerifyOptions(level=1))
        assert found.ok, told(found)


@pytest.mark.parametrize("kind", ["float32", "int8"])
def test_logits_and_transcripts_in_onnxruntime(written, kind):
    settings_ = chorus.VerifyOptions(level=5, split="test", limit=4, runtimes=("onnxruntime",))
    found = chorus.verify(written[kind], BASE, data=MANIFEST, settings=settings_)
    assert found.ok, told(found)
    by_name = {one.what: one for one in found.verdicts}
    forced = by_name["forced logits in onnxruntime"]
    assert forced.facts["agree"] == forced.facts["positions"] > 4
    assert forced.facts["difference"] < (1e-4 if kind == "float32" else 0.3)
    assert by_name["transcripts in onnxruntime, without timestamps"].facts["same"] >= 3
    assert by_name["silence in onnxruntime, without timestamps"].status in ("holds", "flagged")
    assert "cost in onnxruntime" in by_name


def test_dimensions_may_be_packed_and_numbers_lie_in_fields_of_their_own(tmp_path):
    """As newer writers have them."""
    tensor = part(1, b"\x02\xac\x02") + whole(2, 1) + part(8, "w") + part(9, bytes(4 * 2 * 300))
    other = whole(1, 3) + whole(2, 7) + part(8, "n") + whole(7, 5)
    graph = part(5, tensor) + part(5, other) + part(2, "g")
    path = tmp_path / "other.onnx"
    path.write_bytes(part(2, "pytorch") + opening(7, len(graph)) + graph)
    found = reader.read(path)
    assert {name: (one.shape, one.nbytes) for name, one in found.records.items()} == {
        "w": ((2, 300), 2400), "n": ((3,), 0)
    }  # fmt: skip
    assert found.producer == "pytorch"
