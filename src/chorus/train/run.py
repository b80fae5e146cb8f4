"""One training: rows, model, adapter, Trainer, result; killed and given again, it goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import random
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chorus.errors import ChorusError, DataError, MissingExtraError, OutputError
from chorus.train.config import TrainConfig

Note = Callable[[str], None]


@dataclass(frozen=True)
class Trained:
    """What a training made."""

    directory: Path
    steps: int
    best_step: int
    metric: str
    best: float | None
    before: float | None
    waited_share: float = 0.0  # of the time in the loop, spent waiting for data
    merged: Path | None = None
    reused: bool = False
    left_out: dict[str, int] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        found = {**vars(self), "directory": str(self.directory)}
        return {**found, "merged": str(self.merged) if self.merged else None}


def train(
    config: TrainConfig,
    *,
    skip_bad: bool = False,
    allow_leakage: bool = False,
    restart: bool = False,
    overwrite: bool = False,
    quiet: bool = True,
    label: str = "training",
    note: Note = lambda text: None,
) -> Trained:
    """Fine-tune as configured and write the result's directory.

    The same call after a kill goes on from the last whole checkpoint and ends with the same losses; after a
    finished training it returns what is there. Raises `DataError`, `RecipeError`, `CheckpointError`, `OutputError`.
    """
    _need_extra()
    from chorus.train.backbones.choose import hears_audio, load_backbone
    from chorus.train.processes import is_main
    from chorus.train.rows import gather

    if not is_main():
        quiet, note = True, _silent
    with _quiet_libraries():
        device = pick_device(config.device)
        seed_everything(config.seed)
        needs_audio = hears_audio(config)
        if not needs_audio and config.task != "lm":
            raise DataError(f"{config.model.base} is a language model and hears nothing", "set task=lm")
        rows = gather(config, longest_s=None, needs_audio=needs_audio, skip_bad=skip_bad, allow_leakage=allow_leakage)
        mark = fingerprint(config, rows.hashes)
        done = _finished(Path(config.output_dir), mark, overwrite=overwrite or restart)
        if done is not None:
            note(f"{done.directory} is there already, made with the same settings from the same data")
            return done
        backbone = load_backbone(config, device, texts=[u.row.text for u in rows.train])
        _keep_what_fits(rows, backbone, config, skip_bad=skip_bad)
        for reason, names in rows.left_out.items():
            note(f"left out: {len(names)} {reason}")
        _warn(config, backbone, note)
        return _fit(
            config,
            rows,
            backbone,
            device,
            mark,
            restart=restart,
            overwrite=overwrite,
            quiet=quiet,
            label=label,
            note=note,
        )


def _silent(text: str) -> None:
    """What the other processes have to say."""


def _need_extra() -> None:
    try:
        import accelerate  # noqa: F401
        import jiwer  # noqa: F401
        import soundfile  # noqa: F401
    except (ImportError, OSError):
        raise MissingExtraError("train", "training") from None


def pick_device(asked: str) -> str:
    """The device that is asked for, or the best that is there."""
    import torch

    if asked == "auto":
        if torch.cuda.is_available():
            return "cuda"
        if hasattr(torch, "xpu") and torch.xpu.is_available():
            return "xpu"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    there: dict[str, Callable[[], bool]] = {
        "cuda": torch.cuda.is_available,
        "xpu": lambda: hasattr(torch, "xpu") and torch.xpu.is_available(),
        "mps": torch.backends.mps.is_available,
        "cpu": lambda: True,
    }
    if not there[asked.split(":")[0]]():
        raise ChorusError(f"device {asked}: not there", "chorus doctor lists the devices; --device auto takes the best")
    return asked


def seed_everything(seed: int) -> None:
    """Python's, numpy's and torch's own generators, which libraries below draw from."""
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def fingerprint(config: TrainConfig, hashes: dict[str, str]) -> str:
    """What decides the result: settings and data, not where it is written or on what it runs."""
    settings = config.model_dump(mode="json", exclude={"output", "logs", "device", "name"})
    for key in ("workers", "report_to", "keep_checkpoints", "log_steps"):
        settings["train"].pop(key)
    text = json.dumps([settings, hashes], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _finished(directory: Path, mark: str, *, overwrite: bool) -> Trained | None:
    """A finished training with the same fingerprint; `OutputError` where something else is in the way."""
    if overwrite or not directory.exists() or not any(directory.iterdir()):
        return None
    path = directory / "chorus.json"
    facts = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if facts.get("fingerprint") != mark:
        raise OutputError(
            f"{directory}: holds something else, or a training with other settings or data",
            "choose another output or name, or pass --overwrite",
        )
    metric = f"dev_{facts['metric']}"
    before = _before(facts["curve"].get(metric))
    return Trained(directory, facts["steps"], facts["best_step"], facts["metric"], facts["best"], before, reused=True)


def _before(points: Sequence[Sequence[float]] | None) -> float | None:
    return points[0][1] if points and points[0][0] == 0 else None


def _keep_what_fits(rows: Any, backbone: Any, config: TrainConfig, *, skip_bad: bool) -> None:
    """Texts that the model cannot write and languages that it does not know; audio that it cannot hear whole."""
    from chorus.train.rows import SHOWN

    for name in ("train", "dev"):
        utterances = getattr(rows, name)
        by_row = {id(u.row): u for u in utterances}
        bad: dict[str, list[str]] = {}
        dropped: set[int] = set()
        for row, kind, detail in backbone.limits.problems([u.row for u in utterances]) if utterances else ():
            bad.setdefault(kind, []).append(f"{row}: {detail}")
            dropped.add(id(row))
        if bad and not skip_bad:
            told = "; ".join(f"{len(n)} {kind}: {', '.join(n[:SHOWN])}" for kind, n in bad.items())
            raise DataError(told, "mend the texts, or leave these rows out with --skip-bad")
        kept = []
        for key, utterance in by_row.items():
            longest = backbone.longest_s if backbone.needs_audio else None
            if key in dropped:
                continue
            if longest is not None and utterance.duration_s > longest + 0.01:
                rows.left_out.setdefault(f"longer than {longest:g} s", []).append(str(utterance.row))
            else:
                kept.append(utterance)
        for kind, names in bad.items():
            rows.left_out.setdefault(kind, []).extend(names)
        setattr(rows, name, kept)
        prefix = getattr(backbone, "prefix", None)
        if prefix:
            for utterance in kept:
                prefix(utterance.row)  # a row without a language is found before the model is trained
    if not rows.train and rows.stream is None:
        raise DataError("no training rows are left", "; ".join(f"{len(n)} {r}" for r, n in rows.left_out.items()))


def _warn(config: TrainConfig, backbone: Any, note: Note) -> None:
    if type(backbone).__name__ == "Whisper":
        share = config.data.timestamps
        if share in (0.0, 1.0):
            kind = "without" if share == 0 else "with"
            note(
                f"WARNING: every target is {kind} timestamps (data.timestamps: {share:g}). A Whisper that is taught "
                f"only one way breaks in the other: whisper.cpp and faster-whisper ask for timestamps by default."
            )


def _fit(
    config: TrainConfig, rows: Any, backbone: Any, device: str, mark: str, *, restart: bool, overwrite: bool,
    quiet: bool, label: str, note: Note,
) -> Trained:  # fmt: skip
    from chorus.checkpoints.sidecar import write_json
    from chorus.train import adapters, outputs, processes, trainer
    from chorus.train.examples import StreamedSet, TrainingSet
    from chorus.train.progress import Progress, curve

    logs = Path(config.logs_dir)
    with processes.main_first(device):
        resumed = _resume_point(logs, mark, restart=restart)
    if resumed:
        note(f"going on from {resumed}")
    adapters.freeze_unlearned(backbone.model)
    if config.model.freeze:
        adapters.freeze(backbone.model, config.model.freeze)
    model = backbone.model
    if config.train.gradient_checkpointing:
        model.config.use_cache = False
    if config.adapter is not None or config.model.adapter:
        model = adapters.attach(
            model, config, backbone, logs=logs, resumed=resumed, note=note,
            batches=lambda: _eva_batches(backbone, rows.train, config, device),
            forward=lambda wrapped, inputs: _forward(backbone, wrapped, inputs),
        )  # fmt: skip
        if config.train.gradient_checkpointing:
            model.enable_input_require_grads()
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    total = sum(p.numel() for p in model.parameters())
    if not trainable:
        raise ChorusError("nothing is left to learn", "model.freeze freezes everything")
    note(
        f"{len(rows.train)} rows, {rows.hours:.2f} h; dev {len(rows.dev)} rows; "
        f"{trainable:,} of {total:,} parameters learn on {device}"
    )
    streamed = rows.stream is not None
    if streamed and not config.train.steps:
        raise DataError("a streamed dataset has no length", "give train.steps")
    dev = rows.dev[: config.dev.limit] if config.dev.limit else rows.dev
    if not dev:
        note("WARNING: no dev rows: the last checkpoint is kept, not the best (data.dev, or a column split)")
    bar = Progress(label, hours_per_epoch=rows.hours, metric=config.metric, quiet=quiet)
    made = trainer.SpeechTrainer(
        backbone, config, dev, [str(u.row) for u in rows.train],
        model=model,
        args=trainer.arguments(config, logs, device, measured=bool(dev), streamed=streamed),
        train_dataset=StreamedSet(rows.stream, backbone, config.augment, config.seed, backbone.longest_s) if streamed
        else TrainingSet(rows.train, backbone, config.augment, config.seed),
        eval_dataset=dev or None,
        data_collator=backbone.collate,
        callbacks=trainer.callbacks(config, [bar]) if dev else [bar],
    )  # fmt: skip
    made.fingerprint = mark
    for name in ("PrinterCallback", "ProgressCallback"):
        made.callback_handler.callbacks = [c for c in made.callback_handler.callbacks if type(c).__name__ != name]
    start = _start_measure(made, logs, measured=bool(dev), resumed=resumed is not None)
    try:
        result = made.train(resume_from_checkpoint=str(resumed) if resumed else None)
    finally:
        bar.close()
    points = curve([*start, *made.state.log_history], config.metric)
    facts = outputs.provenance(config, rows, curve=points, state=made.state, trainable=trainable, parameters=total)
    facts["fingerprint"] = mark
    loop_s = float(result.metrics.get("train_runtime", 0.0))
    if made.args.should_save:
        model = made.accelerator.unwrap_model(made.model)
        outputs.save_result(model, backbone, config, facts, overwrite=overwrite or restart, logs=logs)
        _tidy(logs)
        write_json(logs / "log.json", {"history": made.state.log_history, "waited_s": made.waited_s, "loop_s": loop_s})
    made.accelerator.wait_for_everyone()
    return Trained(
        directory=Path(config.output_dir),
        steps=facts["steps"],
        best_step=facts["best_step"],
        metric=config.metric,
        best=facts["best"],
        before=_before(points.get(f"dev_{config.metric}")),
        waited_share=made.waited_s / loop_s if loop_s else 0.0,
        merged=outputs.merged_dir(Path(config.output_dir)) if config.adapter and config.adapter.merge else None,
        left_out=facts["data"]["left_out"],
    )


def _start_measure(made: Any, logs: Path, *, measured: bool, resumed: bool) -> list[dict[str, Any]]:
    """Step 0 of the curve: measured once, kept for when the training is resumed."""
    path = logs / "start.json"
    if resumed and path.exists():
        found: list[dict[str, Any]] = json.loads(path.read_text())
        return found
    if not measured or resumed:
        return []
    metrics = made.evaluate()
    if made.args.should_save:
        logs.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps([{"step": 0, **metrics}]))
    return [{"step": 0, **metrics}]


