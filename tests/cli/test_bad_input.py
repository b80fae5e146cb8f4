"""One test for each way to be given something wrong: the message names it, nothing half-made is left, no traceback."""

from __future__ import annotations

import fcntl
import json
import os
import resource
import struct
import subprocess
import sysconfig
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from chorus.cli.main import run
from models import copy_model, load_all, make_family, write_model, write_recipe

CHORUS = Path(sysconfig.get_path("scripts")) / "chorus"


@pytest.fixture
def fails(tmp_path, out, capsys):
    """Run `chorus merge` on a recipe; it must fail so, with these words, and leave nothing under the final name."""

    def check(recipe, *words, code=2, flags=()):
        path = recipe if isinstance(recipe, Path) else write_recipe(tmp_path / "recipe.yml", recipe)
        before = sorted(out.rglob("*")) if out.exists() else None
        found = run(["merge", str(path), "-o", str(out), *flags])
        message = capsys.readouterr().err
        assert found == code, message
        for word in words:
            assert word in message, f"{word!r} is not in: {message}"
        assert "Traceback" not in message
        assert (sorted(out.rglob("*")) if out.exists() else None) == before
        return message

    return check


@pytest.fixture
def mine(tmp_path):
    """A family of this test's own, to be damaged."""
    return make_family(tmp_path / "family", "qwen2", 2)


def linear(*paths, **keys):
    models = [{"model": str(p), "parameters": {"weight": 1}} for p in paths]
    return {"merge_method": "linear", "models": models, **keys}


def rewrite(path: Path, change) -> None:
    """Change the tensors of a model in one file."""
    tensors = load_all(path)
    for file in path.glob("*.safetensors*"):
        file.unlink()
    save_file(change(tensors), path / "model.safetensors", metadata={"format": "pt"})


def test_fails_with_an_unknown_method_and_names_the_nearest(fails, qwen):
    fails(qwen.recipe("tiess"), 'unknown merge method "tiess"', 'did you mean "ties"')


def test_fails_with_an_unknown_parameter_and_names_the_nearest(fails, qwen):
    fails(qwen.recipe("ties", each=[{"wieght": 1}] * 3), "models[0].parameters.wieght", 'did you mean "weight"')


def test_fails_with_an_unknown_key_and_names_the_nearest(fails, qwen):
    fails(qwen.recipe("karcher", base=False, paramters={}), "paramters: unknown key", 'did you mean "parameters"')


def test_fails_without_the_recipes_file(fails, tmp_path):
    fails(tmp_path / "none.yml", "none.yml", "no such file")


def test_fails_without_a_models_directory(fails, tmp_path):
    fails(linear(tmp_path / "none"), "no such file or directory", "check the path of the model")


def test_fails_where_there_is_no_model(fails, tmp_path):
    (tmp_path / "empty").mkdir()
    fails(linear(tmp_path / "empty"), "not a model (no config.json)")
    (tmp_path / "empty" / "config.json").write_text("{}")
    fails(linear(tmp_path / "empty"), "not a model (no model.safetensors")
    (tmp_path / "empty" / "config.json").write_text("{nonsense")
    fails(linear(tmp_path / "empty"), "not readable as JSON")


def test_fails_with_another_architecture(fails, qwen, whisper):
    fails(
        linear(qwen.base, whisper.base),
        "WhisperForConditionalGeneration",
        "Qwen2ForCausalLM",
        "only models of one class",
    )


def test_fails_with_another_shape(fails, mine):
    rewrite(mine.tuned[0], lambda t: {**t, "model.norm.weight": torch.ones(33)})
    fails(
        linear(mine.base, mine.tuned[0]), "tuned-0: model.norm.weight has the shape [33], by its config.json it is [32]"
    )


def test_fails_with_another_vocabulary_of_whisper(fails, tmp_path, whisper):
    tensors = load_all(whisper.tuned[0])
    name = "model.decoder.embed_tokens.weight"
    tensors[name] = torch.cat([tensors[name], torch.zeros(1, 16)])
    config = json.loads((whisper.base / "config.json").read_text())
    large = write_model(tmp_path / "v3", tensors, {**config, "vocab_size": 51866})
    words = ("v3 has a vocabulary of 51866, base of 51865", "cannot be merged")
    fails(linear(whisper.base, large), *words)
    fails(linear(whisper.base, large), *words, flags=["--truncate-vocabulary"])


