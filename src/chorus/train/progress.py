"""What a training shows while it runs: loss, dev error rate, throughput, time left; and the curve it leaves."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from chorus.errors import MissingExtraError
from chorus.lazy import lazy
from chorus.train.facts import Curve, Logged

if TYPE_CHECKING:
    import rich.console as rich_console
    import rich.progress as rich_progress
else:
    rich_progress, rich_console = lazy("rich.progress"), lazy("rich.console")

LINE_EVERY_S = 10.0
INK, LOSS, DEV, GRID = "#1f2937", "#9ca3af", "#c2410c", "#e5e7eb"


class Progress(TrainerCallback):
    """A bar on a terminal, else a line every ten seconds; nothing where `quiet`."""

    def __init__(self, label: str, *, hours_per_epoch: float, metric: str, quiet: bool) -> None:
        self.label, self.hours, self.metric, self.quiet = label, hours_per_epoch, metric, quiet
        self.loss: float | None = None
        self.dev: float | None = None
        self.bar: rich_progress.Progress | None = None
        self.started = self.last = 0.0
        self.first_step = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: object
    ) -> None:
        self.started = self.last = time.monotonic()
        self.first_step = state.global_step
        if self.quiet or not state.is_world_process_zero or not sys.stderr.isatty():
            return
        columns = (
            rich_progress.TextColumn("{task.description}"),
            rich_progress.BarColumn(),
            rich_progress.TextColumn("{task.fields[facts]}"),
            rich_progress.TimeRemainingColumn(),
        )
        self.bar = rich_progress.Progress(*columns, console=rich_console.Console(stderr=True), transient=True)
        self.bar.start()
        self.task = self.bar.add_task(self.label, total=state.max_steps, completed=state.global_step, facts="")

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Logged | None = None,
        **more: object,
    ) -> None:
        logs = logs or {}
        self.loss = logs.get("loss", self.loss)
        value = logs.get(f"eval_{self.metric}")
        if value is not None:
            self.dev = value
            if not self.quiet and state.is_world_process_zero and self.bar is None:
                self._line(state)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: object
    ) -> None:
        if self.quiet or not state.is_world_process_zero:
            return
        if self.bar is not None:
            self.bar.update(self.task, completed=state.global_step, facts=self.facts(state))
        elif time.monotonic() - self.last >= LINE_EVERY_S:
            self._line(state)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: object
    ) -> None:
        self.close()

    def close(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def _line(self, state: TrainerState) -> None:
        self.last = time.monotonic()
        if not state.max_steps:
            print(f"{self.label}: before it, {self.facts(state)}", file=sys.stderr, flush=True)
            return
        done = state.global_step - self.first_step
        left = (self.last - self.started) / done * (state.max_steps - state.global_step) if done else 0.0
        text = f"{self.label}: step {state.global_step} of {state.max_steps}, {self.facts(state)}, {left:.0f} s left"
        print(text, file=sys.stderr, flush=True)

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


def curve(history: Sequence[Logged], metric: str) -> Curve:
    """The numbers of a learning curve: [step, value] of the loss and of the dev measures."""
    found: Curve = {"loss": [], "dev_loss": [], f"dev_{metric}": []}
    for entry in history:
        for key, name in (("loss", "loss"), ("eval_loss", "dev_loss"), (f"eval_{metric}", f"dev_{metric}")):
            if key in entry:
                found[name].append([entry["step"], round(float(entry[key]), 6)])
    return {k: v for k, v in found.items() if v}


def plot_curve(points: Curve, metric: str, target: Path, title: str, best_step: int | None) -> None:
    """The curve as a picture: loss on the left axis, dev error rate on the right, the kept checkpoint marked."""
    try:
        import matplotlib
    except ImportError:
        raise MissingExtraError("train", "drawing the learning curve") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import MaxNLocator

    figure, axis = pyplot.subplots(figsize=(7, 4), layout="constrained")
    axis.set(xlabel="step", ylabel="loss")
    axis.set_title(title, color=INK, loc="left")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.grid(color=GRID)
    axis.spines[["top", "right"]].set_visible(False)
    for name, style in (("loss", "-"), ("dev_loss", "--")):
        if points.get(name):
            axis.plot(*zip(*points[name], strict=True), style, color=LOSS, label=name.replace("_", " "))
    axis.set_ylim(bottom=0)
    other = points.get(f"dev_{metric}") if metric != "loss" else None
    handles, labels = axis.get_legend_handles_labels()
    if other:
        right = axis.twinx()
        right.plot(*zip(*other, strict=True), "o-", color=DEV, label=f"dev {metric}, %")
        right.set_ylabel(f"dev {metric}, %", color=DEV)
        right.set_ylim(bottom=0)
        right.spines["top"].set_visible(False)
        best = [p for p in other if p[0] == best_step]
        if best:
            right.plot(*zip(*best, strict=True), "o", color=DEV, markersize=11, fillstyle="none", label="kept")
        more_handles, more_labels = right.get_legend_handles_labels()
        handles, labels = handles + more_handles, labels + more_labels
    axis.legend(handles, labels, frameon=False)
    figure.savefig(target, dpi=120, metadata={"Software": None})
    pyplot.close(figure)
