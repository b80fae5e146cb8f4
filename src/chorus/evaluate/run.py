"""One evaluation: transcribe what is asked for, count it, write it; or read and count again what is there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from chorus._version import __version__
from chorus.checkpoints.open import Source
from chorus.errors import ChorusError, DataError, OutputError
from chorus.evaluate.checked import AGAIN
from chorus.evaluate.facts import DecodingFacts, Facts
from chorus.evaluate.results import PARQUET, SUMMARY, Evaluation, read_evaluation, write_evaluation
from chorus.evaluate.summary import summarise
from chorus.files import shown
from chorus.progress import Progress
from chorus.provenance import versions
from chorus.runtime import pick_device
from chorus.tasks.counts import Unit
from chorus.tasks.normalise import normaliser as named_normaliser
from chorus.tasks.registry import TASKS
from chorus.tasks.scored import Answer
from chorus.transcribe.backends.choose import chosen_backend
from chorus.transcribe.backends.protocol import Backend
from chorus.transcribe.conditions import CLEAN, check_condition
from chorus.transcribe.decoding import Decoding, check_language
from chorus.transcribe.partial import PARTIAL, Partial
from chorus.transcribe.request import FORMAT, Request
from chorus.transcribe.systems import System, folder_of, open_system
from chorus.transcribe.test_sets import TestSet, load_test_set
from chorus.transcribe.transcriber import Transcriber

NORMALISER = "marks"
PACKAGES = ("ctranslate2", "faster-whisper", "jiwer", "sacrebleu", "soundfile", "soxr", "whisper-normalizer")


@dataclass(frozen=True)
class Scoring:
    """How hypotheses are counted and written: `unit` None counts as each answer's language is written."""

    normaliser: str = NORMALISER
    unit: Unit | None = None
    parquet: bool = False


def evaluate(
    system: System | Source,
    data: TestSet | str | Path | Sequence[str | Path],
    out: str | Path | None = None,
    *,
    decoding: Decoding | None = None,
    conditions: Sequence[str] = (CLEAN,),
    normaliser: str = NORMALISER,
    unit: Unit | None = None,
    backend: str = "auto",
    device: str = "auto",
    overwrite: bool = False,
    parquet: bool = False,
    progress: Progress = lambda done, total: None,
) -> Evaluation:
    """Transcribe recordings with a system and write hypotheses and error rates into the directory `out`.

    `system` is whatever `chorus.open_model` takes (a directory, hub id, `base+adapter`, recipe, plan or model), or what
    `chorus.transcribe.systems.open_system` makes of it under a label. `unit` counts "words" or "characters" for all
    rows, else as each row's language is written. A killed evaluation, given again, goes on; a finished one is read, and
    counted again where only the normaliser, the domains or the speakers differ.

    Raises `DataError`, `CheckpointError`, `MissingExtraError`, `OutputError`; `ChorusError` where every decode fails.

    >>> chorus.evaluate("openai/whisper-small", "test.csv", "evaluations/small").summary["all"]  # doctest: +SKIP
    """
    # before a model is loaded: hours of decoding must not end in a misspelt flag
    named_normaliser(normaliser)
    decoding = decoding or Decoding()
    check_language(decoding.language)
    chosen = [check_condition(c) for c in dict.fromkeys(conditions)]
    device = pick_device(device)
    opened = system if isinstance(system, System) else open_system(system)
    if not isinstance(data, TestSet):
        data = load_test_set([data] if isinstance(data, str | Path) else data, task=decoding.task)
    request = Request(opened, data, decoding, chosen, chosen_backend(backend, opened), device)
    place = Path(out) if out is not None else Path("evaluations") / folder_of(opened.label)
    scoring = Scoring(normaliser, unit, parquet)
    done = None if overwrite else finished(place, request, scoring)
    found = done if done is not None else run_request(request, place, scoring, progress)
    refuse_all_failed(found)
    return found


def finished(place: Path, request: Request, scoring: Scoring) -> Evaluation | None:
    """What is there already of the same request, counted as is asked; `OutputError` where something else is there."""
    if not place.exists() or not any(place.iterdir()):
        return None
    if not (place / SUMMARY).exists():
        # unfinished: `Partial` itself looks whether it is of the same request
        if (place / PARTIAL).exists():
            return None
        raise OutputError(f"{place}: holds something else", "choose another directory, or --overwrite")
    found = read_evaluation(place)
    if found.summary["fingerprint"] != request.fingerprint:
        raise OutputError(
            f"{place}: another evaluation is there (of {found.label}, other settings or recordings)",
            "choose another directory, or --overwrite",
        )
    rows = as_labelled(found.rows, request.test)
    counted = found.normaliser == scoring.normaliser and found.summary["unit"] == scoring.unit
    written = not scoring.parquet or (place / PARQUET).exists()
    # hypotheses are kept as they were written: another normaliser, or domain, costs seconds, not hours
    return found if counted and written and rows == found.rows else count_answers(place, found.summary, rows, scoring)


