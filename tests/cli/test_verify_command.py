"""`chorus verify` as its users meet it: tables, JSON, exit codes, and what it says of a wrong flag."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

import chorus
from chats import language_model
from chorus.cli.main import run
from sounds import BASE


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("verify") / "good.bin"
    chorus.export(BASE, path, "ggml")
    return path


def test_a_good_file_is_told_level_by_level(good, capsys):
    assert run(["verify", str(good), "--against", str(BASE), "--level", "1"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("good.bin (ggml, f16) against base\n")
    assert "L0 structure  header" in text
    assert "L1 tensors    tensors in f16                    holds   25 by bytes" in text
    assert text.endswith(" checks: 12 holds\n")


def test_a_damaged_file_ends_with_1_and_says_which_tensor(good, tmp_path, capsys):
    data = bytearray(good.read_bytes())
    data[-5000] ^= 64
    (tmp_path / "bad.bin").write_bytes(data)
    assert run(["verify", str(tmp_path / "bad.bin"), "--against", str(BASE), "--level", "1", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["ok"], told["exit_code"], told["counts"]["fails"]) == (False, 1, 1)
    (one,) = [one for one in told["verdicts"] if one["status"] == "fails"]
    assert one["what"] == "tensors in f16"
    assert one["facts"]["wrong"][0] in one["told"]


def test_a_file_that_is_none_ends_with_1_where_its_format_is_said(tmp_path, capsys):
    (tmp_path / "torn.bin").write_bytes(b"lmg")
    line = ["verify", str(tmp_path / "torn.bin"), "--against", str(BASE), "--level", "1"]
    assert run(line) == 2
    assert "--format says what a damaged file should be" in capsys.readouterr().err
    assert run([*line, "--format", "ggml"]) == 1
    text = capsys.readouterr().out
    assert "fails" in text
    assert "skipped  its structure does not hold" in text


def test_neither_or_both_of_the_two_ways_are_refused(good, capsys):
    assert run(["verify", str(good)]) == 2
    assert run(["verify", str(good), "--against", str(BASE), "--ready", "ggml"]) == 2
    assert "either --against MODEL or --ready FORMAT" in capsys.readouterr().err


def test_a_model_that_is_ready_says_what_comes_next(capsys):
    assert run(["verify", str(BASE), "--ready", "ggml", "--type", "q5_0"]) == 0
    told = capsys.readouterr()
    assert "ready: 10 of 10 hold" in told.out
    assert f"next: chorus export {BASE} --to ggml --type q5_0 -o ..." in told.err


def test_the_next_line_can_be_pasted_whatever_the_model_is_called(tmp_path, capsys):
    place = shutil.copytree(BASE, tmp_path / "my best model; v2")
    assert run(["verify", str(place), "--ready", "ggml"]) == 0
    line = next(one for one in capsys.readouterr().err.splitlines() if one.startswith("next: "))
    assert shlex.split(line)[1:4] == ["chorus", "export", str(place)]


def test_a_model_that_is_not_ready_says_what_to_do(tmp_path, capsys):
    other = tmp_path / "other"
    shutil.copytree(BASE, other)
    for name in ("tokenizer.json", "preprocessor_config.json"):
        (other / name).unlink()
    assert run(["verify", str(other), "--ready", "ggml", "--type", "q4_k"]) == 1
    text = capsys.readouterr().out
    assert "no tokenizer is beside it" in text
    assert "--type q4_0, the nearest that they allow" in text
    assert "copy the base's preprocessor_config.json beside it" in text
    assert "3 of 8 stand in the way" in text


def test_a_directory_of_transformers_5_is_ready(tmp_path, capsys):
    """It writes processor_config.json in the place of preprocessor_config.json, and tokenizer.json alone."""
    from transformers import AutoTokenizer, WhisperFeatureExtractor, WhisperForConditionalGeneration, WhisperProcessor

    model = WhisperForConditionalGeneration.from_pretrained(BASE)
    model.save_pretrained(tmp_path)
    WhisperProcessor(WhisperFeatureExtractor(feature_size=80), AutoTokenizer.from_pretrained(BASE)).save_pretrained(
        tmp_path
    )
    assert not (tmp_path / "preprocessor_config.json").exists()
    assert not (tmp_path / "vocab.json").exists()
    assert run(["verify", str(tmp_path), "--ready", "ggml"]) == 0
    settings = json.loads((tmp_path / "processor_config.json").read_text())
    settings["feature_extractor"]["feature_size"] = 128
    (tmp_path / "processor_config.json").write_text(json.dumps(settings))
    capsys.readouterr()
    assert run(["verify", str(tmp_path), "--ready", "ggml"]) == 1
    assert "it makes 128 mel bins, the model takes 80" in capsys.readouterr().out


def test_flags_without_a_meaning_are_refused(good, capsys):
    assert run(["verify", str(BASE), "--ready", "ggml", "--strict"]) == 2
    assert run(["verify", str(good), "--against", str(BASE), "--type", "q5_0"]) == 2
    assert run(["verify", str(good), "--against", str(BASE), "--runtime", "whisper"]) == 2
    assert "whisper runs no ggml" in capsys.readouterr().err


def test_what_transformers_5_writes_is_told_case_by_case(tmp_path, capsys):
    """(model, format, exit code, what is said): each saved as its users save it."""
    import peft
    import transformers

    whisper = transformers.WhisperForConditionalGeneration.from_pretrained(BASE)
    processor = transformers.WhisperProcessor.from_pretrained(BASE)

    def saved(name: str, model: Any, **settings: Any) -> Path:
        model.save_pretrained(tmp_path / name, **settings)
        processor.save_pretrained(tmp_path / name)
        return tmp_path / name

    plain, half = saved("sharded", whisper, max_shard_size="2MB"), saved("half", whisper.half())
    assert len(list(plain.glob("*.safetensors"))) == 2
    (half / "generation_config.json").unlink()
    lora = peft.get_peft_model(whisper.float(), peft.LoraConfig(r=2, target_modules=["q_proj"]))
    lora.save_pretrained(tmp_path / "lora")
    padded = transformers.WhisperForConditionalGeneration.from_pretrained(BASE)
    padded.resize_token_embeddings(51_872)
    wide = transformers.WhisperConfig.from_pretrained(BASE, num_mel_bins=128)
    t5 = transformers.T5Config(vocab_size=50, d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=4)
    transformers.T5ForConditionalGeneration(t5).save_pretrained(tmp_path / "t5")
    qwen = language_model(tmp_path / "qwen", "qwen2", tie_word_embeddings=True)
    cases = [
        (plain, "ggml", 0, "ready"), (plain, "ctranslate2", 0, "ready"), (half, "openai", 0, "ready"),
        (half, "hf", 0, "ready"), (tmp_path / "lora", "ggml", 0, "ready"),
        (saved("padded", padded), "ggml", 1, "--trim-vocab leaves them out"),
        (saved("wide", transformers.WhisperForConditionalGeneration(wide)), "ctranslate2", 1, "it makes 80 mel bins"),
        (tmp_path / "t5", "ggml", 1, "a model of the type t5"), (tmp_path / "t5", "gguf", 1, "Qwen2, Qwen3, Llama"),
        (qwen, "gguf", 0, "ready"), (qwen, "ggml", 1, "a model of the type qwen2"),
        (plain, "gguf", 1, "--to ggml writes"), (qwen, "gguf-adapter", 1, "no LoRA adapter is on it"),
    ]  # fmt: skip
    for model, to, code, said in cases:
        assert run(["verify", str(model), "--ready", to]) == code, (model.name, to)
        assert said in capsys.readouterr().out, (model.name, to)


def test_an_export_is_known_by_its_content(tmp_path, capsys):
    for to, suffix in (("openai", ".pt"), ("hf", "")):
        place = tmp_path / f"export{suffix}"
        chorus.export(BASE, place, to)
        assert run(["verify", str(place), "--against", str(BASE), "--level", "1"]) == 0
        assert f"({to}, float16) against base" in capsys.readouterr().out
    assert run(["verify", str(place), "--against", str(BASE), "--runtime", "whisper.cpp"]) == 2
    assert "whisper.cpp runs no hf" in capsys.readouterr().err


def test_a_runtime_that_is_not_installed_is_no_pass(tmp_path, capsys, monkeypatch):
    from chorus.verify.formats import gguf

    monkeypatch.setattr(gguf, "find_spec", lambda name: None)
    pytest.importorskip("gguf")
    qwen = language_model(tmp_path / "qwen", "qwen2", tie_word_embeddings=True)
    chorus.export(qwen, tmp_path / "x.gguf", "gguf")
    line = ["verify", str(tmp_path / "x.gguf"), "--against", str(qwen), "--level", "4", "--runtime", "llama.cpp"]
    assert run(line) == 3
    told = capsys.readouterr()
    assert "llama.cpp was asked for and is not installed" in told.err
    assert told.out.count('skipped  llama.cpp is not installed: pip install "llama-cpp-python"') == 2
    assert run([*line[:-2], "a.flac"]) == 2
    assert "hears nothing" in capsys.readouterr().err
