"""openai-whisper's `.pt` held against its model: good files pass, every damage is caught, and both are counted."""

from __future__ import annotations

import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import chorus
from chorus.errors import CheckpointError
from chorus.verify.formats.openai import OpenaiVerifier
from chorus.verify.formats.openai_archive import read
from chorus.verify.verdict import Verification
from sounds import BASE

KINDS = ("float16", "float32")
EMBEDDING, QUERY = "decoder.token_embedding.weight", "encoder.blocks.{}.attn.query.weight"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return chorus.export(BASE, tmp_path_factory.mktemp("pt"), "openai", types=KINDS).places


def looked_at(path: Path, level: int = 1) -> Verification:
    return chorus.verify(path, BASE, settings=chorus.VerifyOptions(level=level), form="openai")


def told(found: Verification) -> str:
    return "; ".join(f"L{one.level} {one.what}: {one.told}" for one in found.failed)


@pytest.mark.parametrize("kind", KINDS)
def test_every_good_file_passes(written, kind):
    found = chorus.verify(written[kind], BASE, settings=chorus.VerifyOptions(level=1))
    assert (found.ok, found.format, found.kind, found.counts) == (True, "openai", kind, {"holds": 9}), told(found)
    (every,) = [one for one in found.verdicts if one.what.startswith("tensors in")]
    assert every.facts["tensors"] == every.facts["by_bytes"] == 65


def test_one_that_torch_saved_passes_too(written, tmp_path):
    torch.save(torch.load(written["float16"], weights_only=True), tmp_path / "theirs.pt")
    assert looked_at(tmp_path / "theirs.pt").ok


def test_it_is_read_as_torch_reads_it(written):
    for kind in KINDS:
        found, theirs = read(written[kind]), torch.load(written[kind], weights_only=True)
        assert found.dims == theirs["dims"]
        assert list(found.entries) == list(theirs["model_state_dict"])
        for name, value in theirs["model_state_dict"].items():
            assert found.raw(name, 0, value.numel()).tobytes() == value.numpy().tobytes()
            assert found.entries[name].shape == tuple(value.shape)


# ---- damaged ones ----

State = dict[str, torch.Tensor]


def dims(**changed: int) -> Callable[[dict, State], None]:
    def damage(numbers: dict, state: State) -> None:
        numbers.update(changed)

    return damage


def swapped(numbers: dict, state: State) -> None:
    first, second = QUERY.format(0), QUERY.format(1)
    state[first], state[second] = state[second], state[first]


def flipped(numbers: dict, state: State) -> None:
    """The lowest bit of one value."""
    state["decoder.blocks.0.mlp.0.weight"].view(torch.int16)[7, 9] ^= 1


def rows_swapped(numbers: dict, state: State) -> None:
    state[EMBEDDING][[0, 1000]] = state[EMBEDDING][[1000, 0]]


def transposed(numbers: dict, state: State) -> None:
    """Square, so that no shape tells it."""
    state[QUERY.format(0)] = state[QUERY.format(0)].T.contiguous()


def without(name: str) -> Callable[[dict, State], object]:
    return lambda numbers, state: state.pop(name)


def own_head(numbers: dict, state: State) -> None:
    state["decoder.proj.weight"] = state[EMBEDDING].clone()


def a_number(value: float) -> Callable[[dict, State], None]:
    def damage(numbers: dict, state: State) -> None:
        state["encoder.ln_post.weight"][0] = value

    return damage


def other_mels(numbers: dict, state: State) -> None:
    """All that a model of 128 bins has, and a source of 80."""
    numbers["n_mels"] = 128
    state["encoder.conv1.weight"] = torch.zeros(64, 128, 3, dtype=torch.float16)


def column_by_column(numbers: dict, state: State) -> None:
    state[QUERY.format(0)] = state[QUERY.format(0)].T


def doubles(numbers: dict, state: State) -> None:
    state[QUERY.format(0)] = state[QUERY.format(0)].double()


DAMAGES: dict[str, tuple[int, Callable[[dict, State], object]]] = {
    "two tensors swapped": (1, swapped),
    "a bit of a value": (1, flipped),
    "two rows of the tied head swapped": (1, rows_swapped),
    "a matrix on its side": (1, transposed),
    "special ids: another size of the vocabulary": (0, dims(n_vocab=51866)),
    "special ids: English alone": (0, dims(n_vocab=51864)),
    "special ids: a size that is none": (0, dims(n_vocab=51872)),
    "the tied head is missing": (0, without(EMBEDDING)),
    "a layer's tensor is missing": (0, without("encoder.blocks.1.mlp_ln.bias")),
    "a head of its own": (0, own_head),
    "NaN": (0, a_number(float("nan"))),
    "infinity": (0, a_number(float("inf"))),
    "128 mel bins": (0, other_mels),
    "128 mel bins in its dimensions alone": (0, dims(n_mels=128)),
    "another number of heads": (0, dims(n_text_head=8)),
    "a layer more": (0, dims(n_audio_layer=3)),
    "no such number": (0, dims(n_text_ctx=-1)),
    "an eleventh dimension": (0, dims(n_more=1)),
    "columns before rows": (0, column_by_column),
    "a tensor in float64": (0, doubles),
}


