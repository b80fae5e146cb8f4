"""A kind of model from somebody else's package: two files, and it is trained, transcribed and merged as ours are."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

import chorus
import commands
from models import write_recipe
from sounds import byte_tokenizer, corpus

PACKAGE = Path(__file__).parents[1] / "packages" / "chorus_moonshine"
SIZES = {
    "vocab_size": 258, "hidden_size": 16, "intermediate_size": 24, "encoder_num_hidden_layers": 1,
    "decoder_num_hidden_layers": 1, "encoder_num_attention_heads": 2, "decoder_num_attention_heads": 2,
    "encoder_num_key_value_heads": 2, "decoder_num_key_value_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip


def moonshine(directory: Path, seed: int = 0) -> Path:
    """A tiny Moonshine of the real class."""
    import transformers

    torch.manual_seed(seed)
    tokenizer = byte_tokenizer(["</s>", "<s>"])
    end, start = tokenizer.convert_tokens_to_ids(["</s>", "<s>"])
    special = {"eos_token_id": end, "pad_token_id": end, "bos_token_id": start, "decoder_start_token_id": start}
    model = transformers.MoonshineForConditionalGeneration(transformers.MoonshineConfig(**SIZES, **special))
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    transformers.Wav2Vec2FeatureExtractor(return_attention_mask=True, do_normalize=False).save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def with_package(tmp_path_factory):
    """Chorus with the package installed, as pip leaves it; nothing of ours is edited."""
    place = tmp_path_factory.mktemp("site")
    facts = place / "chorus_moonshine-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: chorus-moonshine\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text("[chorus.kinds]\nmoonshine = chorus_moonshine.kind\n")
    ours = Path(chorus.__file__).parents[1]
    paths = os.pathsep.join(map(str, (place, PACKAGE.parent, ours)))
    environment = {**os.environ, "PYTHONPATH": paths, "HF_HUB_OFFLINE": "1"}

    def run(*arguments: object, code: str = ""):
        done = commands.python(code, env=environment) if code else commands.chorus(*arguments, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_two_files_are_all_of_it():
    files = [path for path in PACKAGE.glob("*.py") if path.name != "__init__.py"]
    assert sorted(path.name for path in files) == ["kind.py", "training.py"]
    lines = sum(bool(line.strip()) for path in files for line in path.read_text().splitlines())
    assert lines <= 105


def test_it_is_trained_transcribed_and_merged(with_package, tmp_path):
    base, (manifest, _) = moonshine(tmp_path / "base"), corpus(tmp_path / "speech")
    settings = [
        f"model.base={base}",
        f"data.train={manifest}",
        f"output={tmp_path / 'tuned'}",
        f"logs={tmp_path / 'l'}",
    ]
    quick = ["train.steps=2", "train.batch_size=4", "dev.every_steps=2", "train.learning_rate=0.01", "device=cpu"]
    trained = json.loads(with_package("train", *settings, *quick, "--json", "-q"))
    assert trained["steps"] == 2
    assert trained["before"] is not None
    assert "pipeline_tag: automatic-speech-recognition" in (tmp_path / "tuned" / "README.md").read_text()

    models = [{"model": str(place), "parameters": {"weight": 0.5}} for place in (base, tmp_path / "tuned")]
    recipe = {"merge_method": "linear", "models": models}
    path = write_recipe(tmp_path / "r.yml", recipe)
    with_package("merge", path, "-o", tmp_path / "merged", "-q")
    place = tmp_path / "evaluation"
    with_package("evaluate", tmp_path / "merged", "--data", manifest, "-o", place, "--device", "cpu", "-q")
    rows = [json.loads(line) for file in place.rglob("results.jsonl") for line in file.read_text().splitlines()]
    assert len(rows) == 12
    assert all("hypothesis" in row for row in rows)


def test_it_keeps_the_contract(with_package, tmp_path):
    base, (manifest, _) = moonshine(tmp_path / "base"), corpus(tmp_path / "speech", 6)
    check = f"import chorus.testing; print(chorus.testing.check_kind({str(base)!r}, {str(manifest)!r}))"
    assert with_package(code=check).strip().endswith("4")
