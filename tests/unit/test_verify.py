"""Whether an export is its model: every good file passes, every damaged one is caught, and both are counted."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import chorus
from chorus.errors import CheckpointError, UsageError
from chorus.export.ggml.layout import TYPES, shapes
from chorus.export.ggml.mel import mel_filters
from chorus.export.ggml.reader import GgmlFile, read
from chorus.verify.formats.ggml import GgmlVerifier
from chorus.verify.verdict import Verdict, Verification, as_table, fails, flagged, holds, skipped
from sounds import BASE

KINDS = ("f32", "f16", "bf16", "q8_0", "q5_0", "q5_1", "q4_0", "q4_1", "iq4_nl")
HEADER, MELS = 48, 80
EMBEDDING = "decoder.token_embedding.weight"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    pytest.importorskip("gguf")
    pytest.importorskip("_pywhispercpp")
    return chorus.export(BASE, tmp_path_factory.mktemp("good"), "ggml", types=KINDS).places


def looked_at(path: Path, level: int = 1) -> Verification:
    return chorus.verify(path, BASE, settings=chorus.VerifyOptions(level=level), form="ggml")


def told(found: Verification) -> str:
    return "; ".join(f"L{one.level} {one.what}: {one.told}" for one in found.failed)


# ---- good files ----


@pytest.mark.parametrize("kind", KINDS)
def test_every_good_file_passes(written, kind):
    found = looked_at(written[kind])
    assert found.ok, told(found)
    assert (found.format, found.kind, found.counts.keys()) == ("ggml", kind, {"holds"})
    every = [one for one in found.verdicts if one.what.startswith("tensors in")]
    assert sum(one.facts["tensors"] for one in every) == sum(one.facts["by_bytes"] for one in every) == 65
    assert found.exit_code() == found.exit_code(strict=True) == 0


def test_a_k_quant_without_ggml_is_held_by_its_error(tmp_path, monkeypatch):
    """Rows of 256 values; the bounds are those of the types, far from what another tensor is off by."""
    pytest.importorskip("gguf")
    from chorus.export.ggml import quants
    from chorus.verify.formats import blocks

    if quants.library() is None:
        pytest.skip("ggml is not there")
    rng = np.random.default_rng(0)
    values = rng.standard_t(4, size=(64, 512)).astype(np.float32) * 0.05
    for name, bound in blocks.ERRORS.items():
        held = quants.dequantised(quants.quantised(values, TYPES[name]), TYPES[name])
        error = float(np.linalg.norm(held - values) / np.linalg.norm(values))
        assert bound / 4 < error < bound, (name, error)
    assert len(blocks.ERRORS) == 6


def test_without_what_makes_blocks_again_they_are_skipped_and_not_passed(written, monkeypatch):
    from chorus.verify.formats import blocks

    monkeypatch.setattr(blocks, "needs", lambda kind: "export" if kind.quantised else "")
    found = looked_at(written["q5_0"])
    (one,) = [one for one in found.verdicts if one.level == 1]
    assert (one.status, "chorus-merge[export]" in one.told) == ("skipped", True)
    assert (found.exit_code(), found.exit_code(strict=True)) == (0, 1)


# ---- damaged ones ----

Damage = Callable[[bytearray, GgmlFile], bytearray]


def at(file: GgmlFile, name: str) -> tuple[int, int]:
    """(where a tensor's record begins, where its values do)."""
    entry = file.entries[name]
    return entry.start - len(name) - 4 * (3 + len(entry.shape)), entry.start


def swapped(data: bytearray, file: GgmlFile) -> bytearray:
    """Two tensors of one shape in each other's place."""
    one, other = (file.entries[f"encoder.blocks.{i}.attn.query.weight"] for i in (0, 1))
    for a, b in ((one, other), (other, one)):
        data[a.start : a.start + a.nbytes] = file.path.read_bytes()[b.start : b.start + b.nbytes]
    return data


def flipped(data: bytearray, file: GgmlFile) -> bytearray:
    """One bit of a weight's block, neither scale nor sign of anything."""
    entry = file.entries["decoder.blocks.0.mlp.0.weight"]
    data[entry.start + entry.nbytes // 2 + 9] ^= 1
    return data


def number(place: int, value: int) -> Damage:
    """A number of the header."""

    def damage(data: bytearray, file: GgmlFile) -> bytearray:
        data[4 * place : 4 * place + 4] = struct.pack("<i", value)
        return data

    return damage


def tokens_shifted(data: bytearray, file: GgmlFile) -> bytearray:
    """The first token is gone and another stands at the end: every id means another text."""
    start = HEADER + 8 + 4 * MELS * 201 + 4
    first = struct.unpack("<i", data[start : start + 4])[0]
    end = start + sum(4 + len(token) for token in file.tokens)
    data[end:end] = data[start : start + 4 + first]
    del data[start : start + 4 + first]
    return data


def other_tokens(data: bytearray, file: GgmlFile) -> bytearray:
    """The token table of English alone, one token shorter."""
    start = HEADER + 8 + 4 * MELS * 201
    end = start + 4 + sum(4 + len(token) for token in file.tokens)
    less = b"".join(struct.pack("<i", len(t)) + t for t in file.tokens[:-1][::-1])
    data[start:end] = struct.pack("<i", len(file.tokens) - 1) + less
    return data


def without(name: str) -> Damage:
    def damage(data: bytearray, file: GgmlFile) -> bytearray:
        start, values = at(file, name)
        del data[start : values + file.entries[name].nbytes]
        return data

    return damage


def changed_head(data: bytearray, file: GgmlFile) -> bytearray:
    entry = file.entries[EMBEDDING]
    row = entry.nbytes // entry.shape[0]
    first, second = entry.start, entry.start + 1000 * row
    data[first : first + row], data[second : second + row] = data[second : second + row], data[first : first + row]
    return data


def own_head(data: bytearray, file: GgmlFile) -> bytearray:
    """A head of its own, as an untied model has it."""
    start, values = at(file, EMBEDDING)
    record = bytes(data[start : values + file.entries[EMBEDDING].nbytes])
    name = b"decoder.proj.weight"
    sizes = struct.pack("<5i", 2, len(name), file.entries[EMBEDDING].kind.tensor, *file.entries[EMBEDDING].shape[::-1])
    return data + sizes + name + record[values - start :]


def eighty_filters(data: bytearray, file: GgmlFile) -> bytearray:
    """A header of 128 mel bins before the filters of 80."""
    return number(10, 128)(data, file)


def other_filters(data: bytearray, file: GgmlFile) -> bytearray:
    start = HEADER + 8
    data[start : start + 4 * MELS * 201] = mel_filters(MELS)[::-1].tobytes()
    return data


def not_a_number(data: bytearray, file: GgmlFile) -> bytearray:
    start = file.entries["encoder.ln_post.weight"].start
    data[start : start + 4] = struct.pack("<f", float("nan"))
    return data


def infinite_scale(data: bytearray, file: GgmlFile) -> bytearray:
    """The first two bytes of a matrix: a block's scale, or a value in float16."""
    start = file.entries["decoder.blocks.0.mlp.0.weight"].start
    data[start : start + 2] = struct.pack("<e", float("inf"))
    return data


def wrong_type(data: bytearray, file: GgmlFile) -> bytearray:
    """A matrix that says it is of another type with as many bytes."""
    start, _ = at(file, "decoder.blocks.0.mlp.0.weight")
    kind = file.entries["decoder.blocks.0.mlp.0.weight"].kind
    other = {"f16": "bf16", "q5_0": "q4_0"}[kind.name]
    data[start + 8 : start + 12] = struct.pack("<i", TYPES[other].tensor)
    return data


def called_bfloat16(data: bytearray, file: GgmlFile) -> bytearray:
    """float16's bytes, named bfloat16 in the header and before every matrix: whisper.cpp loads it without a word."""
    for name, entry in file.entries.items():
        if entry.kind.name == "f16" and len(entry.shape) == 2:
            data[at(file, name)[0] + 8 : at(file, name)[0] + 12] = struct.pack("<i", TYPES["bf16"].tensor)
    return number(11, TYPES["bf16"].file)(data, file)


DAMAGES: dict[str, tuple[str, int, Damage]] = {
    "two tensors swapped": ("f16", 1, swapped),
    "two tensors swapped, quantised": ("q5_0", 1, swapped),
    "a bit of a block": ("q5_0", 1, flipped),
    "a bit of a value": ("f16", 1, flipped),
    "special ids: another size of the vocabulary": ("f16", 0, number(1, 51866)),
    "special ids: no vocabulary of whisper.cpp's": ("f16", 0, number(1, 51872)),
    "special ids: English alone": ("f16", 0, number(1, 51864)),
    "the token table shifted": ("q5_0", 0, tokens_shifted),
    "tokens of another vocabulary": ("f16", 0, other_tokens),
    "the tied head is missing": ("q5_0", 0, without(EMBEDDING)),
    "the tied head is changed": ("f16", 1, changed_head),
    "a head of its own": ("f16", 0, own_head),
    "a layer's tensor is missing": ("f16", 0, without("encoder.blocks.1.mlp_ln.bias")),
    "128 mel bins with 80 filters": ("f16", 0, eighty_filters),
    "filters in another order": ("f16", 0, other_filters),
    "NaN": ("f16", 0, not_a_number),
    "infinity in a block's scale": ("q5_0", 0, infinite_scale),
    "infinity in float16": ("f16", 0, infinite_scale),
    "a wrong type before a tensor": ("f16", 0, wrong_type),
    "a wrong type of other bytes": ("q5_0", 0, wrong_type),
    "a type that there is not": ("f16", 0, number(11, 99)),
    "float16 called bfloat16": ("f16", 1, called_bfloat16),
    "another number of heads": ("f16", 0, number(4, 8)),
    "a layer more": ("f16", 0, number(5, 3)),
    "a shorter context": ("f16", 0, number(6, 225)),
    "no magic number": ("f16", 0, number(0, 0)),
    "a byte after the end": ("q5_0", 0, lambda data, file: data + b"\0"),
}


def test_there_are_as_many_damages_as_the_page_says():
    assert len(DAMAGES) == 27


@pytest.mark.parametrize("name", DAMAGES)
def test_every_damage_is_caught_at_its_level(name, written, tmp_path):
    kind, level, damage = DAMAGES[name]
    path = tmp_path / "damaged.bin"
    path.write_bytes(damage(bytearray(written[kind].read_bytes()), read(written[kind])))
    found = looked_at(path, level)
    assert not found.ok, name
    assert {one.level for one in found.failed} <= {0, 1}
    assert found.failed_at(level), told(found)
    assert found.exit_code() == 1
    if level == 1:  # the levels before see nothing of it: it is the later one that is needed
        assert not found.failed_at(0), told(found)


def test_a_file_that_ends_too_early_is_caught_at_each_record(written, tmp_path):
    """Between records, within what stands before one, and within its values; and within header, filters, tokens."""
    whole, file, source = written["q5_0"].read_bytes(), read(written["q5_0"]), chorus.open_model(BASE)
    cuts = [2, 20, HEADER, HEADER + 4, HEADER + 8 + 1000, HEADER + 8 + 4 * MELS * 201 + 2, 400_000]
    for name, entry in file.entries.items():
        start, values = at(file, name)
        cuts += [start, start + 5, values, values + entry.nbytes // 2, values + entry.nbytes - 1]
    assert len(cuts) == 7 + 5 * 65
    caught = 0
    for cut in cuts:
        path = tmp_path / "cut.bin"
        path.write_bytes(whole[:cut])
        try:
            caught += any(one.status == "fails" for one in GgmlVerifier().open(path, source).structure)
        except CheckpointError:
            caught += 1
    assert caught == len(cuts)


def test_a_changed_file_is_told_by_its_sidecar_too(written, tmp_path):
    path = tmp_path / "mine.bin"
    shutil.copy(written["f16"], path)
    shutil.copy(f"{written['f16']}.json", f"{path}.json")
    assert looked_at(path, 0).ok
    path.write_bytes(flipped(bytearray(path.read_bytes()), read(path)))
    (one,) = looked_at(path, 0).failed
    assert (one.what, "another hash" in one.told) == ("as it was written", True)


def test_another_model_is_not_the_source(written, tmp_path):
    """The same shapes, other weights: one tensor of the source changed by the least that float16 can say."""
    from safetensors.torch import load_file, save_file

    other = tmp_path / "other"
    shutil.copytree(BASE, other)
    state = load_file(other / "model.safetensors")
    name = "model.encoder.layers.0.fc1.weight"
    state[name][0, 0] = torch.nextafter(state[name][0, 0], torch.tensor(1.0, dtype=state[name].dtype))
    save_file(state, other / "model.safetensors", metadata={"format": "pt"})
    found = chorus.verify(written["f16"], other, settings=chorus.VerifyOptions(level=1))
    assert [one.facts["wrong"] for one in found.failed] == [["encoder.blocks.0.mlp.0.weight"]]


# ---- the front end ----


def test_the_front_end_of_a_good_file(written):
    found = looked_at(written["q8_0"], 2)
    assert found.ok, told(found)
    assert {"mel bins of extractor and model", "mel filters of the extractor", "texts by tokenizer and table"} <= {
        one.what for one in found.verdicts if one.level == 2 and one.status == "holds"
    }


def test_a_model_of_80_bins_with_an_extractor_of_128(written, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(BASE, other)
    settings = json.loads((other / "preprocessor_config.json").read_text())
    (other / "preprocessor_config.json").write_text(json.dumps({**settings, "feature_size": 128}))
    found = chorus.verify(written["f16"], other, settings=chorus.VerifyOptions(level=2))
    failed = [one.what for one in found.failed if one.level == 2]
    assert failed[:2] == ["mel bins of extractor and model", "mel filters of the extractor"]
    # a runtime that is there has a spectrum of its own, which cannot be compared with 128 bins
    assert set(failed[2:]) <= {"log-mel spectrum in whisper.cpp"}


# ---- what it says ----


def test_a_skipped_check_is_not_passed_and_a_missing_runtime_has_its_own_code():
    found = Verification("x.bin", "ggml", "f16", "base", [holds(0, "a"), skipped(3, "b", "not installed")])
    assert (found.ok, found.exit_code(), found.exit_code(strict=True)) == (True, 0, 1)
    found.missing = ["whisper.cpp"]
    assert found.exit_code() == found.exit_code(strict=True) == 3
    found.verdicts.append(fails(1, "c", "other bytes"))
    assert (found.ok, found.exit_code()) == (False, 1)
    assert found.counts == {"holds": 1, "fails": 1, "skipped": 1}
    assert json.loads(json.dumps(found.as_dict()))["verdicts"][2] == {
        "level": 1, "what": "c", "status": "fails", "told": "other bytes", "facts": {}
    }  # fmt: skip
    assert "3 checks: 1 holds, 1 fails, 1 skipped" in found.table().render("text")


def test_a_long_sentence_is_cut_in_the_table_alone():
    one = flagged(4, "x", "word " * 100)
    assert as_table("t", [one]).rows[0][3].endswith("...")
    assert isinstance(one, Verdict)
    assert len(one.told) == 500


def test_what_is_no_export_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="no such file"):
        chorus.verify(tmp_path / "none.bin", BASE)
    (tmp_path / "some.bin").write_bytes(b"something")
    with pytest.raises(UsageError, match="in no format that can be verified"):
        chorus.verify(tmp_path / "some.bin", BASE)
    (tmp_path / "some.pt").write_bytes(b"something")
    assert chorus.verify(tmp_path / "some.pt", BASE).failed_at(0), "what its name says, damaged"
    with pytest.raises(UsageError, match="no level 6"):
        chorus.VerifyOptions(level=6)


def test_a_source_that_is_no_whisper(written, qwen):
    found = chorus.verify(written["f16"], qwen.base, settings=chorus.VerifyOptions(level=1))
    assert ["no Whisper" in one.told for one in found.failed] == [True]


def test_a_runtime_of_another_format_is_refused(written):
    with pytest.raises(UsageError, match="runs no ggml"):
        chorus.verify(written["f16"], BASE, settings=chorus.VerifyOptions(runtimes=("nonesuch",)))


def test_shapes_are_those_of_the_layout(written):
    """What the damages rely on: a number of the header is a place in it."""
    assert shapes(read(written["f16"]).header.dims)["decoder.token_embedding.weight"] == (51865, 64)
