"""Files of other runtimes as model directories: weights, tokenizer and settings against those that they came from."""

from __future__ import annotations

import json
import os
import random
import shutil
import struct
import zipfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import chorus
from chorus.architectures.openai_whisper import dimensions, openai_names, transformers_name
from chorus.checkpoints.model import OpenOptions
from chorus.data.audio import read_audio
from chorus.errors import CheckpointError, UsageError
from chorus.export.ggml.reader import read
from chorus.export.hf.byte_pairs import joined, merges_of
from chorus.models.languages import LANGUAGES
from models import load_all
from sounds import BASE, DIGITS

PICKLES = OpenOptions(allow_pickle=True)
# each language's name in itself, as far as a keyboard goes; and what else people write
NAMES = (
    "English 中文 Deutsch Español Русский 한국어 Français 日本語 Português Türkçe "
    "Polski Català Nederlands العربية Svenska Italiano Bahasa Indonesia "
    "हिन्दी Suomi Tiếng Việt עברית Українська Ελληνικά Bahasa Melayu "
    "Čeština Română Dansk Magyar தமிழ் Norsk ไทย اردو Hrvatski Български "
    "Lietuvių Latina Māori മലയാളം Cymraeg Slovenčina తెలుగు فارسی Latviešu "
    "বাংলা Српски Azərbaycanca Slovenščina ಕನ್ನಡ Eesti Македонски "
    "Brezhoneg Euskara Íslenska Հայերեն नेपाली Монгол Bosanski Қазақша "
    "Shqip Kiswahili Galego मराठी ਪੰਜਾਬੀ සිංහල ខ្មែរ chiShona Yorùbá "
    "Soomaali Afrikaans Occitan ქართული Беларуская Тоҷикӣ سنڌي ગુજરાતી "
    "አማርኛ ייִדיש ລາວ Oʻzbekcha Føroyskt Kreyòl ayisyen پښتو Türkmençe "
    "Nynorsk Malti संस्कृतम् Lëtzebuergesch မြန်မာ བོད་ཡིག Tagalog "
    "Malagasy অসমীয়া Татарча ʻŌlelo Hawaiʻi Lingála Hausa Башҡортса Basa "
    "Jawa Basa Sunda 粵語"
)
OWN_NAMES = NAMES.split()
TEXTS = [
    *LANGUAGES.values(), *OWN_NAMES, *(f" {name}" for name in OWN_NAMES),
    "def f(x: int) -> str:\n\treturn f'{x:>8}'  # why?\n\n", "SELECT * FROM t WHERE a<>'b' AND c>=1e-3;",
    "👩‍👩‍👧‍👦 🏳️‍🌈 1️⃣ 🇧🇷", "it's we'll I'd THEY'RE", "  two  spaces\r\n", "½ ﷽ ﬁ Å \u0301", "3.141.592,65 €", "",
    "<|endoftext|> in a text", "♪♪ la ♪",
]  # fmt: skip


def same_tokenizer(one: Path, other: Path) -> int:
    """Texts that two directories' tokenizers give the same ids, of all of `TEXTS`."""
    from transformers import AutoTokenizer

    mine, theirs = (AutoTokenizer.from_pretrained(place) for place in (one, other))
    for text in TEXTS:
        ids = mine.encode(text)
        assert ids == theirs.encode(text), text
        assert mine.decode(ids, skip_special_tokens=True) == theirs.decode(ids, skip_special_tokens=True)
    return len(TEXTS)


def loads_whole(place: Path) -> Any:
    from transformers import WhisperForConditionalGeneration

    model, told = WhisperForConditionalGeneration.from_pretrained(place, output_loading_info=True, dtype=torch.float32)
    assert not any(told.values()), told
    return model


def heard(place: Path, sounds: list[np.ndarray], **settings: Any) -> list[list[int]]:
    from transformers import WhisperProcessor

    model, processor = loads_whole(place), WhisperProcessor.from_pretrained(place)
    found = []
    for sound in sounds:
        features = processor(sound, sampling_rate=16_000, return_tensors="pt").input_features
        found.append(model.generate(features, max_new_tokens=20, **settings)[0].tolist())
    return found


