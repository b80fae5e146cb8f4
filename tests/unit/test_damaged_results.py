"""Results that were damaged or changed by hand: refused in a line, and no gate passes on them."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from chorus.cli.main import run
from chorus.errors import DataError
from chorus.evaluate.results import PARQUET, ROWS, SUMMARY, Evaluation, read_evaluation, write_evaluation
from damage import of_document, of_lines, torn
from results import counted, made_up

CASES = int(os.environ.get("DAMAGES", "400"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    """Two domains, two conditions, two languages, a failed decode, a translation's language."""
    made = made_up(
        tmp_path_factory.mktemp("whole"), "m", {"radio": 2, "fado": 1}, each=4, languages={"fado": "pt"},
        conditions=("clean", "telephone"), speakers=2, role="merge", trained_on={"domain": ["radio"]},
    )  # fmt: skip
    rows = [*made.rows]
    rows[1] = {**rows[1], "failed": "RuntimeError: no", "hypothesis": ""}
    return counted(made.directory.parent, "m", rows, conditions=("clean", "telephone"), role="merge")


def content(directory: Path) -> str:
    """What the files say, whole numbers and others alike; empty where they are not JSON."""
    try:
        rows, summary = ((directory / name).read_text(encoding="utf-8") for name in (ROWS, SUMMARY))
        texts = [summary, *filter(str.strip, rows.split("\n"))]
        return json.dumps([json.loads(text, parse_int=float) for text in texts], sort_keys=True)
    except (ValueError, OSError, RecursionError):
        return ""


def damaged(whole: Evaluation, place: Path, seed: int) -> Path:
    rng = random.Random(seed)
    made = shutil.copytree(whole.directory, place / str(seed))
    rows, summary = (made / name for name in (ROWS, SUMMARY))
    path, kind = rng.choice([(rows, torn), (rows, of_lines), (rows, of_lines), (summary, torn), (summary, of_document),
                             (summary, of_document)])  # fmt: skip
    path.write_bytes(kind(path.read_text(encoding="utf-8"), rng))
    return made


@pytest.mark.parametrize("part", range(8))
def test_no_gate_passes_on_damaged_results(part: int, whole: Evaluation, tmp_path: Path, capsys) -> None:
    """Four hundred damages; where the files still say the same the outcome is the same."""
    gates = ["--max-wer", "100", "--max-failed", "9"]
    assert run(["gate", str(whole.directory), *gates]) == 0
    capsys.readouterr()
    codes, before = Counter[int](), content(whole.directory)
    for seed in range(part, CASES, 8):
        made = damaged(whole, tmp_path, seed)
        same = content(made) == before
        command = [["gate", *gates], ["evaluate", "--json"], ["compare"]][seed // 8 % 3]
        code = run([command[0], str(made), *command[1:]])
        told = capsys.readouterr().err
        assert code in ((0,) if same else (2, 4)), (seed, code, told)
        assert "fault" not in told, (seed, told)
        assert same or (str(made) in told and len(told.splitlines()) <= 3), (seed, told)
        codes[code] += 1
    assert sum(codes.values()) == CASES // 8
    assert codes[4] > CASES // 10


def without_digest(place: Path) -> None:
    """As another tool writes results."""
    told = json.loads((place / SUMMARY).read_text())
    (place / SUMMARY).write_text(json.dumps({**told, "digest": ""}))


def change_row(place: Path, number: int, **values: object) -> None:
    lines = (place / ROWS).read_text(encoding="utf-8").splitlines()
    lines[number] = json.dumps({**json.loads(lines[number]), **values})
    (place / ROWS).write_text("\n".join(lines) + "\n")


def drop_row(place: Path, number: int) -> None:
    lines = (place / ROWS).read_text(encoding="utf-8").splitlines()
    (place / ROWS).write_text("\n".join(lines[:number] + lines[number + 1 :]) + "\n")


def change_summary(place: Path, change: Callable[[dict], None]) -> None:
    told = json.loads((place / SUMMARY).read_text())
    change(told)
    (place / SUMMARY).write_text(json.dumps(told))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda place: (place / ROWS).write_text(""), "no rows"),
        (lambda place: drop_row(place, 0), "15 rows of 8 utterances; the summary has 8 under each of 2 conditions"),
        (lambda place: change_row(place, 0, errors=7), "radio/0: errors is 7, its texts give 1"),
        (lambda place: change_row(place, 0, hypothesis="one two", errors=0), "the summary has"),
        (lambda place: change_row(place, 0, domain="elsewhere"), "the summary has"),
        (lambda place: change_row(place, 1, name="radio/0"), "radio/0 stands 2 times under clean"),
        (lambda place: change_row(place, 1, condition="noise:5db"), "other conditions"),
        (lambda place: change_row(place, 1, unit="characters"), "unit is characters, its texts give words"),
        (lambda place: change_summary(place, lambda s: s["all"].update(wer=1.5)), "the summary has 1.5 as all.wer"),
        (lambda place: change_summary(place, lambda s: s["all"].update(failed=0)), "all.failed"),
        (lambda place: change_summary(place, lambda s: s["all"]["words"].update(hits=0)), "all.words"),
        (lambda place: change_summary(place, lambda s: s["by"]["domain"].pop("fado")), "by.domain"),
        (lambda place: change_summary(place, lambda s: s["by"].update(voice={})), "'voice'] as by, the rows give"),
        (lambda place: change_summary(place, lambda s: s["test"].update(utterances=9)), "the summary has 9"),
        (lambda place: change_summary(place, lambda s: s.update(normaliser="nonsense")), "unknown normaliser"),
    ],
)  # fmt: skip
def test_results_of_other_tools_are_counted_again(change, told: str, whole: Evaluation, tmp_path: Path) -> None:
    """Without a digest rows and summary must be each other's; then they are taken as they are."""
    made = shutil.copytree(whole.directory, tmp_path / "made")
    without_digest(made)
    assert read_evaluation(made).rows == whole.rows
    change(made)
    with pytest.raises(DataError, match=told):
        read_evaluation(made)


