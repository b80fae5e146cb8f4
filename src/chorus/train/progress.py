"""What a training shows while it runs: loss, dev error rate, throughput, time left."""

from __future__ import annotations

import time

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from chorus.progress import STEPS, Display
from chorus.train.facts import Logged

LINE_EVERY_S = 10.0


class Progress(TrainerCallback):
    """A bar on a terminal, else a line every ten seconds; nothing where `quiet` or in processes after the first."""

    def __init__(self, label: str, *, hours_per_epoch: float, metric: str, quiet: bool) -> None:
        self.label, self.hours, self.metric = label, hours_per_epoch, metric
        self.display = Display(quiet=quiet, label=label, unit=STEPS, every_s=LINE_EVERY_S)
        self.loss: float | None = None
        self.dev: float | None = None
        self.started = 0.0
        self.first_step = 0  # of this run: a resumed one starts later

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: object
    ) -> None:
        self.started = self.display.last = time.monotonic()
        self.first_step = state.global_step

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Logged | None = None,
        **more: object,
    ) -> None:  # fmt: skip
        logs = logs or {}
        self.loss = logs.get("loss", self.loss)
        value = logs.get(f"eval_{self.metric}")
        if value is None:
            return
        self.dev = value
        if not state.is_world_process_zero:
            return
        if state.max_steps:
            self.display.line(state.global_step, state.max_steps, self._told(state))
        else:
            self.display.note(f"{self.label}: before it, {self.facts(state)}")

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: object
    ) -> None:
        if state.is_world_process_zero:
            self.display(state.global_step, state.max_steps, self._told(state))

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: object
    ) -> None:
        self.close()

    def close(self) -> None:
        """Take the bar away."""
        self.display.close()

    def _told(self, state: TrainerState) -> str:
        """The facts, and the time that is left."""
        done = state.global_step - self.first_step
        elapsed = time.monotonic() - self.started
        left = elapsed / done * (state.max_steps - state.global_step) if done else 0.0
        return ", ".join(filter(None, (self.facts(state), f"{left:.0f} s left")))

    def facts(self, state: TrainerState) -> str:
        """Loss, dev error rate, and how many seconds of speech it learns from in one."""
        parts = []
        if self.loss is not None:
            parts.append(f"loss {self.loss:.3f}")
        if self.dev is not None:
            parts.append(f"dev {self.metric} {self.dev:.1f}{' %' if self.metric != 'loss' else ''}")
        elapsed = time.monotonic() - self.started
        done = state.global_step - self.first_step
        if elapsed > 0 and done and state.max_steps and state.num_train_epochs:
            steps_an_epoch = state.max_steps / state.num_train_epochs
            parts.append(f"{self.hours * 3600 * done / steps_an_epoch / elapsed:.0f} s of speech/s")
        return ", ".join(parts)