def recordings(count: int = 3) -> list[np.ndarray]:
    whole = read_audio(DIGITS / "data" / "george-test.flac")
    return [whole[i * 24_000 : (i + 1) * 24_000] for i in range(count)]


def saved_by_openai(place: Path, path: Path) -> Path:
    """A model as openai-whisper would have saved it."""
    source = chorus.open_model(place)
    dims = dimensions(source.config)
    names = openai_names(dims["n_audio_layer"], dims["n_text_layer"])
    state = {name: source.checkpoint[transformers_name(name)].read().clone() for name in names}
    torch.save({"dims": dims, "model_state_dict": state}, path)
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("files")
    made = dict(chorus.export(BASE, folder, "ggml", types=["f32", "f16", "q8_0"]).places)
    return {**made, "pt": saved_by_openai(BASE, folder / "base.pt")}


@pytest.fixture(scope="module")
def imported(files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("imported")
    tokenizers = {"pt": BASE}
    return {
        kind: chorus.import_model(path, folder / kind, tokenizer=tokenizers.get(kind), options=PICKLES).places["own"]
        for kind, path in files.items()
    }


@pytest.mark.parametrize("kind", ["f32", "f16", "q8_0", "pt"])
def test_every_tensor_is_the_file_s(files, imported, kind):
    source, found = chorus.open_model(files[kind], PICKLES).checkpoint, load_all(imported[kind])
    assert found.keys() == source.keys()
    assert all(torch.equal(found[name], tensor.read()) for name, tensor in source.items())
    first = load_all(BASE)
    if kind != "q8_0":
        assert all(torch.equal(found[name].float(), value.float()) for name, value in first.items())
    dtypes = {str(value.dtype) for value in found.values()}
    assert dtypes == {"f32": {"torch.float32"}, "pt": {"torch.float16"}}.get(kind, {"torch.float16", "torch.float32"})


@pytest.mark.parametrize("kind", ["f32", "f16", "q8_0", "pt"])
def test_its_tokenizer_is_the_source_s_for_every_language(imported, kind):
    assert len(LANGUAGES) == 100
    assert same_tokenizer(imported[kind], BASE) == len(TEXTS) > 300


@pytest.mark.parametrize("kind", ["f32", "f16", "pt"])
def test_its_transcripts_are_the_source_s(imported, kind):
    sounds = recordings()
    settings: dict[str, Any] = {"language": "en", "task": "transcribe"}
    assert heard(imported[kind], sounds, **settings) == heard(BASE, sounds, **settings)
    times = {**settings, "return_timestamps": True}
    assert heard(imported[kind], sounds, **times) == heard(BASE, sounds, **times)


def test_generation_settings_are_computed_and_are_the_published_ones(imported):
    found = json.loads((imported["f32"] / "generation_config.json").read_text())
    known = json.loads((BASE / "generation_config.json").read_text())
    shared = ("lang_to_id", "task_to_id", "no_timestamps_token_id", "decoder_start_token_id", "eos_token_id")
    assert {key: found[key] for key in shared} == {key: known[key] for key in shared}
    # openai-whisper's own list for its multilingual vocabulary, where it is installed
    tokenizer = pytest.importorskip("whisper.tokenizer").get_tokenizer(True, num_languages=99)
    control = (
        tokenizer.sot, tokenizer.translate, tokenizer.transcribe, tokenizer.sot_lm, tokenizer.sot_prev,
        tokenizer.no_speech,
    )  # fmt: skip
    assert found["suppress_tokens"] == sorted({*tokenizer.non_speech_tokens, *control})
    assert found["begin_suppress_tokens"] == [*tokenizer.encode(" "), tokenizer.eot]


def test_there_and_back_is_the_same_file(files, imported, tmp_path):
    for kind in ("f32", "f16"):
        again = chorus.export(imported[kind], tmp_path / f"{kind}.bin", "ggml", types=kind).places[kind]
        assert again.read_bytes() == files[kind].read_bytes()
    dequantised = chorus.export(imported["q8_0"], tmp_path / "q.bin", "ggml", types="q8_0").places["q8_0"]
    assert dequantised.read_bytes() == files["q8_0"].read_bytes()


def test_a_named_type_is_the_first_model_s_bytes(files, tmp_path):
    place = chorus.import_model(files["f16"], tmp_path / "half", types="float16").places["float16"]
    found, first = load_all(place), load_all(BASE)
    assert all(torch.equal(found[name], value) and found[name].dtype == value.dtype for name, value in first.items())


@pytest.mark.slow
def test_the_real_english_model_comes_back_whole(tmp_path):
    """whisper-tiny.en: its own tokenizer's model, suppress lists and transcripts."""
    source = Path(os.environ.get("CHORUS_MODELS", "")) / "whisper-tiny.en"
    if not (source / "config.json").exists():
        pytest.skip("CHORUS_MODELS names no folder with whisper-tiny.en")
    file = chorus.export(source, tmp_path / "tiny.bin", "ggml").places["f16"]
    place = chorus.import_model(file, tmp_path / "tiny").places["own"]
    mine, theirs = (json.loads((p / "tokenizer.json").read_text()) for p in (place, source))
    assert {k: v for k, v in mine.items() if k != "added_tokens"} == {
        k: v for k, v in theirs.items() if k != "added_tokens"
    }
    assert same_tokenizer(place, source) == len(TEXTS)
    found, known = (json.loads((p / "generation_config.json").read_text()) for p in (place, source))
    assert set(known) - set(found) == {"alignment_heads", "transformers_version"}
    assert all(found[key] == known[key] for key in found)
    sounds = recordings()
    assert heard(place, sounds) == heard(source, sounds)


def test_a_ctranslate2_directory_comes_back_whole(tmp_path):
    converted = chorus.export(BASE, tmp_path / "converted", "ctranslate2", types="float16").places["float16"]
    place = chorus.import_model(converted, tmp_path / "made").places["own"]
    found, first = load_all(place), load_all(BASE)
    assert found.keys() == first.keys()
    assert all(torch.equal(found[name], value) for name, value in first.items())
    assert same_tokenizer(place, BASE) == len(TEXTS)
    loads_whole(place)


# ---- tokenizers from elsewhere ----


def test_a_pt_takes_the_tokenizer_of_an_installed_openai_whisper(files, tmp_path):
    pytest.importorskip("tiktoken")
    place = chorus.import_model(files["pt"], tmp_path / "made", options=PICKLES).places["own"]
    assert same_tokenizer(place, BASE) == len(TEXTS)


def test_a_pt_without_any_tokenizer_says_what_to_give(files, tmp_path, monkeypatch):
    monkeypatch.setattr("chorus.export.imported.find_spec", lambda name: None)
    with pytest.raises(CheckpointError, match=r"holds no tokenizer, and openai-whisper is not installed") as caught:
        chorus.import_model(files["pt"], tmp_path / "made", options=PICKLES)
    assert caught.value.hint.startswith("give --tokenizer")
    assert list(tmp_path.iterdir()) == []


def test_ranks_in_a_file_or_a_folder_of_both_make_the_same_tokenizer(files, imported, tmp_path):
    import base64

    lines = [f"{base64.b64encode(t).decode() or '='} {i}" for i, t in enumerate(read(files["f32"]).tokens)]
    folder = tmp_path / "assets"
    folder.mkdir()
    (folder / "multilingual.tiktoken").write_text("\n".join(lines) + "\n")
    (folder / "gpt2.tiktoken").write_text("IQ== 0\n")
    for given_ in (folder, folder / "multilingual.tiktoken"):
        place = chorus.import_model(
            files["pt"], tmp_path / f"of-{given_.name}", tokenizer=given_, options=PICKLES
        ).places["own"]
        assert (place / "tokenizer.json").read_bytes() == (imported["f32"] / "tokenizer.json").read_bytes()
    with pytest.raises(CheckpointError, match="a table of 1 text tokens, of 50,256"):
        chorus.import_model(files["pt"], tmp_path / "x", tokenizer=folder / "gpt2.tiktoken", options=PICKLES)


def test_another_model_s_tokenizer_is_refused(files, tmp_path):
    other = Path(shutil.copytree(BASE, tmp_path / "other"))
    document = json.loads((other / "tokenizer.json").read_text())
    for token in document["added_tokens"]:
        token["id"] += token["id"] > 50_357  # as in large-v3
    (other / "tokenizer.json").write_text(json.dumps(document))
    with pytest.raises(CheckpointError, match=r"tokenizer is another model's: <\|translate\|> is 50359, not 50358"):
        chorus.import_model(files["pt"], tmp_path / "made", tokenizer=other, options=PICKLES)
    assert not (tmp_path / "made").exists()


@given(st.lists(st.binary(min_size=1, max_size=6), max_size=30), st.binary(max_size=40))
def test_merges_replayed_give_what_ranks_give(words, text):
    """A tokenizer of merges (as transformers has it) and one of ranks (as tiktoken has it) are one."""
    tokens = [bytes([i]) for i in range(256)]
    for word in words:  # only what is made of two before it can be a token
        parts = joined(word, {t: i for i, t in enumerate(tokens)})
        for first, second in pairwise(parts):
            if first + second not in tokens and len(joined(first + second, {t: i for i, t in enumerate(tokens)})) == 2:
                tokens.append(first + second)
    order = {pair: i for i, pair in enumerate(merges_of(tokens, "here"))}
    assert len(order) == len(tokens) - 256
    parts = [text[i : i + 1] for i in range(len(text))]
    while pairs := [p for p in pairwise(parts) if p in order]:
        best = min(pairs, key=order.__getitem__)
        at = list(pairwise(parts)).index(best)
        parts[at : at + 2] = [best[0] + best[1]]
    assert parts == joined(text, {t: i for i, t in enumerate(tokens)})


# ---- hostile ----


def test_damaged_files_leave_nothing(files, tmp_path):
    """A flipped byte in values is a value; anywhere else, and where a file is cut, it is told."""
    data, rng = files["q8_0"].read_bytes(), random.Random(3)
    starts = [entry.start for entry in read(files["q8_0"]).entries.values()]
    cuts = [0, 3, 47, 60, 64 + 4 * 80 * 201 + 7, *rng.sample(starts, 6), len(data) - 1]
    for cut in cuts:
        (tmp_path / "cut.bin").write_bytes(data[:cut])
        with pytest.raises(CheckpointError):
            chorus.import_model(tmp_path / "cut.bin", tmp_path / "made")
    for at in (4, 24, 40, 44, 48):  # numbers of the header
        for value in (-1, 0, 2**31 - 1):
            spoiled = bytearray(data)
            spoiled[at : at + 4] = struct.pack("<i", value)
            (tmp_path / "cut.bin").write_bytes(spoiled)
            with pytest.raises(CheckpointError):
                chorus.import_model(tmp_path / "cut.bin", tmp_path / "made")
    assert [p.name for p in tmp_path.iterdir()] == ["cut.bin"]


def test_a_table_of_lossy_tokens_is_told(files, tmp_path):
    """As converters before 2023 wrote it: bytes that are no text of their own are lost."""
    found, data = read(files["f32"]), files["f32"].read_bytes()
    begin = 64 - 8 - 4 + 4 + 4 * found.filters.size
    table = b"".join(struct.pack("<i", len(t)) + t for t in found.tokens)
    assert data[begin + 4 :].startswith(table)
    lossy = [t.decode("utf-8", "replace").encode() for t in found.tokens]
    changed = b"".join(struct.pack("<i", len(t)) + t for t in lossy)
    (tmp_path / "old.bin").write_bytes(data[: begin + 4] + changed + data[begin + 4 + len(table) :])
    with pytest.raises(CheckpointError, match=r"no token for \d+ of the 256 bytes") as caught:
        chorus.import_model(tmp_path / "old.bin", tmp_path / "made")
    assert "--tokenizer" in caught.value.hint
    place = chorus.import_model(tmp_path / "old.bin", tmp_path / "made", tokenizer=BASE).places["own"]
    assert same_tokenizer(place, BASE) == len(TEXTS)


def test_pickles_need_permission_and_run_nothing(files, tmp_path):
    with pytest.raises(CheckpointError, match="pickle"):
        chorus.import_model(files["pt"], tmp_path / "made")
    (tmp_path / "cut.pt").write_bytes(files["pt"].read_bytes()[:-2000])
    for options in (PICKLES, None):  # no flag opens it, and none is asked for
        with pytest.raises(CheckpointError, match=r"cut\.pt: cut short or damaged"):
            chorus.import_model(tmp_path / "cut.pt", tmp_path / "made", options=options)
    assert [p.name for p in tmp_path.iterdir()] == ["cut.pt"]


@pytest.mark.parametrize(("content", "told"), [(b"a text, of no model\n", "no model file"), (b"", "an empty file")])
def test_a_file_that_is_no_model_asks_for_no_permission(tmp_path, content, told):
    (tmp_path / "x.bin").write_bytes(content)
    for options in (None, PICKLES):
        with pytest.raises(CheckpointError) as refused:
            chorus.import_model(tmp_path / "x.bin", tmp_path / "made", options=options)
        assert told in refused.value.message
        assert "pickle" not in refused.value.hint
    assert not (tmp_path / "made").exists()


def test_a_pickle_of_before_torch_1_6_is_one(tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "x.bin", _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match="a pickled checkpoint"):
        chorus.import_model(tmp_path / "x.bin", tmp_path / "made")
    with pytest.raises(CheckpointError) as refused:
        chorus.import_model(tmp_path / "x.bin", tmp_path / "made", options=PICKLES)
    assert "no model file" not in refused.value.message


def test_a_bomb_is_not_unpacked(files, tmp_path):
    """A few kilobytes that unpack to a gigabyte; and a view that repeats one value without end."""
    bomb = tmp_path / "bomb.pt"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(300_000_000))
        archive.writestr("archive/version", "3\n")
    assert bomb.stat().st_size < 1_000_000
    with pytest.raises(CheckpointError, match="a compressed archive"):
        chorus.import_model(bomb, tmp_path / "made", options=PICKLES)
    state = torch.load(files["pt"], weights_only=True)
    wide = torch.zeros(1, dtype=torch.float16).expand(10**6, 10**6)
    state["model_state_dict"]["decoder.token_embedding.weight"] = wide
    torch.save(state, tmp_path / "wide.pt")
    with pytest.raises(CheckpointError, match="1,000,000,000,000 values wide, of which the file holds fewer"):
        chorus.import_model(tmp_path / "wide.pt", tmp_path / "made", options=PICKLES)
    assert not (tmp_path / "made").exists()


def test_names_that_lead_out_are_no_tensors(files, tmp_path):
    state = torch.load(files["pt"], weights_only=True)
    state["model_state_dict"]["../../escape"] = torch.zeros(3)
    torch.save(state, tmp_path / "out.pt")
    with pytest.raises(CheckpointError, match="has no tensor of that name"):
        chorus.import_model(tmp_path / "out.pt", tmp_path / "made", tokenizer=BASE, options=PICKLES)
    assert [p.name for p in tmp_path.iterdir()] == ["out.pt"]


def test_what_is_no_file_of_another_runtime_says_what_it_is(tmp_path):
    with pytest.raises(UsageError, match="a Hugging Face directory already") as caught:
        chorus.import_model(BASE, tmp_path / "made")
    assert "chorus export --to hf" in caught.value.hint
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(CheckpointError, match=r"letter\.txt: not a model"):
        chorus.import_model(tmp_path / "letter.txt", tmp_path / "made")
    with pytest.raises(CheckpointError, match="no such file"):
        chorus.import_model(tmp_path / "absent.bin", tmp_path / "made")
