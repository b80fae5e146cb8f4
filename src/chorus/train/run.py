"""One training: rows, model, adapter, Trainer, result; killed and given again, it goes on where it stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from chorus.errors import ChorusError, DataError
from chorus.runtime import claim_device, quiet_libraries, seed_everything
from chorus.train.config import LANGUAGE_MODELLING, TrainConfig
from chorus.train.environment import need_extra, need_optimizer, need_reporters
from chorus.train.facts import Identity, Trained, TrainingFacts

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from transformers.utils import ModelOutput

    from chorus.models.batches import Batch
    from chorus.train.backbones.protocol import Backbone
    from chorus.train.progress import Progress
    from chorus.train.rows import TrainingRows
    from chorus.train.trainer import SpeechTrainer

Note = Callable[[str], None]


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
    need_extra()
    need_reporters(config.train.report_to)
    from chorus.checkpoints.output_place import refuse_input
    from chorus.data.manifest import spread
    from chorus.train.backbones.choose import load_backbone, takes_audio
    from chorus.train.fitness import keep_what_fits
    from chorus.train.measure import with_metric
    from chorus.train.outputs import merged_dir
    from chorus.train.processes import is_main
    from chorus.train.resume import finished, identity, training_fingerprint
    from chorus.train.rows import decodable, gather

    written = Path(config.output_dir)
    for place in (written, *([merged_dir(written)] if config.adapter and config.adapter.merge else [])):
        refuse_input(place, config.places)
    if not is_main():
        quiet, note = True, _silent
    with quiet_libraries():
        need_optimizer(config.train.optimizer)
        device = claim_device(config.device)
        seed_everything(config.seed)
        needs_audio = takes_audio(config)
        if not needs_audio and config.task != LANGUAGE_MODELLING:
            raise DataError(f"{config.model.base} is a language model and takes no audio", "set task=lm")
        rows = gather(config, needs_audio=needs_audio, skip_bad=skip_bad, allow_leakage=allow_leakage)
        base = identity(config.model.base, config.model.revision)
        adapter = identity(config.model.adapter) if config.model.adapter else {}
        fingerprint = training_fingerprint(config, rows.hashes, base, adapter)
        facts = finished(Path(config.output_dir), fingerprint, overwrite=overwrite or restart)
        if facts is not None:
            note(f"{config.output_dir} is there already, made with the same settings from the same data")
            return _trained(config, facts, reused=True)
        backbone = load_backbone(config, device, texts=[u.row.text for u in rows.train])
        keep_what_fits(rows, backbone, skip_bad=skip_bad, strip=config.data.special_tokens == "strip")
        measured = spread(rows.dev, config.dev.limit)
        if len(measured) < len(rows.dev):
            note(f"dev.limit: {len(measured)} of {len(rows.dev)} dev rows are measured, evenly taken")
        rows.dev = decodable(measured, rows, skip_bad=skip_bad) if needs_audio else measured
        for reason, names in rows.left_out.items():
            note(f"left out: {len(names)} {reason}")
        for text in [*backbone.warnings(), *rows.notes]:
            note(f"WARNING: {text}")
        config = with_metric(config, rows.dev)
        passed = _told_once(note) if skip_bad else None
        job = _Job(config, rows, backbone, device, {"fingerprint": fingerprint, "base": base}, note, passed)
        return job.run(restart=restart, overwrite=overwrite or restart, quiet=quiet, label=label)


def _told_once(note: Note) -> Note:
    """A note for each recording that is passed over; every epoch meets it again."""
    told: set[str] = set()

    def tell(message: str) -> None:
        if message not in told:
            told.add(message)
            note(f"left out: {message}")

    return tell


def _silent(text: str) -> None:
    """What the other processes have to say."""


def _trained(config: TrainConfig, facts: TrainingFacts, *, waited_share: float = 0.0, reused: bool = False) -> Trained:
    """The result as its provenance tells it."""
    from chorus.train.outputs import merged_dir

    points = facts["curve"].get(f"dev_{facts['metric']}")
    merged = config.adapter is not None and config.adapter.merge
    return Trained(
        directory=Path(config.output_dir),
        steps=facts["steps"],
        best_step=facts["best_step"],
        metric=facts["metric"],
        best=facts["best"],
        before=points[0][1] if points and points[0][0] == 0 else None,
        merged=merged_dir(Path(config.output_dir)) if merged else None,
        left_out=facts["data"]["left_out"],
        waited_share=waited_share,
        reused=reused,
    )


TOO_COARSE = 0.1  # share of weights that a step leaves as they are; more is told


@dataclass
class _Job:
    """The parts of one training, from a loaded base to the written result."""

    config: TrainConfig
    rows: TrainingRows
    backbone: Backbone
    device: str
    identity: Identity
    note: Note
    passed: Note | None  # is told of recordings that cannot be decoded; None: they end the training

    def run(self, *, restart: bool, overwrite: bool, quiet: bool, label: str) -> Trained:
        from chorus.checkpoints.sidecar import write_json
        from chorus.train import outputs, processes, resume
        from chorus.train.curve import curve
        from chorus.train.progress import Progress

        config, logs = self.config, Path(self.config.logs_dir)
        with processes.main_first(self.device):
            resumed = resume.resume_point(logs, self.identity["fingerprint"], restart=restart)
        if resumed:
            self.note(f"going on from {resumed}")
        model, sizes = self._model(logs, resumed)
        bar = Progress(label, hours_per_epoch=self.rows.hours, metric=config.metric, quiet=quiet)
        training = self._trainer(model, logs, bar)
        start = resume.start_measure(training, logs, measured=bool(training.dev), resumed=resumed is not None)
        try:
            result = training.train(resume_from_checkpoint=str(resumed) if resumed else None)
        finally:
            bar.close()
        points = curve([*start, *training.state.log_history], config.metric)
        facts = outputs.provenance(
            config, self.rows, self.identity, points=points, state=training.state, sizes=sizes
        )  # fmt: skip
        loop_s = float(result.metrics.get("train_runtime", 0.0))
        state = training.whole_state()  # every process takes part where the weights are spread over them
        if training.args.should_save:
            whole = training.accelerator.unwrap_model(training.model)
            outputs.save_result(whole, self.backbone, config, facts, overwrite=overwrite, logs=logs, state=state)
            resume.tidy(logs)
            log = {"history": training.state.log_history, "waited_s": training.waited_s, "loop_s": loop_s}
            write_json(logs / "log.json", log)
        training.accelerator.wait_for_everyone()
        return _trained(config, facts, waited_share=training.waited_s / loop_s if loop_s else 0.0)

    def _model(self, logs: Path, resumed: Path | None) -> tuple[PreTrainedModel, tuple[int, int]]:
        """The model as it is trained, and how many of its values learn, of how many."""
        from chorus.train import adapters

        config, model = self.config, self.backbone.model
        adapters.freeze_unlearned(model)
        if config.model.freeze:
            adapters.freeze(model, config.model.freeze)
        if config.train.gradient_checkpointing:
            model.config.use_cache = False
        if config.adapter is not None or config.model.adapter:
            model = adapters.attach(
                model, config, self.backbone, logs=logs, resumed=resumed, note=self.note, batches=self._eva_batches,
                forward=self._forward,
            )  # fmt: skip
            if config.train.gradient_checkpointing:
                model.enable_input_require_grads()
        learning = sum(p.numel() for p in model.parameters() if p.requires_grad)
        total = sum(p.numel() for p in model.parameters())
        if not learning:
            raise ChorusError("nothing is left to learn", "model.freeze freezes everything")
        rows = self.rows
        told = f"{len(rows.train)} rows, {rows.hours:.2f} h" if rows.stream is None else "a stream"
        self.note(f"{told}; dev {len(rows.dev)} rows; {learning:,} of {total:,} parameters learn on {self.device}")
        lost = adapters.too_coarse(model, config.learning_rate)
        if lost > TOO_COARSE:
            self.note(
                f"WARNING: in {config.model.dtype} a step of {config.learning_rate:g} is rounded away in {lost:.0%} of "
                "what learns (model.dtype=float32 with train.precision=bfloat16, an adapter, or a larger "
                "train.learning_rate)"
            )
        return model, (learning, total)

    def _trainer(self, model: PreTrainedModel, logs: Path, bar: Progress) -> SpeechTrainer:
        from chorus.train import adapters, trainer
        from chorus.train.examples import StreamedSet, TrainingSet

        config, rows, backbone = self.config, self.rows, self.backbone
        streamed = rows.stream is not None
        if streamed and not config.train.steps:
            raise DataError("a streamed dataset has no length", "give train.steps")
        dev = rows.dev
        if not dev:
            self.note("WARNING: no dev rows: the last checkpoint is kept, not the best (data.dev, or a column split)")
        float16 = adapters.learns_in_float16(model)
        training = trainer.SpeechTrainer(
            backbone, config, dev, [str(u.row) for u in rows.train],
            model=model,
            args=trainer.arguments(
                config, logs, self.device, measured=bool(dev), streamed=streamed, float16=float16
            ),
            train_dataset=TrainingSet(rows.train, backbone, config.augment, config.seed, skip_bad=self.passed)
            if rows.stream is None else StreamedSet(
                rows.stream, backbone, config.augment, config.seed, strip=config.data.special_tokens == "strip"
            ),
            eval_dataset=dev or None,
            data_collator=backbone.collate,
            callbacks=trainer.callbacks(config, [bar], measured=bool(dev)),
        )  # fmt: skip
        training.fingerprint = self.identity["fingerprint"]
        for name in ("PrinterCallback", "ProgressCallback"):
            training.callback_handler.callbacks = [
                c for c in training.callback_handler.callbacks if type(c).__name__ != name
            ]
        return training

    def _eva_batches(self) -> Iterator[Batch]:
        """Batches as the model takes them, for the start of EVA: every time the same."""
        from chorus.train.backbones.shared import batch_of
        from chorus.train.examples import EpochSampler

        config, utterances = self.config, self.rows.train
        assert config.adapter is not None
        size = config.train.batch_size
        order = [i for _, i in EpochSampler([1.0] * len(utterances), size, config.seed, by_length=False)]
        for start in range(0, min(len(order), size * config.adapter.eva_batches), size):
            chosen: Sequence[int] = order[start : start + size]
            yield batch_of(self.backbone, [self.backbone.example(utterances[i], None, config.augment) for i in chosen])

    def _forward(self, model: PreTrainedModel, inputs: Batch) -> ModelOutput:
        with self.backbone.window(model, inputs):
            return model(**inputs)