def _resume_point(logs: Path, mark: str, *, restart: bool) -> Path | None:
    """The last whole checkpoint of the same training; `OutputError` where it belongs to another."""
    from chorus.train.processes import is_main
    from chorus.train.trainer import WHOLE, drop_broken, last_whole

    main = is_main()
    if restart and main:
        shutil.rmtree(logs, ignore_errors=True)
    if main:
        drop_broken(logs)
    last = last_whole(logs)
    if last is None and main:
        shutil.rmtree(logs / "initial-adapter", ignore_errors=True)
        (logs / "start.json").unlink(missing_ok=True)
    if last is None:
        return None
    if json.loads((last / WHOLE).read_text())["fingerprint"] != mark:
        raise OutputError(
            f"{logs}: the checkpoints there belong to a training with other settings or data",
            "choose another logs or name, or pass --restart to begin again",
        )
    return last


def _eva_batches(backbone: Any, utterances: Sequence[Any], config: TrainConfig, device: str) -> Iterator[Any]:
    """Batches as the model takes them, for the start of EVA: every time the same."""
    from chorus.train.examples import stream

    assert config.adapter is not None
    size = config.train.batch_size
    order = stream(config.seed, -1 % 2**32, 0).permutation(len(utterances))[: size * config.adapter.eva_batches]
    found = []
    for start in range(0, len(order), size):
        examples = [backbone.example(utterances[int(i)], None, config.augment) for i in order[start : start + size]]
        batch = backbone.collate(examples)
        batch.pop("rows")
        found.append({k: v.to(device) for k, v in batch.items()})
    return found  # type: ignore[return-value]


def _forward(backbone: Any, model: Any, inputs: Any) -> Any:
    with backbone.window(model, inputs):
        return model(**inputs)


def _tidy(logs: Path) -> None:
    """The checkpoints of a finished training are no longer needed."""
    for path in [*logs.glob("checkpoint-*"), logs / "initial-adapter"]:
        shutil.rmtree(path, ignore_errors=True)
    (logs / "start.json").unlink(missing_ok=True)


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """transformers, datasets and PEFT tell their own users much; ours get what concerns them."""
    from transformers.utils import logging as transformers_logging

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            transformers_logging.set_verbosity(level)
    logging.captureWarnings(False)
    sys.stderr.flush()
