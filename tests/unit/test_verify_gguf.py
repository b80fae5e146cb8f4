"""llama.cpp's files held against their models: good ones pass, every damage is caught, and both are counted."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import chorus
from chats import language_model
from chorus.errors import CheckpointError
from chorus.export.ggml.layout import TYPES
from chorus.export.ggml.quants import needs
from chorus.verify.formats.gguf import GgufVerifier
from chorus.verify.formats.gguf_adapter import CHANGES, GgufAdapterVerifier
from chorus.verify.formats.gguf_file import read
from chorus.verify.verdict import Verification
from sounds import BASE

gguf = pytest.importorskip("gguf")
FAMILIES = ("qwen2", "qwen3", "llama3", "llama2")
KINDS = [name for name, one in TYPES.items() if one.values < 256 and not needs(one)]
WIDE = [name for name, one in TYPES.items() if one.values == 256 and not needs(one)]
UP, QUERY, EMBEDDING = "blk.{}.ffn_up.weight", "blk.0.attn_q.weight", "token_embd.weight"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {one: language_model(folder / one, one, tie_word_embeddings=one == "qwen2") for one in FAMILIES}


@pytest.fixture(scope="module")
def written(models, tmp_path_factory) -> dict[str, dict[str, Path]]:
    folder = tmp_path_factory.mktemp("written")
    return {one: chorus.export(models[one], folder / one, "gguf", types=KINDS).places for one in FAMILIES}


def looked_at(path: Path, against: Path | str, level: int = 1, form: str = "gguf") -> Verification:
    return chorus.verify(path, against, settings=chorus.VerifyOptions(level=level), form=form)


def told(found: Verification) -> str:
    return "; ".join(f"L{one.level} {one.what}: {one.told}" for one in found.failed)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_good_file_passes(written, models, family):
    passed = 0
    for kind in KINDS:
        found = looked_at(written[family][kind], models[family], form="")
        assert (found.ok, found.format, found.kind, set(found.counts)) == (True, "gguf", kind, {"holds"}), told(found)
        every = [one.facts for one in found.verdicts if one.what.startswith("tensors in")]
        assert sum(one["tensors"] for one in every) == sum(one["by_bytes"] for one in every)
        assert sum(one["tensors"] for one in every) == {"qwen2": 26, "qwen3": 25}.get(family, 21)
        passed += 1
    assert passed == len(KINDS) >= 8


def test_scaled_positions_and_k_quants_pass(tmp_path):
    """Rows of 256 values, and the tensor that no source has: what divides the frequencies."""
    rope = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64, "rope_theta": 10_000.0}  # fmt: skip
    model = language_model(
        tmp_path / "m", "llama3", hidden_size=256, intermediate_size=256, rope_parameters=rope, num_hidden_layers=1
    )
    kinds = ["f16", *WIDE]
    for kind, path in chorus.export(model, tmp_path / "out", "gguf", types=kinds).places.items():
        found = looked_at(path, model)
        assert found.ok, (kind, told(found))
        assert "rope_freqs.weight" in read(path).entries


def test_a_file_in_transformers(written, models):
    for family, kind in (("qwen2", "f16"), ("llama3", "q5_0")):
        found = looked_at(written[family][kind], models[family], 5)
        assert found.ok, told(found)
        seen = {one.what: one for one in found.verdicts if one.level > 1}
        assert seen["forced logits in transformers"].facts["positions"] > 1000
        assert seen["continuations in transformers"].status == "holds"
        texts = seen["texts in transformers"]
        assert texts.status == ("flagged" if family == "qwen2" else "holds"), texts.told
        # the runtime that the file is for is not there: that is no pass
        skipped = [one.level for one in found.verdicts if one.status == "skipped"]
        assert skipped == ([3, 4] if not has_llama_cpp() else [])
        assert found.exit_code(strict=True) == 1


def has_llama_cpp() -> bool:
    from importlib.util import find_spec

    return find_spec("llama_cpp") is not None


def test_the_runtime_that_it_is_for(written, models):
    pytest.importorskip("llama_cpp")
    found = looked_at(written["qwen2"]["f16"], models["qwen2"], 4)
    assert [one.status for one in found.verdicts if "llama.cpp" in one.what and one.level > 2] == ["holds", "holds"]


# ---- damaged ones ----

Damage = Callable[[bytearray, Any], object]


def place(held: Any, name: str) -> slice:
    one = held.entries[name]
    return slice(one.start, one.start + one.kind.nbytes(int(np.prod(one.shape))))


def swapped(data: bytearray, held: Any) -> None:
    one, other = place(held, UP.format(0)), place(held, UP.format(1))
    data[one], data[other] = data[other], data[one]


def flipped(data: bytearray, held: Any) -> None:
    """A bit in the middle of a block, which is no scale."""
    where = place(held, UP.format(1))
    data[(where.start + where.stop) // 2 + 9] ^= 1


def rows_swapped(data: bytearray, held: Any) -> None:
    """Two rows of the embedding, which is the head too."""
    where = place(held, EMBEDDING)
    row = (where.stop - where.start) // held.entries[EMBEDDING].shape[0]
    one, other = slice(where.start, where.start + row), slice(where.start + 9 * row, where.start + 10 * row)
    data[one], data[other] = data[other], data[one]


def in_halves(data: bytearray, held: Any) -> None:
    """A Llama's queries in transformers' order of rows."""
    where = place(held, QUERY)
    rows = np.frombuffer(bytes(data[where]), np.float16).reshape(4, 8, 2, 64).swapaxes(1, 2)
    data[where] = np.ascontiguousarray(rows).tobytes()


def scale(data: bytearray, held: Any) -> None:
    where = place(held, UP.format(0))
    data[where.start : where.start + 2] = np.float16("inf").tobytes()


def not_a_number(data: bytearray, held: Any) -> None:
    where = place(held, "output_norm.weight")
    data[where.start : where.start + 4] = np.float32("nan").tobytes()


def key(name: str, old: bytes, new: bytes) -> Damage:
    """The value behind a key, which has four bytes of type."""

    def damage(data: bytearray, held: Any) -> None:
        at = data.index(name.encode()) + len(name) + 4
        assert data[at : at + len(old)] == old
        data[at : at + len(new)] = new

    return damage


def number(name: str, old: int, new: int) -> Damage:
    return key(name, old.to_bytes(4, "little"), new.to_bytes(4, "little"))


def word(old: bytes, new: bytes) -> Damage:
    def damage(data: bytearray, held: Any) -> None:
        at = data.index(old)
        data[at : at + len(old)] = new

    return damage


def renamed(name: bytes) -> Damage:
    """A tensor under another name: what it was is missing."""
    return word(name, name[:-1] + b"x")


DAMAGES: dict[str, tuple[str, str, int, Damage]] = {
    "two tensors swapped": ("qwen2", "f16", 1, swapped),
    "two tensors swapped, quantised": ("llama3", "q5_0", 1, swapped),
    "a bit of a block": ("qwen2", "q4_0", 1, flipped),
    "a bit of a value": ("qwen2", "bf16", 1, flipped),
    "two rows of the tied head swapped": ("qwen2", "q8_0", 1, rows_swapped),
    "queries in the order of halves": ("llama3", "f16", 1, in_halves),
    "infinity in a block's scale": ("qwen2", "q5_1", 0, scale),
    "NaN": ("qwen3", "q8_0", 0, not_a_number),
    "the tied head is missing": ("qwen2", "f16", 0, renamed(b"token_embd.weight")),
    "the head is missing": ("llama3", "f16", 0, renamed(b"output.weight")),
    "a norm is missing": ("qwen3", "f16", 0, renamed(b"blk.1.attn_q_norm.weight")),
    "special ids: the end": ("qwen2", "f16", 0, number("tokenizer.ggml.eos_token_id", 384, 383)),
    "special ids: the beginning": ("llama3", "f16", 0, number("tokenizer.ggml.bos_token_id", 387, 388)),
    "a token is another": ("qwen2", "f16", 0, word(b"<|im_start|>", b"<|im_stamp|>")),
    "the template is another": ("qwen2", "f16", 0, word(b"You are Tiny", b"You are Huge")),
    "another number of heads": ("qwen2", "f16", 0, number("qwen2.attention.head_count", 4, 2)),
    "a layer less": ("llama3", "f16", 0, number("llama.block_count", 2, 1)),
    "another base of positions": (
        "qwen2", "f16", 0, key("qwen2.rope.freq_base", b"", np.float32(500_000).tobytes())
    ),
    "another type than it says": ("qwen2", "f16", 0, number("general.file_type", 1, 7)),
    "another architecture": ("qwen2", "f16", 0, word(b"\x05\0\0\0\0\0\0\0qwen2", b"\x05\0\0\0\0\0\0\0qwen3")),
    "no magic number": ("qwen2", "f16", 0, word(b"GGUF", b"GGML")),
    "bytes behind its end": ("qwen2", "f16", 0, lambda data, held: data.extend(bytes(64))),
}  # fmt: skip


def test_there_are_as_many_damages_as_the_page_says():
    assert len(DAMAGES) == 22


@pytest.mark.parametrize("name", DAMAGES)
def test_every_damage_is_caught_at_its_level(name, written, models, tmp_path):
    family, kind, level, damage = DAMAGES[name]
    good = written[family][kind]
    data = bytearray(good.read_bytes())
    damage(data, read(good))
    assert data != good.read_bytes()
    (tmp_path / "damaged.gguf").write_bytes(data)
    found = looked_at(tmp_path / "damaged.gguf", models[family], level)
    assert found.failed_at(level), name
    assert found.exit_code() == 1
    if level:
        assert not found.failed_at(0), told(found)


def test_a_file_that_ends_too_early_is_caught_at_each_record(written, models, tmp_path):
    """In every key, in every line of the list of tensors, and before, in and at the end of every tensor."""
    good, source = written["qwen2"]["q8_0"], chorus.open_model(models["qwen2"])
    whole, held, reader = good.read_bytes(), read(good), gguf.GGUFReader(good)
    fields = [one.offset for name, one in reader.fields.items() if not name.startswith("GGUF.")]
    cuts = [
        0,
        3,
        6,
        10,
        *(n + more for n in fields for more in (0, 5, 20)),
        *(t.field.offset + 5 for t in reader.tensors),
    ]
    for one in held.entries:
        where = place(held, one)
        cuts += [where.start, (where.start + where.stop) // 2, where.stop - 1]
    caught = 0
    for cut in cuts:
        (tmp_path / "cut.gguf").write_bytes(whole[:cut])
        try:
            found = GgufVerifier().open(tmp_path / "cut.gguf", source)
            caught += any(one.status == "fails" for one in found.structure)
        except CheckpointError:
            caught += 1
    assert caught == len(cuts) == 4 + 3 * len(fields) + 4 * 26


def test_an_array_without_end_is_not_counted_to_its_end(written, models, tmp_path):
    data = bytearray(written["qwen2"]["f16"].read_bytes())
    at = data.index(b"tokenizer.ggml.token_type") + len("tokenizer.ggml.token_type") + 8
    data[at : at + 8] = (2**60).to_bytes(8, "little")
    (tmp_path / "endless.gguf").write_bytes(data)
    found = looked_at(tmp_path / "endless.gguf", models["qwen2"])
    assert "in the middle of what it announces" in told(found)


def test_another_model_is_not_the_source(written, models, tmp_path):
    found = looked_at(written["qwen2"]["f16"], models["qwen3"])
    assert (found.exit_code(), found.failed_at(0)) == (1, True)
    found = looked_at(written["qwen2"]["f16"], BASE)
    assert [(one.what, "a Whisper" in one.told) for one in found.failed] == [("what it was made of", True)]
    found = looked_at(written["qwen2"]["f16"], models["qwen2"], form="gguf-adapter")
    assert [(one.what, "no LoRA" in one.told) for one in found.failed] == [("what it was made of", True)]
    other = language_model(tmp_path / "other", "qwen2", seed=1, tie_word_embeddings=True)
    found = looked_at(written["qwen2"]["f16"], other)
    assert not found.failed_at(0)
    assert found.failed_at(1)


def test_a_pre_tokenizer_that_was_asked_for_is_told_and_no_fault(models, tmp_path):
    asked = chorus.ExportOptions(pre_tokenizer="llama-bpe")
    path = chorus.export(models["qwen2"], tmp_path / "x.gguf", "gguf", settings=asked).places["f16"]
    found = looked_at(path, models["qwen2"])
    assert [one.what for one in found.verdicts if one.status == "flagged"] == ["how texts are cut"]
    assert found.ok


# ---- adapters ----


@pytest.fixture(scope="module")
def adapters(models, tmp_path_factory) -> dict[str, str]:
    """BASE+ADAPTER of a Qwen (one alpha) and of a Llama (modules of different scale, turned rows)."""
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    folder, found = tmp_path_factory.mktemp("adapters"), {}
    for family, more in (("qwen2", {}), ("llama3", {"alpha_pattern": {"q_proj": 64}})):
        model = transformers.AutoModelForCausalLM.from_pretrained(models[family], dtype=torch.float32)
        settings = peft.LoraConfig(r=32, lora_alpha=16, target_modules=["q_proj", "k_proj", "down_proj"], **more)
        on_it = peft.get_peft_model(model, settings)
        torch.manual_seed(0)
        with torch.no_grad():
            for name, parameter in on_it.named_parameters():
                if ".lora_" in name:
                    parameter.copy_(torch.randn_like(parameter) * 0.1)
        on_it.save_pretrained(folder / family)
        found[family] = f"{models[family]}+{folder / family}"
    return found


@pytest.mark.parametrize("family", ["qwen2", "llama3"])
def test_every_good_adapter_passes(adapters, family, tmp_path):
    for kind, path in chorus.export(
        adapters[family], tmp_path / "out", "gguf-adapter", types=list(CHANGES)
    ).places.items():
        found = looked_at(path, adapters[family], 5, form="")
        assert (found.ok, found.format, found.kind) == (True, "gguf-adapter", kind), told(found)
        by_kind = {one.what: one for one in found.verdicts if one.level == 1}
        assert by_kind[f"tensors in {kind}"].facts["by_bytes"] == 12
        assert by_kind[f"tensors in {kind}, as products"].facts["tensors"] == 6
        products = [error for name, error in by_kind["the 5 furthest from the source"].facts["errors"].items()]
        assert max(products) < CHANGES[kind]
        # nothing here runs an adapter's file: that is told, and is no pass
        assert [one.level for one in found.verdicts if one.status == "skipped"] == [3, 4]


def factors_swapped(data: bytearray, held: Any) -> None:
    one, other = (place(held, f"blk.{i}.attn_q.weight.lora_b") for i in (0, 1))
    data[one], data[other] = data[other], data[one]


def a_factor_s_bit(data: bytearray, held: Any) -> None:
    data[place(held, "blk.0.ffn_down.weight.lora_a").start] ^= 1


ADAPTERS: dict[str, tuple[int, Damage]] = {
    "two factors swapped": (1, factors_swapped),
    "a bit of a factor": (1, a_factor_s_bit),
    "another alpha": (1, key("adapter.lora.alpha", np.float32(16).tobytes(), np.float32(8).tobytes())),
    "an alpha that is no number": (0, key("adapter.lora.alpha", b"", np.float32("nan").tobytes())),
    "a factor is missing": (0, renamed(b"blk.1.attn_k.weight.lora_a")),
    "another kind of adapter": (0, word(b"\x04\0\0\0\0\0\0\0lora", b"\x04\0\0\0\0\0\0\0dora")),
    "for another architecture": (0, word(b"\x05\0\0\0\0\0\0\0qwen2", b"\x05\0\0\0\0\0\0\0qwen3")),
    "a byte less": (0, lambda data, held: data.__delitem__(slice(len(data) - 40, None))),
}


def test_there_are_as_many_damages_of_adapters():
    assert len(ADAPTERS) == 8


@pytest.mark.parametrize("name", ADAPTERS)
def test_every_damage_of_an_adapter_is_caught(name, adapters, tmp_path):
    level, damage = ADAPTERS[name]
    good = chorus.export(adapters["qwen2"], tmp_path / "good.gguf", "gguf-adapter").places["f32"]
    data = bytearray(good.read_bytes())
    damage(data, read(good))
    (tmp_path / "damaged.gguf").write_bytes(data)
    shutil.copy(tmp_path / "damaged.gguf", tmp_path / "again.gguf")
    found = looked_at(tmp_path / "again.gguf", adapters["qwen2"], level, form="gguf-adapter")
    assert found.failed_at(level), name
    if level:
        assert not found.failed_at(0), told(found)


def test_an_adapter_that_ends_too_early_is_caught_at_each_factor(adapters, tmp_path):
    source = chorus.open_model(adapters["qwen2"])
    good = chorus.export(source, tmp_path / "good.gguf", "gguf-adapter").places["f32"]
    whole, held, caught = good.read_bytes(), read(good), 0
    for one in held.entries:
        where = place(held, one)
        for cut in (where.start, (where.start + where.stop) // 2, where.stop - 1):
            (tmp_path / "cut.gguf").write_bytes(whole[:cut])
            with pytest.raises(CheckpointError, match="no whole GGUF file"):
                GgufAdapterVerifier().open(tmp_path / "cut.gguf", source)
            caught += 1
    assert caught == 3 * 12