def test_an_interval_that_was_changed_is_seen(whole: Evaluation, tmp_path: Path) -> None:
    made = shutil.copytree(whole.directory, tmp_path / "made")
    change_summary(made, lambda s: s["all"]["interval"].update(high=12.5))
    with pytest.raises(DataError, match="changed since it was written"):
        read_evaluation(made)


@pytest.mark.parametrize("name", [SUMMARY, ROWS, PARQUET])
@pytest.mark.parametrize("kind", ["pipe", "folder", "itself", "nowhere", "gone"])
def test_what_is_no_file_is_told(name: str, kind: str, whole: Evaluation, tmp_path: Path, capsys) -> None:
    made = shutil.copytree(whole.directory, tmp_path / "made")
    (made / name).unlink(missing_ok=True)
    make: dict[str, Callable[[], object]] = {
        "pipe": lambda: os.mkfifo(made / name), "folder": (made / name).mkdir, "gone": lambda: None,
        "itself": lambda: (made / name).symlink_to(name), "nowhere": lambda: (made / name).symlink_to("nothing"),
    }  # fmt: skip
    make[kind]()
    code = run(["gate", str(made), "--max-wer", "100", "--max-failed", "9"])
    if (name, kind) == (PARQUET, "gone"):
        assert code == 0
    else:
        assert code == (2 if (name, kind) == (SUMMARY, "gone") else 4), "without a summary it is no evaluation"
        assert name in capsys.readouterr().err or kind == "gone"


def test_a_line_without_end_is_refused_by_its_length(whole: Evaluation, tmp_path: Path, monkeypatch, capsys) -> None:
    made = shutil.copytree(whole.directory, tmp_path / "made")
    with (made / ROWS).open("ab") as file:
        file.truncate(5_000_000)
    assert run(["gate", str(made), "--max-wer", "100"]) == 4
    assert "the limit of a line" in capsys.readouterr().err


@pytest.mark.parametrize("seed", range(12))
def test_damaged_parquet_is_refused(seed: int, whole: Evaluation, tmp_path: Path, capsys) -> None:
    rng = random.Random(seed)
    made = write_evaluation(tmp_path / "made", whole.summary, whole.rows, whole.scored, parquet=True).directory
    assert read_evaluation(made).rows == whole.rows
    data = (made / PARQUET).read_bytes()
    place = rng.randrange(len(data))
    (made / PARQUET).write_bytes(rng.choice([data[:place], b"", data + b"x", data[:-4] + b"PAR2"]))
    assert run(["gate", str(made), "--max-wer", "100", "--max-failed", "9"]) == 4
    assert PARQUET in capsys.readouterr().err


def test_a_line_separator_within_a_text_is_no_new_row(whole: Evaluation, tmp_path: Path) -> None:
    rows = [{**row, "hypothesis": "one\u2028two\u0085"} for row in whole.rows]
    made = counted(tmp_path, "m", rows, conditions=("clean", "telephone"))
    assert [row["hypothesis"] for row in read_evaluation(made.directory).rows] == ["one\u2028two\u0085"] * len(rows)