def test_fails_with_missing_and_extra_tensors_all_named(fails, mine):
    rewrite(mine.tuned[0], lambda t: {k: v for k, v in t.items() if "layers.2.mlp" not in k})
    rewrite(mine.tuned[1], lambda t: {**t, "extra.weight": torch.ones(2)})
    fails(
        linear(mine.base, *mine.tuned),
        "tuned-0: lacks model.layers.2.mlp.gate_proj.weight, model.layers.2.mlp.up_proj.weight",
        "tuned-1: extra.weight: Qwen2ForCausalLM has no tensor of that name",
    )


def test_fails_with_a_weight_that_is_not_a_number(fails, qwen):
    fails(qwen.recipe("linear", base=False, each=[{"weight": "much"}] * 3), "must be a number, got 'much'")
    fails(qwen.recipe("linear", base=False, each=[{"weight": float("nan")}] * 3), "must be a number")
    fails(qwen.recipe("linear", base=False, each=[{"weight": None}] * 3), "no value")


def test_fails_where_all_weights_are_zero(fails, qwen):
    for method in ("linear", "multislerp", "slerp", "karcher"):
        fails(qwen.recipe(method, base=False, each=[{"weight": 0}] * 3), method, "zero")


def test_fails_without_a_weight(fails, qwen):
    each = [{}, {"weight": 0.5}, {"weight": 0.5}]
    fails(qwen.recipe("linear", base=False, each=each), "linear needs weight for tuned-0")


def test_fails_with_a_gradient_where_there_are_no_layers(fails, tmp_path):
    """A model without layers has no place for a list to run over."""
    config = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "num_hidden_layers": 0, "vocab_size": 8,
              "hidden_size": 4, "tie_word_embeddings": True}  # fmt: skip
    tensors = {"model.embed_tokens.weight": torch.ones(8, 4), "model.norm.weight": torch.ones(4)}
    paths = [write_model(tmp_path / n, tensors, config) for n in "ab"]
    recipe = linear(*paths)
    recipe["models"][0]["parameters"]["weight"] = [0, 1]
    fails(recipe, "weight", "gradient", "no layers")


def test_fails_without_the_base_that_a_method_needs(fails, qwen):
    fails(qwen.recipe("ties", base=False, each=[{"weight": 1}] * 3), "ties needs a base_model")


def test_fails_with_one_model_where_two_are_needed(fails, qwen):
    fails(qwen.recipe("slerp", 1, base=False, parameters={"t": 0.5}), "slerp takes at least 2 models; got 1")
    fails(qwen.recipe("model_stock", 1), "model_stock takes at least 2 models besides the base; got 1")


def test_fails_with_a_model_named_twice(fails, qwen):
    fails(linear(qwen.base, qwen.base), "listed twice")


