"""From hypotheses to measures: error rates with intervals, what is hallucinated, what failed, by any column."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from chorus.evaluate.bootstrap import Interval, clusters_of, interval, macro_interval
from chorus.tasks.counts import total
from chorus.tasks.scored import Scored

COLUMNS = ("domain", "language", "speaker")


def unit_of(rows: Sequence[Scored]) -> str:
    """What an error rate over these rows counts."""
    units = {row.unit for row in rows}
    return "words" if units <= {"words"} else "characters" if units == {"characters"} else "mixed"


def error_rate(rows: Sequence[Scored]) -> float:
    """Pooled (micro) error rate in percent, in each row's own unit."""
    return total(row.counts for row in rows).error_rate


def arrays(rows: Sequence[Scored]) -> tuple[Any, Any]:
    """Errors and lengths [utterances], in each row's own unit."""
    errors = np.array([row.counts.errors for row in rows], np.float64)
    return errors, np.array([row.counts.length for row in rows], np.float64)


def interval_of(rows: Sequence[Scored], seed: int = 0) -> Interval:
    """The 95 % interval of the pooled error rate."""
    clusters, by = clustered(rows)
    return interval(*arrays(rows), clusters, by=by, seed=seed)


def clustered(rows: Sequence[Scored]) -> tuple[Any, str]:
    """(the cluster of each row, what a cluster is): see `clusters_of`."""
    return clusters_of([row.speaker for row in rows], [row.utterance for row in rows])


def macro(parts: Mapping[str, Sequence[Scored]], seed: int = 0) -> tuple[float, Interval]:
    """The unweighted mean of parts' error rates, of those that have a reference, and its interval."""
    groups = [rows for rows in parts.values() if total(r.counts for r in rows).length]
    if not groups:
        return float("nan"), Interval(float("nan"), float("nan"), "utterance", 0)
    every, kind = [], "speaker"
    for rows in groups:
        clusters, by = clustered(rows)
        kind = "utterance" if by == "utterance" else kind
        every.append((*arrays(rows), clusters))
    return float(np.mean([error_rate(rows) for rows in groups])), macro_interval(every, by=kind, seed=seed)


def measures(rows: Sequence[Scored]) -> dict[str, Any]:
    """Everything that is told of a set of rows; rates in percent, None where they are not defined."""
    words, characters = total(r.words for r in rows), total(r.characters for r in rows)
    silent = [r for r in rows if not r.reference]
    spoken = [r for r in rows if r.reference]
    ratio = sum(len(r.hypothesis) for r in spoken) / max(1, sum(len(r.reference) for r in spoken))
    heard_in_silence = sum(r.words.insertions for r in silent)
    minutes = sum(r.seconds for r in silent) / 60
    return {
        "utterances": len(rows),
        "seconds": round(sum(r.seconds for r in rows), 3),
        "failed": sum(bool(r.failed) for r in rows),
        "empty_references": len(silent),
        "unit": unit_of(rows),
        "error_rate": known(error_rate(rows)),
        "interval": {k: known(v) if isinstance(v, float) else v for k, v in interval_of(rows).as_dict().items()},
        "wer": known(words.error_rate),
        "cer": known(characters.error_rate),
        "mer": known(words.match_error_rate),
        "wil": known(words.information_lost),
        "words": vars(words),
        "characters": vars(characters),
        "hallucination": {
            "looping_percent": 100 * sum(r.loops for r in rows) / max(1, len(rows)),
            "words_in_silence": heard_in_silence,
            "words_per_silent_minute": heard_in_silence / minutes if minutes else None,
            "length_ratio": ratio if spoken else None,
        },
    }


def known(value: float) -> float | None:
    """None for NaN, which JSON does not have."""
    return None if math.isnan(value) or math.isinf(value) else value


def by_column(rows: Sequence[Scored], column: str) -> dict[str, list[Scored]]:
    """Rows by a column's value, in the order of first appearance."""
    found: dict[str, list[Scored]] = {}
    for row in rows:
        found.setdefault(getattr(row, column), []).append(row)
    return found


def translation(rows: Sequence[Scored], draws: int = 1000) -> dict[str, Any]:
    """BLEU and chrF of the raw texts by sacrebleu, with its signatures and its own bootstrap over utterances."""
    from chorus.errors import MissingExtraError

    try:
        from sacrebleu.metrics import BLEU, CHRF
    except ImportError:
        raise MissingExtraError("evaluate", "BLEU and chrF") from None
    heard, references = [r.raw_hypothesis for r in rows], [[r.raw_reference for r in rows]]
    found = {}
    for name, metric in (("bleu", BLEU()), ("chrf", CHRF())):
        told: dict[str, Any] = {"score": type(metric)().corpus_score(heard, references).score}
        if len(rows) > 1:
            drawn = metric.corpus_score(heard, references, n_bootstrap=draws)
            facts = json.loads(drawn.format(is_json=True, width=4, signature=str(metric.get_signature())))
            # sacrebleu leaves both out where every draw scores zero
            told |= {"mean": facts.get("confidence_mean", 0.0), "plus_minus": facts.get("confidence_var", 0.0)}
        found[name] = {**told, "signature": str(metric.get_signature())}
    return found