def test_there_are_as_many_damages_as_the_page_says():
    assert len(DAMAGES) == 20


@pytest.mark.parametrize("name", DAMAGES)
def test_every_damage_is_caught_at_its_level(name, written, tmp_path):
    level, damage = DAMAGES[name]
    held = torch.load(written["float16"], weights_only=True)
    damage(held["dims"], held["model_state_dict"])
    torch.save(held, tmp_path / "damaged.pt")
    found = looked_at(tmp_path / "damaged.pt", level)
    assert found.failed_at(level), name
    assert found.exit_code() == 1
    if level == 1:  # nothing of it shows before
        assert not found.failed_at(0), told(found)


def test_a_file_that_ends_too_early_is_caught_at_each_record(written, tmp_path):
    """Before a record, in its header, at the beginning and in the middle of its values, and in the directory."""
    whole, source = written["float16"].read_bytes(), chorus.open_model(BASE)
    with zipfile.ZipFile(written["float16"]) as archive:
        records = archive.infolist()
    assert len(records) == 65 + 3
    cuts = [n for one in records for n in (one.header_offset, one.header_offset + 9, one.header_offset + 100)]
    cuts += [one.header_offset + 100 + one.file_size // 2 for one in records[:-1]] + [len(whole) - 1, 0]
    caught = 0
    for cut in cuts:
        (tmp_path / "cut.pt").write_bytes(whole[:cut])
        with pytest.raises(CheckpointError, match=r"no whole|behind its end|compressed|empty"):
            OpenaiVerifier().open(tmp_path / "cut.pt", source)
        caught += 1
    assert caught == len(cuts) == 4 * 68 + 1


def test_bytes_of_values_that_change_in_the_file_are_caught(written, tmp_path):
    """In every tensor one bit, at the bottom of a value, with the sums of its record left as they are."""
    found, caught = read(written["float16"]), 0
    source = chorus.open_model(BASE)
    data = bytearray(written["float16"].read_bytes())
    for entry in found.entries.values():
        data[entry.start + 2 * (entry.count // 2)] ^= 1
    (tmp_path / "bits.pt").write_bytes(data)
    subject = OpenaiVerifier().open(tmp_path / "bits.pt", source)
    caught = sum(bool(one.problem) and one.same is False for one in subject.tensors)
    assert caught == 65


class _Calls:
    def __reduce__(self):
        return print, ("called",)


@pytest.mark.parametrize("held", [
    {"dims": _Calls(), "model_state_dict": {}}, {"dims": {}, "model_state_dict": {}}, [1, 2], {"dims": 1},
])  # fmt: skip
def test_a_pickle_of_something_else_is_followed_and_calls_nothing(held, tmp_path, capsys):
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(held, 2))
    found = looked_at(tmp_path / "x.pt")
    assert ([one.what for one in found.failed], found.exit_code()) == (["read to its end"], 1)
    assert capsys.readouterr().out == ""


def test_a_record_that_is_named_and_not_there(written, tmp_path):
    with zipfile.ZipFile(written["float16"]) as whole, zipfile.ZipFile(tmp_path / "less.pt", "w") as less:
        for one in whole.infolist():
            if not one.filename.endswith("data/7"):
                less.writestr(one.filename, whole.read(one))
    assert "needs more values than its record has" in told(looked_at(tmp_path / "less.pt"))


def test_a_compressed_one_is_not_what_torch_writes(written, tmp_path):
    with zipfile.ZipFile(tmp_path / "packed.pt", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("archive/data.pkl", bytes(100))
    assert "a compressed archive" in told(looked_at(tmp_path / "packed.pt"))


# ---- in openai-whisper ----


def test_the_front_end_is_the_one_that_it_brings(written, tmp_path):
    pytest.importorskip("whisper")
    found = chorus.verify(written["float16"], BASE, settings=chorus.VerifyOptions(level=2))
    assert found.ok, told(found)
    assert [one.what for one in found.verdicts if "openai-whisper" in one.what] == [
        "special tokens in openai-whisper", "log-mel spectrum in openai-whisper", "texts in openai-whisper",
    ]  # fmt: skip
    # a source whose extractor makes 128 bins of a model that takes 80
    other = Path(shutil.copytree(BASE, tmp_path / "other"))
    settings = (other / "preprocessor_config.json").read_text()
    (other / "preprocessor_config.json").write_text(settings.replace('"feature_size": 80', '"feature_size": 128'))
    found = chorus.verify(written["float16"], other, settings=chorus.VerifyOptions(level=2))
    assert [one.what for one in found.failed] == [
        "mel bins of extractor and model", "log-mel spectrum in openai-whisper"
    ]  # fmt: skip


def test_without_openai_whisper_its_levels_are_skipped(written, monkeypatch):
    from chorus.verify.formats import openai

    monkeypatch.setattr(openai, "find_spec", lambda name: None)
    found = chorus.verify(
        written["float16"], BASE, settings=chorus.VerifyOptions(level=3, runtimes=("openai-whisper",))
    )
    assert (found.missing, found.exit_code()) == (["openai-whisper"], 3)
    assert 'pip install "openai-whisper"' in next(one.told for one in found.verdicts if one.status == "skipped")
