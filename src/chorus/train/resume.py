"""Which training this is, whether it is finished, and from where it goes on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, cast

from chorus.errors import OutputError
from chorus.files import MAX_CONFIG, MAX_INDEX, parse_json, present, read_json, read_text
from chorus.identity import file_hash, fingerprint
from chorus.models.loading import Origin, directory_of
from chorus.train.adapters import INITIAL
from chorus.train.checkpoints import drop_broken, facts_of, last_whole
from chorus.train.config import TrainConfig
from chorus.train.facts import Logged, TrainingFacts
from chorus.train.processes import is_main
from chorus.train.rows import shown

if TYPE_CHECKING:
    from chorus.train.trainer import SpeechTrainer

START = "start.json"  # what was measured before the first step
UNIMPORTANT = ("workers", "report_to", "keep_checkpoints", "log_steps")  # they do not change the result


def identity(name: str, revision: str | None = None) -> dict[str, str]:
    """What a base or adapter is: the hub's commit, or the hashes of its weight files."""
    directory, commit = directory_of(Origin(name, revision))
    if commit is not None:
        return {"commit": commit}
    return {path.name: file_hash(path) for path in sorted(directory.glob("*.safetensors"))}


def training_fingerprint(config: TrainConfig, *identities: dict[str, str]) -> str:
    """What decides the result: settings, manifests and base, not where it is written or on what it runs."""
    # where and on what a training runs may change between a kill and the next try
    settings = config.model_dump(mode="json", exclude={"output", "logs", "device", "name"})
    for key in UNIMPORTANT:
        settings["train"].pop(key)
    return fingerprint(settings=settings, inputs=identities)


def finished(directory: Path, wanted: str, *, overwrite: bool) -> TrainingFacts | None:
    """The facts of a finished training with the wanted fingerprint; `OutputError` where something else is there."""
    inside = sorted(path.parent.name for path in directory.glob("*/chorus.json"))
    if inside:  # those of a campaign of the same name; replacing this folder would take them away
        raise OutputError(f"{directory}: holds other results ({shown(inside)})", "choose another output or name")
    if overwrite or not directory.exists() or not any(directory.iterdir()):
        return None
    path = directory / "chorus.json"
    found = read_json(path, limit=MAX_INDEX, raises=OutputError, what="result") if present(path) else None
    facts = cast("TrainingFacts | None", found)
    if facts is None or facts.get("fingerprint") != wanted:
        raise OutputError(
            f"{directory}: holds something else, or a training with other settings or data",
            "choose another output or name, or pass --overwrite",
        )
    return facts


def start_measure(trainer: SpeechTrainer, logs: Path, *, measured: bool, resumed: bool) -> list[Logged]:
    """Step 0 of the curve: measured once, kept for when the training is resumed."""
    path = logs / START
    if resumed and present(path):
        found = parse_json(read_text(path, MAX_CONFIG, raises=OutputError), path, raises=OutputError)
        if isinstance(found, list) and all(isinstance(one, dict) and one.get("step") == 0 for one in found):
            return cast("list[Logged]", found)
        raise OutputError(f"{path}: not as it was written", "pass --restart to begin the training again")
    if not measured or resumed or not trainer.plain:  # sharded models are put together when the training begins
        return []
    metrics = trainer.evaluate()
    if trainer.args.should_save:
        logs.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps([{"step": 0, **metrics}]))
    return [{"step": 0, **metrics}]


def resume_point(logs: Path, wanted: str, *, restart: bool) -> Path | None:
    """The last whole checkpoint of the same training; `OutputError` where it belongs to another."""
    main = is_main()
    if restart and main:
        tidy(logs)
    if main:
        drop_broken(logs)
    last = last_whole(logs)
    if last is None and main:
        shutil.rmtree(logs / INITIAL, ignore_errors=True)
        (logs / START).unlink(missing_ok=True)
    if last is None:
        return None
    facts = facts_of(last)
    if facts is None or facts["fingerprint"] != wanted:
        raise OutputError(
            f"{logs}: the checkpoints there belong to a training with other settings or data",
            "choose another logs or name, or pass --restart to begin again",
        )
    return last


def tidy(logs: Path) -> None:
    """Take away what a training keeps for its resuming, and nothing else: other trainings may log below."""
    for path in [*logs.glob("checkpoint-*"), logs / INITIAL]:
        shutil.rmtree(path, ignore_errors=True)
    (logs / START).unlink(missing_ok=True)