def as_labelled(rows: Sequence[Answer], test: TestSet) -> list[Answer]:
    """Rows with the domain and speaker that the test set has now: no hypothesis depends on them, so that no
    fingerprint has them, but averages and clusters do."""
    now = {name: utterance.row for name, utterance in test.utterances.items()}
    strange = next((row["name"] for row in rows if row["name"] not in now), None)
    if strange is not None:  # a fingerprint says which recordings, but files may be changed
        raise DataError(f"{shown(strange)} is none of the recordings that were asked for", AGAIN)
    return [{**row, "domain": now[row["name"]].domain, "speaker": now[row["name"]].speaker} for row in rows]


def run_request(
    request: Request, place: Path, scoring: Scoring, progress: Progress, backend: Backend | None = None
) -> Evaluation:
    """Transcribe what is not there yet, then count. A `backend` that is given has loaded the system, and stays open."""
    partial = Partial(place, request.fingerprint)
    try:
        told = Transcriber(request, partial, backend).run(progress)
    finally:
        partial.close()
    rows = as_labelled([partial.rows[key] for key in request.keys], request.test)
    try:
        return count_answers(place, facts_of(request, rows, told), rows, scoring)
    except (ArithmeticError, LookupError, ValueError) as error:  # of jiwer, sacrebleu, or another package's task
        raise ChorusError(
            f"{place}: all is decoded, and could not be counted ({type(error).__name__}: {error})",
            f"what was decoded is kept ({PARTIAL}): the same command counts it again, and --debug shows where it fails",
        ) from error


def refuse_all_failed(found: Evaluation) -> None:
    """`ChorusError` where every decode failed; the results are written all the same, with the reasons in the rows."""
    reason = why_all_failed(found)
    if reason:
        raise ChorusError(f"{found.label}: every decode failed: {reason}", f"see {found.directory}")


def why_all_failed(found: Evaluation) -> str:
    """Why the first decode failed, where all did; else empty."""
    reasons = [row.get("failed", "") for row in found.rows]
    return reasons[0] if reasons and all(reasons) else ""


def count_answers(place: Path, facts: Facts, rows: Sequence[Answer], scoring: Scoring) -> Evaluation:
    """Normalise and align the rows, once, and write them with their summary."""
    task = TASKS.get(facts["decoding"]["task"])
    scored = task.score(rows, scoring.normaliser, scoring.unit)
    summary = summarise(facts, rows, scored, task, scoring.normaliser, scoring.unit)
    return write_evaluation(place, summary, rows, scored, parquet=scoring.parquet)


def facts_of(request: Request, rows: Sequence[Answer], told: dict[str, str]) -> Facts:
    """What the evaluation is of; takes the time that decoding took out of the rows."""
    # out of the rows: the same request gives the same results.jsonl, however fast the machine is
    took_s = sum(row.pop("took_s", 0.0) for row in rows)
    seconds = sum(row["seconds"] for row in rows)
    system, test = request.system, request.test
    return {
        "format": FORMAT,
        "kind": "evaluation",
        "chorus": __version__,
        "fingerprint": request.fingerprint,
        "system": {
            "label": system.label, "kind": system.kind, "identity": system.identity, "role": system.role,
            "home": system.home, "parameters": system.parameters, "trained_on": system.trained_on,
        },
        "backend": request.backend,
        # not its number, which says where and not what
        "device": request.device.split(":")[0],
        "decoding": cast(DecodingFacts, request.decoding.model_dump(mode="json")),
        "versions": {**versions(PACKAGES), **told},
        "test": {
            "fingerprint": test.fingerprint, "utterances": len(test.utterances), "hours": round(test.hours, 4),
            "left_out": {reason: len(names) for reason, names in test.left_out.items()},
        },
        "conditions": list(request.conditions),
        "timing": {
            "decode_s": round(took_s, 3), "audio_s": round(seconds, 3),
            "real_time_factor": round(took_s / seconds, 5) if seconds else None,
        },
    }  # fmt: skip
