"""An evaluation's results as a model's card on the hub has them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from chorus.checkpoints.model import Model
from chorus.errors import MisfitError
from chorus.evaluate.facts import Measures
from chorus.evaluate.results import Evaluation, read_evaluation
from chorus.models.kind import SPEECH_TO_TEXT
from chorus.transcribe.conditions import CLEAN

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

UNITS = {"words": ("wer", "WER"), "characters": ("cer", "CER"), "mixed": ("error_rate", "error rate")}


def results_of(directory: str | Path, model: Model) -> list[EvalResult]:
    """The results of one evaluation of this very model, for `ExportOptions.measured`.

    Raises `MisfitError` where they are another model's: a card must not tell of others' rates.
    """
    found = read_evaluation(directory)
    if found.summary["system"]["identity"] != model.fingerprint():
        raise MisfitError(
            f"{directory}: results of {found.label}, which is not {model.label} as it is now",
            f"chorus evaluate {model.label} --data ... gives its own",
        )
    return entries_of(found)


def entries_of(found: Evaluation) -> list[EvalResult]:
    """The error rate of every condition, by domain where there are several, and the task's own metrics."""
    summary = found.summary
    rates = [(name, "", measured) for name, measured in summary["conditions_measured"].items()]
    domains = summary["by"].get("domain", {})
    main = CLEAN if CLEAN in summary["conditions_measured"] else summary["conditions"][0]
    rates += [(main, name, measured) for name, measured in domains.items() if len(domains) > 1]
    entries = [_rate(found, condition, domain, measured) for condition, domain, measured in rates]
    for condition, metrics in summary["metrics"].items():
        for name, facts in metrics.items():
            if facts["value"] is not None:
                entries.append(_entry(found, condition, "", name, facts["title"], facts["value"], facts["signature"]))
    return [entry for entry in entries if entry.metric_value is not None]


def _rate(found: Evaluation, condition: str, domain: str, measured: Measures) -> EvalResult:
    kind, title = UNITS[measured["unit"]]
    return _entry(found, condition, domain, kind, title, measured["error_rate"], f"normaliser: {found.normaliser}")


def _entry(
    found: Evaluation, condition: str, domain: str, metric: str, title: str, value: float | None, how: str
) -> EvalResult:
    from huggingface_hub import EvalResult

    test = found.summary["test"]
    heard = "" if condition == CLEAN else f", {condition}"
    # the manifest is nobody's name: how much it is, and its fingerprint, tell it from others
    name = f"{test['utterances']:,} recordings, {test['hours']:.2f} h{heard}{f', {domain}' if domain else ''}"
    return EvalResult(
        task_type=SPEECH_TO_TEXT,
        task_name={"asr": "speech recognition", "st": "speech translation"}.get(found.task.name, found.task.name),
        dataset_type="audio",
        dataset_name=name,
        dataset_args={"fingerprint": test["fingerprint"]},
        metric_type=metric,
        metric_name=f"{title} ({how})",
        metric_value=None if value is None else round(value, 2),
    )
