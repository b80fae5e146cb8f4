"""transformers' Trainer with our order of rows, our measure, and checkpoints that are whole or not there."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, TypeVar, Unpack

import torch
from transformers import (
    EarlyStoppingCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from chorus.data.utterance import Utterance
from chorus.errors import ChorusError, OutputError
from chorus.models.batches import as_taken
from chorus.tasks.normalise import normaliser
from chorus.train.backbones.protocol import ROWS, Backbone, Example
from chorus.train.checkpoints import last_whole, mark_whole
from chorus.train.config import TrainConfig
from chorus.train.examples import EpochSampler, StreamedSet, TrainingSet
from chorus.train.facts import Logged
from chorus.train.measure import error_rates, rates, written
from chorus.train.mixing import shares

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from chorus.models.batches import Batch

Number = TypeVar("Number", int, float)
STREAM_STEPS = 500  # between measurements of a stream, which has no epochs
LOSS_BATCHES = 50  # of dev in each process, about, for the dev loss


class TrainerArguments(TypedDict):
    """What is handed on to transformers' Trainer."""

    model: PreTrainedModel
    args: TrainingArguments
    train_dataset: TrainingSet | StreamedSet
    eval_dataset: list[Utterance] | None
    data_collator: Callable[[Sequence[Example]], Batch]
    callbacks: list[TrainerCallback]