def test_fails_with_an_adapter_of_another_base(fails, qwen, tmp_path):
    from peft import LoraConfig, get_peft_model

    from models import build

    other = build("qwen2", hidden_size=64, num_attention_heads=8)
    get_peft_model(other, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(tmp_path / "adapter")
    recipe = linear(qwen.base)
    recipe["models"][0]["lora"] = str(tmp_path / "adapter")
    fails(recipe, "adapter", "this adapter belongs to another base")


LIES = {
    "a length beyond the file": (struct.pack("<Q", 10**6) + b"{}", "the file ends after"),
    "a header of 200 MB": (struct.pack("<Q", 200_000_000) + b"{}", "the limit is"),
    "offsets beyond the file": (None, "ends at byte"),
    "no header at all": (b"abc", "too few"),
}


@pytest.mark.parametrize("lie", LIES)
def test_fails_with_a_lying_header(fails, mine, lie):
    content, word = LIES[lie]
    path = mine.tuned[0] / "model.safetensors"
    path.write_bytes(content if content is not None else path.read_bytes()[:-64])
    fails(linear(mine.base, mine.tuned[0]), "tuned-0/model.safetensors", word)


def test_fails_with_a_truncated_file(fails, mine):
    path = mine.tuned[0] / "model.safetensors"
    os.truncate(path, path.stat().st_size // 2)
    fails(linear(mine.base, mine.tuned[0]), "model.safetensors", "but the file ends after", "download")


@pytest.mark.parametrize("shard", ["../base/model.safetensors", "/etc/passwd", "a/../../x.safetensors"])
def test_fails_with_an_index_that_points_outside(fails, mine, shard):
    index = {"metadata": {}, "weight_map": {"model.norm.weight": shard}}
    (mine.tuned[0] / "model.safetensors.index.json").write_text(json.dumps(index))
    (mine.tuned[0] / "model.safetensors").unlink()  # which would go before the index
    fails(linear(mine.base, mine.tuned[0]), "lies outside the model's directory")


def test_fails_with_a_missing_shard(fails, mine):
    next(mine.tuned[1].glob("model-00001*")).unlink()
    fails(linear(mine.base, mine.tuned[1]), "is missing")


@pytest.mark.parametrize(
    ("method", "value"), [("linear", "nan"), ("ties", "inf"), ("karcher", "-inf"), ("dare_ties", "nan")]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fails_with_a_value_that_is_not_finite(fails, mine, method, value, dtype):
    def damage(tensors):
        tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = float(value)
        return {k: v.to(dtype) for k, v in tensors.items()}

    rewrite(mine.tuned[1], damage)
    recipe = mine.recipe(method, base=method in ("ties", "dare_ties"), each=[{"weight": 1}] * 2)
    words = ("tuned-1", "model.layers.1.mlp.up_proj.weight", "position 101", "--allow-nonfinite")
    fails(recipe, *words, code=4)


def test_nonfinite_values_pass_where_they_are_allowed(mine, out, tmp_path):
    def damage(tensors):
        tensors["model.norm.weight"][3] = float("nan")
        return tensors

    rewrite(mine.tuned[0], damage)
    path = write_recipe(tmp_path / "r.yml", linear(*mine.tuned))
    assert run(["merge", str(path), "-o", str(out), "--allow-nonfinite", "-q"]) == 0
    assert torch.isnan(load_all(out)["model.norm.weight"]).sum() == 1


def test_fails_where_a_value_does_not_fit_float16(fails, mine):
    rewrite(mine.base, lambda t: {**t, "model.norm.weight": torch.full((32,), 1e5)})
    fails(linear(mine.base, out_dtype="float16"), "model.norm.weight", "does not fit float16", "bfloat16", code=4)


def test_fails_with_pickles_unless_they_are_allowed(fails, mine, tmp_path, capsys):
    torch.save(load_all(mine.tuned[0]), mine.tuned[0] / "pytorch_model.bin")
    (mine.tuned[0] / "model.safetensors").unlink()
    fails(linear(mine.tuned[0]), "pytorch_model.bin", "--allow-pickle")
    path = write_recipe(tmp_path / "r.yml", linear(mine.tuned[0]))
    assert run(["merge", str(path), "-o", str(tmp_path / "ok"), "--allow-pickle", "-q"]) == 0


class Evil:
    """What a pickle may hold."""

    def __reduce__(self):
        return (os.system, ("touch /tmp/should-not-exist",))


def test_a_pickle_with_code_is_refused_even_where_pickles_are_allowed(fails, mine):
    torch.save({"model.norm.weight": Evil()}, mine.tuned[0] / "pytorch_model.bin")
    (mine.tuned[0] / "model.safetensors").unlink()
    fails(linear(mine.tuned[0]), "pytorch_model.bin", flags=["--allow-pickle"])


QUANTISED = {
    "bitsandbytes": {"quant_method": "bitsandbytes"},
    "gptq": {"quant_method": "gptq"},
    "awq": {"quant_method": "awq"},
    "fp8": {"quant_method": "fp8"},
}


@pytest.mark.parametrize("kind", QUANTISED)
def test_fails_with_quantised_weights_by_name(fails, qwen, tmp_path, kind):
    path = copy_model(qwen.base, tmp_path / "q", quantization_config=QUANTISED[kind])
    fails(linear(path), f"quantised ({kind})", "unquantised")


def test_fails_with_quantised_tensors_without_a_config(fails, mine):
    rewrite(mine.base, lambda t: {**t, "model.norm.weight_scale": torch.ones(1)})
    fails(linear(mine.base), "model.norm.weight_scale", "quantised")


def test_fails_with_a_yaml_bomb(fails, tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 40)]
    path = tmp_path / "bomb.yml"
    path.write_text("\n".join(lines))
    fails(path, "too much aliased")


def test_fails_where_the_output_is_not_empty(fails, qwen, out):
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    fails(linear(qwen.base), "exists and is not empty", "--overwrite", code=4)
    assert (out / "thesis.txt").read_text() == "years of work"


def test_fails_where_the_output_cannot_be_written(fails, qwen, out):
    blocked = out.parent / "blocked"
    blocked.write_text("a file where a directory should be")
    path = write_recipe(out.parent / "r.yml", linear(qwen.base))
    assert run(["merge", str(path), "-o", str(blocked / "x"), "-q"]) == 2


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_fails_where_the_output_is_read_only(qwen, tmp_path, capsys):
    place = tmp_path / "sealed"
    place.mkdir(mode=0o555)
    path = write_recipe(tmp_path / "r.yml", linear(qwen.base))
    assert run(["merge", str(path), "-o", str(place / "x")]) == 4
    assert "no permission" in capsys.readouterr().err


def test_a_read_only_file_system_is_told_in_words(monkeypatch, fails, qwen):
    """Also where the tests run as root, whom permissions do not stop."""
    import errno

    def read_only(*args, **kwargs):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("chorus.checkpoints.writer.Path.mkdir", read_only)
    fails(linear(qwen.base), "cannot be written (no permission)", "choose another output directory", code=4)


def test_fails_where_the_disk_is_full(qwen, tmp_path, out):
    """A small limit on the size of files stands for a small disk; after it is lifted the merge goes on."""
    path = write_recipe(tmp_path / "r.yml", linear(qwen.base, *qwen.tuned))

    def small_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))

    command = [str(CHORUS), "merge", str(path), "-o", str(out)]
    full = subprocess.run(command, capture_output=True, text=True, preexec_fn=small_files, check=False)
    assert full.returncode == 4
    assert "larger than files may be here" in full.stderr
    assert "Traceback" not in full.stderr
    assert not out.exists()
    assert subprocess.run([*command, "--resume"], capture_output=True, check=False).returncode == 0
    assert len(load_all(out)) == len(load_all(qwen.base))


