"""What a calibration is told, each setting with its default, checked before anything is loaded."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from chorus.settings import Strict
from chorus.tasks.normalise import NormaliserName
from chorus.train.config import LANGUAGE_MODELLING, DeviceName, LearntTask, Seconds

Granularity = Literal["scalar", "task", "component", "group"]
Form = Literal["free", "tanh", "simplex"]
Rule = Literal["mean", "minimum", "geometric", "l2"]
Measure = Literal["loss", "wer", "cer", "entropy"]
Objective = Literal["cross-entropy", "entropy"]
Balance = Literal["loss", "recovery"]


class Calibration(Strict):
    """How the weights are cut into groups, written, learnt, measured and chosen.

    granularity  one number for all (scalar), one a model (task), one a model and component, or one a model, component,
                 kind and band of layers (group)
    bands        into how many runs of layers each component is cut, for `group`; as many as it has layers at most
    form         how the numbers are written while they are learnt: free; tanh, within +-`magnitude`; or simplex, a
                 factor of each group times its models' shares of one
    start        what every weight begins at; None: at what the recipe says
    bound        a weight beyond it ends the calibration
    objective    what an update lowers: the cross-entropy of the answers, or, of rows without any, the entropy of labels
    balance      how tasks' losses add up: alike; or each over what its own model gains on the base on dev, so that what
                 is lowered is the mean of what recovery lacks, and a task of small losses counts as much as another
    by           the column of the rows whose values are the tasks, from which batches are drawn evenly; `task` where
                 rows name several, else `domain`
    batch_size   rows of each task in an update
    every        updates between two measures on dev; patience: measures without a better one that end it
    rule         how the tasks' recoveries become the one number by which the best weights are chosen
    measure      what is measured on dev: the loss, an error rate by greedy decoding, or the entropy of labels, which it
                 is by itself where objective is entropy and dev has no answers
    own          task -> the model that was tuned for it; of others the best single model on dev is taken
    rank         full fine-tunes: matrices' deltas cut to this rank; None: whole
    streamed     full fine-tunes: whole deltas are read anew at each update, and not held
    energy       adapters: the merged adapter is cut to this share of its energy
    """

    granularity: Granularity = "group"
    bands: int = Field(default=4, ge=1)
    form: Form = "free"
    magnitude: float = Field(default=2.0, gt=0, allow_inf_nan=False)
    start: float | None = Field(default=None, allow_inf_nan=False)
    bound: float = Field(default=10.0, gt=0, allow_inf_nan=False)
    objective: Objective = "cross-entropy"
    balance: Balance = "loss"
    task: LearntTask = "asr"
    by: str | None = Field(default=None, min_length=1)
    updates: int = Field(default=200, ge=1)
    batch_size: int = Field(default=4, ge=1)
    learning_rate: float = Field(default=0.01, gt=0, allow_inf_nan=False)
    every: int = Field(default=20, ge=1)
    patience: int = Field(default=5, ge=1)
    rule: Rule = "mean"
    measure: Measure = "loss"
    normaliser: NormaliserName = "raw"
    max_new_tokens: int | None = Field(default=None, ge=1)
    own: dict[str, str] = Field(default_factory=dict)
    limit: int | None = Field(default=None, ge=1)  # dev rows of each task, evenly taken, the same ones every time
    rank: int | None = Field(default=None, ge=1)
    streamed: bool = False
    energy: float | None = Field(default=None, gt=0, le=1)
    language: str = ""  # of rows that name none
    prompt: str | None = None  # of speech LLMs; else the task's instruction
    timestamps: float = Field(default=0.5, ge=0, le=1)  # share of Whisper's targets that have them
    window_s: Seconds = Field(default_factory=lambda: [30])
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: DeviceName = "auto"
    seed: int = 0

    @model_validator(mode="after")
    def _fits(self) -> Calibration:
        if self.form == "simplex" and self.granularity == "scalar":
            raise ValueError(
                "a scalar leaves the models' shares as they are, and simplex learns them: use free or tanh"
            )
        if self.start is not None and abs(self.start) > self.bound:
            raise ValueError(f"start: {self.start:g} is beyond the bound of {self.bound:g}")
        if self.task == LANGUAGE_MODELLING and self.objective == "entropy":
            raise ValueError("objective: entropy is of labels; lm has texts alone")
        if self.balance == "recovery" and (self.objective, self.measure) != ("cross-entropy", "loss"):
            raise ValueError("balance: recovery is of the cross-entropy of answers: it goes with measure: loss")
        if self.task == LANGUAGE_MODELLING and self.measure != "loss":
            raise ValueError(f"measure: {self.measure} is of texts that are heard; lm has a loss alone")
        return self
