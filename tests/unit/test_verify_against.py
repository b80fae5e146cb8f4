"""An export held against a source that it was not made of: of other sizes, or with other names of the same tokens."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import chorus
from chorus.checkpoints.beside import is_processor, is_tokenizer
from sounds import BASE

CHANGES = {
    "wider": {"d_model": 96, "encoder_ffn_dim": 384, "decoder_ffn_dim": 384},
    "narrower": {"d_model": 32, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128},
    "deeper": {"encoder_layers": 3, "decoder_layers": 3},
    "shallower": {"encoder_layers": 1, "decoder_layers": 1},
}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Models like the base, of other sizes."""
    import transformers

    made, folder = {}, tmp_path_factory.mktemp("sources")
    for name, change in CHANGES.items():
        config = transformers.WhisperConfig.from_pretrained(BASE)
        config.update(change)
        transformers.WhisperForConditionalGeneration(config).save_pretrained(made.setdefault(name, folder / name))
        for path in BASE.iterdir():
            if is_tokenizer(path.name) or is_processor(path.name):
                shutil.copy(path, folder / name / path.name)
    return made


@pytest.mark.parametrize("form", ["ggml", "ctranslate2", "openai", "onnx", "hf"])
def test_a_source_of_other_sizes_is_a_failed_check_of_the_structure(form, sources, tmp_path):
    if form == "ggml":
        pytest.importorskip("gguf")
    (export,) = chorus.export(BASE, tmp_path / "made", form).places.values()
    for name, source in sources.items():
        found = chorus.verify(export, source, settings=chorus.VerifyOptions(level=1), form=form)
        # tensors that have nothing to be held against are not compared
        assert [one.status for one in found.verdicts if one.level == 1] == ["skipped"], name
        failed = [one.what for one in found.failed if "shapes" in one.what]
        assert len(failed) == 1, (name, found.failed)
        assert found.exit_code() == 1