class SpeechTrainer(Trainer):
    """Trains a backbone. `dev` is what `evaluate` decodes."""

    def __init__(
        self, backbone: Backbone, config: TrainConfig, dev: Sequence[Utterance], names: Sequence[str],
        **arguments: Unpack[TrainerArguments],
    ) -> None:  # fmt: skip
        self.backbone, self.config, self.dev, self.row_names = backbone, config, list(dev), names
        self.waited_s = 0.0
        self.fingerprint = ""
        super().__init__(**arguments)

    # ---- rows ----

    def _get_train_sampler(self, train_dataset: TrainingSet | StreamedSet | None = None) -> EpochSampler | None:
        dataset = train_dataset if train_dataset is not None else self.train_dataset
        if not isinstance(dataset, TrainingSet):
            return None
        lengths = [u.duration_s for u in dataset.utterances]
        settings = self.config.train
        self.sampler = EpochSampler(
            lengths, settings.batch_size, self.config.seed, by_length=settings.group_by_length,
            shares=shares(dataset.utterances, self.config),
        )  # fmt: skip
        return self.sampler

    def _run_epoch(self, *arguments: object, **more: object) -> object:
        epoch = more["epoch"] if "epoch" in more else arguments[1]
        assert isinstance(epoch, int | float)
        if hasattr(self, "sampler"):
            self.sampler.set_epoch(int(epoch))
        return super()._run_epoch(*arguments, **more)

    def get_batch_samples(self, *arguments: object, **more: object) -> object:
        started = time.perf_counter()
        try:
            return super().get_batch_samples(*arguments, **more)
        finally:
            self.waited_s += time.perf_counter() - started

    # ---- steps ----

    def _prepare_inputs(self, inputs: Batch) -> Batch:
        """On the device; sounds and features in the type of the weights, as `transcribe` takes them too."""
        return as_taken(super()._prepare_inputs(inputs), self.model)

    def training_step(self, model: PreTrainedModel, inputs: Batch, *arguments: object, **more: object) -> torch.Tensor:
        """One batch forward and backward (checkpointed layers run forward again there) in its window."""
        numbers = inputs.pop(ROWS)  # for the message alone; a model would refuse them
        with self.backbone.window(model, inputs):
            loss: torch.Tensor = super().training_step(model, inputs, *arguments, **more)
        if not bool(torch.isfinite(loss)):
            names = [self.row_names[i] for i in numbers.tolist() if 0 <= i < len(self.row_names)]
            raise ChorusError(
                f"the loss is {float(loss)} at step {self.state.global_step + 1}; its batch: {', '.join(names)}",
                "check these rows (chorus data check), lower train.learning_rate, or use another train.precision",
            )
        return loss

    # ---- measuring ----

    def evaluate(
        self, eval_dataset: object = None, ignore_keys: object = None, metric_key_prefix: str = "eval"
    ) -> Logged:
        """Dev loss, and error rates in percent where the model writes texts."""
        started = time.perf_counter()
        settings = self.config.dev
        model = self.accelerator.unwrap_model(self.model_wrapped) if self.plain else self.model_wrapped
        metrics: Logged = {}
        with torch.inference_mode():
            metrics[f"{metric_key_prefix}_loss"] = self._dev_loss(model)
        if self.config.metric != "loss":
            sums = error_rates(
                self.backbone,
                model,
                self.dev,
                normalise=normaliser(settings.normaliser),
                language=partial(written, self.config),
                batch_size=settings.batch_size or 2 * self.config.train.batch_size,
                share=(self.args.process_index, self.args.world_size),
                max_new_tokens=settings.max_new_tokens,
                window_s=settings.window_s,
                synced_gpus=not self.plain,
            )
            metrics |= {f"{metric_key_prefix}_{k}": v for k, v in rates(self._summed(sums)).items()}
        metrics[f"{metric_key_prefix}_seconds"] = round(time.perf_counter() - started, 3)
        self.log(metrics)
        self.control: TrainerControl = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    @property
    def plain(self) -> bool:
        """Whether every process holds the whole model."""
        return not (self.is_fsdp_enabled or self.is_deepspeed_enabled)

    def whole_state(self) -> dict[str, torch.Tensor] | None:
        """All weights in one place where FSDP or DeepSpeed has spread them; None where they are whole already."""
        if self.plain:
            return None
        found: dict[str, torch.Tensor] = self.accelerator.get_state_dict(self.model_wrapped)
        return found

    def _dev_loss(self, model: PreTrainedModel) -> float:
        """The mean loss over dev rows, evenly taken where there are many; every process runs as many batches."""
        size, processes = self.config.train.batch_size, self.args.world_size
        chosen = self.dev[:: max(1, len(self.dev) // (LOSS_BATCHES * size * processes))]
        mine = chosen[self.args.process_index :: processes]
        was, total, count = model.training, 0.0, 0
        model.eval()
        for i in range(math.ceil(math.ceil(len(chosen) / processes) / size)):
            part = mine[i * size : (i + 1) * size]
            examples = [self.backbone.example(u, None, self.config.augment) for u in part or chosen[:1]]
            batch = self._prepare_inputs(self.backbone.collate(examples))
            batch.pop(ROWS)
            with self.compute_loss_context_manager(), self.backbone.window(model, batch):
                total += float(model(**batch).loss) * len(part)
            count += len(part)
        model.train(was)
        sums = self._summed({"total": total, "count": count})
        return float(sums["total"] / sums["count"])

    def _summed(self, sums: Mapping[str, Number]) -> dict[str, Number]:
        if self.args.world_size == 1:
            return dict(sums)
        from accelerate.utils import gather_object

        every = gather_object([sums])
        return {key: sum(one[key] for one in every) for key in sums}

    # ---- checkpoints ----

    def _save_checkpoint(self, model: PreTrainedModel, trial: object) -> None:
        """A checkpoint counts when its last file is there; a full disk takes away what was begun, no more."""
        directory = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        try:
            super()._save_checkpoint(model, trial)
            if self.args.should_save:
                mark_whole(directory, self.state.global_step, self.fingerprint)
        # a full disk speaks in the words of whoever was writing: safetensors, torch, or the system
        except Exception as error:
            if not _no_room(error):
                raise
            shutil.rmtree(directory, ignore_errors=True)
            last = last_whole(Path(self.args.output_dir))
            kept = f"{last} is kept" if last else "no earlier one was written"
            raise OutputError(
                f"{directory}: the checkpoint could not be written ({error}); {kept}",
                "make room (or mend the disk), then give the same command: it goes on from there",
            ) from error


def _no_room(error: BaseException) -> bool:
    """Disk errors, also as safetensors and torch word them."""
    text = str(error).lower()
    return isinstance(error, OSError) or any(
        s in text for s in ("no space", "i/o error", "file write failed", "iostream")
    )


def arguments(
    config: TrainConfig, logs: Path, device: str, *, measured: bool, streamed: bool, float16: bool
) -> TrainingArguments:
    """The configuration in transformers' words. `float16`: something that learns is kept in that type."""
    train = config.train
    precision = _precision(train.precision, device)
    every = config.dev.every_steps if measured else train.save_steps
    strategy = "steps" if every or streamed else "epoch"
    steps = every or STREAM_STEPS
    translated = TrainingArguments(
        output_dir=str(logs),
        seed=config.seed,
        num_train_epochs=train.epochs,
        max_steps=train.steps or -1,
        learning_rate=config.learning_rate,
        per_device_train_batch_size=train.batch_size,
        gradient_accumulation_steps=train.accumulation,
        warmup_steps=train.warmup,
        lr_scheduler_type=train.schedule,
        weight_decay=train.weight_decay,
        max_grad_norm=train.max_grad_norm,
        # in float16 the usual 1e-8 is zero, and a weight with a small gradient would become infinite
        adam_epsilon=1e-4 if float16 else 1e-8,
        optim=train.optimizer,
        fp16=precision == "float16",
        bf16=precision == "bfloat16",
        gradient_checkpointing=train.gradient_checkpointing,
        # the re-entrant form gives no gradients where the inputs of a frozen base need none
        gradient_checkpointing_kwargs={"use_reentrant": False} if train.gradient_checkpointing else None,
        eval_strategy=strategy if measured else "no",
        eval_steps=steps if measured and strategy == "steps" else None,
        save_strategy=strategy,  # at each measurement, so that the best one can be kept
        save_steps=steps,
        save_total_limit=train.keep_checkpoints,
        load_best_model_at_end=measured,
        metric_for_best_model=f"eval_{config.metric}" if measured else None,
        greater_is_better=False if measured else None,
        logging_steps=train.log_steps,
        logging_nan_inf_filter=False,  # else a NaN is shown as the mean of what went before
        report_to=list(train.report_to) or "none",
        dataloader_num_workers=train.workers,
        dataloader_multiprocessing_context="fork" if train.workers else None,  # rows and model are shared, not copied
        dataloader_pin_memory=device.startswith("cuda"),
        dataloader_drop_last=False,
        remove_unused_columns=False,  # examples are no datasets' rows
        label_names=["labels"],
        use_cpu=device == "cpu",
        disable_tqdm=True,
        log_level="error",
    )
    # else several GPUs in one process mean DataParallel; `accelerate launch` uses them
    translated._n_gpu = min(1, translated.n_gpu)
    return translated


def _precision(asked: str, device: str) -> str:
    if asked != "auto":
        return asked
    if device.startswith("cuda"):
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float16"
    return "bfloat16" if device.startswith("xpu") else "float32"


class SaveEvery(TrainerCallback):
    """Checkpoints between measurements, for long ways from one to the next."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: object
    ) -> None:
        if state.global_step % self.steps == 0:
            control.should_save = True


def callbacks(config: TrainConfig, more: Sequence[TrainerCallback], *, measured: bool) -> list[TrainerCallback]:
    """Ours, and early stopping where it is asked for and something is measured."""
    found = list(more)
    if config.train.save_steps:
        found.append(SaveEvery(config.train.save_steps))
    if config.train.early_stopping and measured:
        found.append(EarlyStoppingCallback(early_stopping_patience=config.train.early_stopping))
    return found
