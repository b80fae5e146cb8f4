"""An evaluation given again: what is refreshed, counted anew or written otherwise, without decoding."""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from chorus.data.audio import write_flac
from chorus.data.manifest import Row
from chorus.errors import DataError, MissingExtraError, UsageError
from chorus.evaluate.results import PARQUET, ROWS, SUMMARY, read_evaluation, write_evaluation
from chorus.evaluate.run import Scoring, evaluate, finished, run_request
from chorus.tasks.scored import MIN_CLUSTERS
from chorus.transcribe.backends.protocol import Hypothesis, Sound
from chorus.transcribe.partial import PARTIAL, Partial
from chorus.transcribe.request import Request
from chorus.transcribe.systems import System
from chorus.transcribe.test_sets import TestSet, of_rows
from sounds import tone

SYSTEM = System("echo", "model", Path(), "identity")


class Echo:
    """A backend that answers with the reference, without its last word for a language that it does not know."""

    longest_s, long_form = 30.0, False
    facts: dict[str, str] = {}  # noqa: RUF012 (a protocol's, which nobody changes)

    def __init__(self) -> None:
        self.decoded = 0

    def sort_key(self, seconds: float) -> tuple[float, float]:
        return (0.0, -seconds)

    def check(self, rows: Sequence[Row]) -> None:
        pass

    def transcribe(self, sounds: Sequence[Sound]) -> list[Hypothesis]:
        self.decoded += len(sounds)
        return [Hypothesis(s.row.text if s.row.language == "en" else s.row.text[:-2]) for s in sounds]

    def replace(self, tensors: object) -> None:
        raise NotImplementedError

    def close(self) -> None:
        pass


def spoken(place: Path, domains: Sequence[str], speakers: Sequence[str]) -> TestSet:
    """A recording for each domain; every second is of a language that Echo does not know."""
    rows = []
    for i, (domain, speaker) in enumerate(zip(domains, speakers, strict=True)):
        if not (place / f"{i}.flac").exists():
            write_flac(place / f"{i}.flac", tone(0.2, seed=i))
        language = "en" if i % 2 == 0 else "pt"
        rows.append(Row(f"{i}.flac", f"text {i}", language, domain=domain, speaker=speaker, root=place))
    return of_rows(rows)


def evaluated(request: Request, place: Path, scoring: Scoring | None = None) -> Echo:
    backend = Echo()
    run_request(request, place, scoring or Scoring(), lambda done, total: None, backend)
    return backend


def test_corrected_domains_and_speakers_are_counted_anew_and_nothing_is_decoded(tmp_path: Path) -> None:
    count = MIN_CLUSTERS
    asked = Request(SYSTEM, spoken(tmp_path, ["old"] * count, ["ana"] * count))
    out = tmp_path / "out"
    evaluated(asked, out)
    before = read_evaluation(out)
    assert set(before.summary["by"]["domain"]) == {"old"}
    assert before.summary["all"]["interval"]["by"] == "utterance"
    domains, speakers = ["near" if i % 2 == 0 else "far" for i in range(count)], [f"s{i}" for i in range(count)]
    corrected = replace(asked, test=spoken(tmp_path, domains, speakers))
    found = finished(out, corrected, Scoring())
    assert found is not None
    assert found.summary == read_evaluation(out).summary
    by = found.summary["by"]["domain"]
    assert {name: measured["wer"] for name, measured in by.items()} == {"near": 0.0, "far": 50.0}
    assert found.summary["macro"]["domain"]["error_rate"] == 25.0
    assert found.summary["all"]["interval"]["by"] == "speaker"
    assert [(r["domain"], r["speaker"]) for r in read_evaluation(out).rows] == list(zip(domains, speakers, strict=True))
    assert [r["hypothesis"] for r in found.rows] == [r["hypothesis"] for r in before.rows]
    written = (out / ROWS).stat().st_mtime_ns
    assert finished(out, corrected, Scoring()) is not None
    assert (out / ROWS).stat().st_mtime_ns == written, "what has not changed is read"


def test_rows_of_other_recordings_under_the_same_fingerprint_are_refused(tmp_path: Path) -> None:
    asked = Request(SYSTEM, spoken(tmp_path, ["a", "b"], ["ana", "bea"]))
    evaluated(asked, tmp_path / "out")
    found = read_evaluation(tmp_path / "out")
    write_evaluation(
        tmp_path / "out", found.summary, [{**r, "name": f"x{r['name']}"} for r in found.rows], found.scored
    )
    with pytest.raises(DataError, match=r"x0\.flac is none of the recordings"):
        finished(tmp_path / "out", asked, Scoring())


def test_what_was_decoded_before_a_kill_gets_the_domain_of_now(tmp_path: Path) -> None:
    asked = Request(SYSTEM, spoken(tmp_path, ["old", "old"], ["ana", "ana"]))
    partial = Partial(tmp_path / "out", asked.fingerprint)
    partial.add([{
        "name": "0.flac", "condition": "clean", "reference": "text 0", "hypothesis": "text 0", "seconds": 0.2,
        "language": "en", "domain": "old", "speaker": "ana",
    }])  # fmt: skip
    partial.close()
    backend = evaluated(replace(asked, test=spoken(tmp_path, ["new", "new"], ["ana", "ana"])), tmp_path / "out")
    assert backend.decoded == 1
    assert {r["domain"] for r in read_evaluation(tmp_path / "out").rows} == {"new"}


def test_a_finished_evaluation_is_written_as_parquet_when_that_is_asked(tmp_path: Path) -> None:
    asked = Request(SYSTEM, spoken(tmp_path, ["a", "b"], ["ana", "bea"]))
    out = tmp_path / "out"
    evaluated(asked, out)
    before = read_evaluation(out)
    found = finished(out, asked, Scoring(parquet=True))
    assert found is not None
    assert (out / PARQUET).exists()
    assert not (out / ROWS).exists()
    assert read_evaluation(out).rows == before.rows
    assert found.summary == before.summary
    written = (out / PARQUET).stat().st_mtime_ns
    finished(out, asked, Scoring(parquet=True))
    assert (out / PARQUET).stat().st_mtime_ns == written, "written once"


def test_without_pyarrow_the_rows_that_are_there_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Request(SYSTEM, spoken(tmp_path, ["a", "b"], ["ana", "bea"]))
    evaluated(asked, tmp_path / "out")
    theirs = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return theirs(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r"results\.parquet"):
        finished(tmp_path / "out", asked, Scoring(parquet=True))
    assert (tmp_path / "out" / SUMMARY).exists()
    assert len(read_evaluation(tmp_path / "out").rows) == 2


def test_an_unknown_backend_leaves_nothing_behind(tmp_path: Path) -> None:
    test = spoken(tmp_path, ["a"], ["ana"])
    with pytest.raises(UsageError, match=r'unknown backend "transformer".*did you mean "transformers"'):
        evaluate(SYSTEM, test, tmp_path / "out", backend="transformer", device="cpu")
    assert not (tmp_path / "out" / PARTIAL).exists()
    assert not (tmp_path / "out").exists()
