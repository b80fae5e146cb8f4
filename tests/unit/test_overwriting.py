"""What `--overwrite` takes away, and what it does not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import chorus
from chorus.errors import OutputError
from sounds import BASE


def merged(folder: Path, *, overwrite: bool = False) -> Path:
    recipe = folder / "half.yml"
    recipe.write_text(f"merge_method: linear\nmodels:\n  - {{model: {BASE}, parameters: {{weight: 1}}}}\n")
    options = chorus.Options(overwrite=overwrite)
    chorus.merge(recipe, folder / "merged", options)
    return folder / "merged"


@pytest.mark.parametrize("kind", ["merge", "hf", "ctranslate2"])
def test_what_somebody_has_put_into_a_result_is_not_taken_away(kind: str, tmp_path: Path) -> None:
    def write(*, overwrite: bool = False) -> Path:
        if kind == "merge":
            return merged(tmp_path, overwrite=overwrite)
        chorus.export(BASE, tmp_path / "made", kind, overwrite=overwrite)
        return tmp_path / "made"

    place = write()
    write(overwrite=True)  # of what was written alone nothing is in the way
    listed = json.loads((place / "chorus.json").read_text())["contents"]
    assert set(listed) == {path.name for path in place.iterdir()} - {"chorus.json"}
    (place / "mine").mkdir()
    (place / "mine" / "data.csv").write_text("x")
    with pytest.raises(OutputError, match=r"mine/data.csv in it, which Chorus did not write there"):
        write(overwrite=True)
    (place / "thesis.txt").symlink_to(place / "mine" / "data.csv")
    with pytest.raises(OutputError, match=r"mine/data.csv and 1 more files in it"):
        write(overwrite=True)
    assert (place / "mine" / "data.csv").read_text() == "x"
    (place / "thesis.txt").unlink()
    (place / "mine" / "data.csv").rename(place / "half.json")  # no JSON, and no reason to fail otherwise
    with pytest.raises(OutputError, match=r"half.json in it, which Chorus did not write there"):
        write(overwrite=True)


def test_exports_beside_a_model_are_made_again(tmp_path: Path) -> None:
    """`merge --export` puts them there, and does so the next time."""
    place = merged(tmp_path)
    chorus.export(place, place, "ggml", types="q8_0")
    assert any(path.suffix == ".bin" for path in place.iterdir())
    merged(tmp_path, overwrite=True)
    assert not any(path.suffix == ".bin" for path in place.iterdir())


def test_a_result_of_an_older_version_lists_nothing_and_is_replaced(tmp_path: Path) -> None:
    place = merged(tmp_path)
    facts = json.loads((place / "chorus.json").read_text())
    del facts["contents"]
    (place / "chorus.json").write_text(json.dumps(facts))
    merged(tmp_path, overwrite=True)
    assert "contents" in json.loads((place / "chorus.json").read_text())