def test_a_full_disk_is_seen_before_the_first_byte(fails, qwen, monkeypatch):
    import shutil
    from collections import namedtuple

    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**6, 10**6 - 10, 10))
    fails(linear(qwen.base), "the disk has 0.0 GB free", code=4)


def test_fails_where_another_merge_writes_the_same_directory(fails, qwen, out):
    partial = out.with_name(out.name + ".partial")
    partial.mkdir(parents=True)
    lock = os.open(partial, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        fails(linear(qwen.base), "another command is writing it", code=4, flags=["--overwrite"])
    finally:
        os.close(lock)


def test_two_real_merges_at_once_never_spoil_each_other(qwen, tmp_path, out):
    path = write_recipe(tmp_path / "r.yml", qwen.recipe("ties", each=[{"weight": 1, "density": 0.5}] * 3))
    command = [str(CHORUS), "merge", str(path), "-o", str(out), "-q"]
    both = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    codes = sorted(p.wait() for p in both)
    assert codes == [0, 4], [p.stderr.read() for p in both]
    assert len(load_all(out)) == len(load_all(qwen.base))


def test_fails_with_a_device_that_is_not_there(fails, qwen):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    fails(linear(qwen.base), "device cuda: not there", "chorus doctor", flags=["--device", "cuda"])


def test_fails_without_an_output(qwen, tmp_path, capsys):
    path = write_recipe(tmp_path / "r.yml", linear(qwen.base))
    assert run(["merge", str(path)]) == 2
    assert "-o DIR" in capsys.readouterr().err


def test_all_problems_come_at_once(fails, mine, whisper):
    rewrite(mine.tuned[0], lambda t: {**t, "model.norm.weight": torch.ones(33)})
    message = fails(linear(mine.base, mine.tuned[0], whisper.base, mine.base.parent / "none"), "problems")
    assert "no such file" in message
