"""What a training is told: every key, its type and its default, checked before anything is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from chorus.errors import UsageError
from chorus.files import expanded, present
from chorus.runtime import device_parts
from chorus.settings import Strict
from chorus.tasks.normalise import NormaliserName
from chorus.tasks.registry import parse_task

VERSION = 1
LANGUAGE_MODELLING = "lm"  # what training knows beside the tasks of chorus.tasks: texts alone
AdapterKind = Literal["lora", "rslora", "dora", "pissa", "olora", "eva"]
Precision = Literal["auto", "float32", "bfloat16", "float16"]


def _listed(value: object) -> object:
    """One value stands for a list of one."""
    return value if isinstance(value, list) or value is None else [value]


def _sources(value: object) -> object:
    """A path alone stands for a manifest."""
    listed = _listed(value)
    return listed if not isinstance(listed, list) else [{"manifest": v} if isinstance(v, str) else v for v in listed]


def _task(value: str) -> str:
    """Any spelling of a task is taken, its name is kept."""
    try:
        return value if value == LANGUAGE_MODELLING else parse_task(value)
    except UsageError as error:
        raise ValueError(f"{error.message}; lm learns texts alone") from None


def _device(value: str) -> str:
    device_parts(value)
    return value


LearntTask = Annotated[str, AfterValidator(_task)]
DeviceName = Annotated[str, AfterValidator(_device)]
Names = Annotated[list[str], BeforeValidator(_listed)]
Seconds = Annotated[list[int], BeforeValidator(_listed)]


class RowSource(Strict):
    """Rows: a manifest, or a Hugging Face dataset; of which split, and which of them."""

    manifest: str | None = None
    dataset: str | None = None
    name: str | None = None  # the dataset's configuration, such as a language
    revision: str | None = None
    split: str | None = None
    streaming: bool = False
    shuffle_buffer: int = Field(default=1000, ge=1)  # rows of a stream that are mixed
    columns: dict[str, str] = Field(default_factory=dict)
    audio_dir: str | None = None  # what a manifest's paths count from, where not from its own folder
    where: dict[str, object] = Field(default_factory=dict)
    language: str = ""
    domain: str = ""
    task: str = ""  # the rows of this task alone, and those that name none; else whatever each row names
    limit: int | None = Field(default=None, ge=1)

    @field_validator("task")
    @classmethod
    def _a_task(cls, value: str) -> str:
        return _task(value) if value else value

    @model_validator(mode="after")
    def _one_of_two(self) -> RowSource:
        if bool(self.manifest) == bool(self.dataset):
            raise ValueError("exactly one of manifest and dataset must be given")
        if self.streaming and not self.dataset:
            raise ValueError("only a dataset can be streamed")
        return self


Sources = Annotated[list[RowSource], BeforeValidator(_sources)]


class StartSettings(Strict):
    """Where training starts."""

    base: str = Field(min_length=1)
    revision: str | None = None
    adapter: str | None = None  # train this adapter further
    freeze: Names = Field(default_factory=list)  # components: encoder, decoder, embeddings ...
    language_adapter: str | None = None  # MMS: the language whose adapter and head are used
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"


class Mix(Strict):
    """How often rows are learnt, where groups of unlike sizes are learnt together (train/mixing.py)."""

    by: str = "task"  # the column that tells the groups
    temperature: float = Field(default=1.0, gt=0)  # 1: by their sizes; larger: evener
    weights: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)  # of groups; 1 for the others
    rare: bool = False  # rows of rare answers more often: 1/sqrt(n)


class DataSettings(Strict):
    """What is learnt, what is measured, what must stay unseen."""

    train: Sources = Field(min_length=1)
    dev: Sources | None = None  # else the rows of `train`'s manifests whose split is dev
    test: Sources | None = None  # only looked at for leakage
    language: str = ""  # of rows that name none
    task_column: str = "task"  # the task by row
    mix: Mix | None = None  # else each row once an epoch
    prompt: str | None = None  # of speech LLMs; else the task's instruction
    min_duration_s: float = Field(default=0.1, ge=0)
    max_duration_s: float | None = Field(default=None, gt=0)  # else what the model takes
    timestamps: float = Field(default=0.5, ge=0, le=1)  # share of Whisper's targets that have them
    features_cache: bool = True
    special_tokens: Literal["refuse", "strip"] = "refuse"  # that stand in texts, such as <|endoftext|>


class LoraRuntime(Strict):
    """PEFT's LoraRuntimeConfig."""

    ephemeral_gpu_offload: bool = False  # DoRA's norms on the GPU while the weights are elsewhere


class AdapterSettings(Strict):
    """A low-rank adapter in place of a full fine-tune."""

    type: AdapterKind = "lora"
    rank: int = Field(default=16, ge=1)
    alpha: float | None = Field(default=None, gt=0)  # else twice the rank
    dropout: float = Field(default=0.0, ge=0, lt=1)
    init: Literal["default", "gaussian", "orthogonal"] = "default"
    roles: Names = Field(default_factory=list)  # else the family's usual places
    modules: Literal["attention", "linear"] | list[str] = "linear"
    rank_pattern: dict[str, int] = Field(default_factory=dict)
    alpha_pattern: dict[str, float] = Field(default_factory=dict)
    save_modules: Names = Field(default_factory=list)
    bias: Literal["none", "all", "lora_only"] = "none"
    runtime: LoraRuntime = Field(default_factory=LoraRuntime)
    eva_batches: int = Field(default=8, ge=1)
    merge: bool = False  # write the merged model too

    @model_validator(mode="after")
    def _fits(self) -> AdapterSettings:
        if self.init != "default" and self.type in ("pissa", "olora", "eva"):
            raise ValueError(f"init: {self.init} and type: {self.type} are two ways to start; keep one")
        if self.type == "rslora" and (self.rank_pattern or self.alpha_pattern):
            raise ValueError("rank_pattern and alpha_pattern do not go with rslora in PEFT; use lora")
        return self


class Train(Strict):
    """How it is learnt."""

    epochs: float = Field(default=3.0, gt=0)
    steps: int | None = Field(default=None, ge=1)  # in place of epochs
    learning_rate: float | None = Field(default=None, gt=0)  # else 1e-5 (full) or 1e-4 (adapter)
    batch_size: int = Field(default=8, ge=1)  # on each device
    accumulation: int = Field(default=1, ge=1)
    warmup: float = Field(default=0.1, ge=0)  # below one a share, else steps
    schedule: Literal["cosine", "linear", "constant", "constant_with_warmup"] = "cosine"
    weight_decay: float = Field(default=0.01, ge=0)
    max_grad_norm: float = Field(default=1.0, ge=0)
    optimizer: str = "adamw_torch"
    precision: Precision = "auto"
    gradient_checkpointing: bool = False
    group_by_length: bool = True
    window_s: Seconds = Field(default_factory=lambda: [30])  # Whisper: what a batch is padded to, drawn from these
    workers: int = Field(default=0, ge=0)
    save_steps: int | None = Field(default=None, ge=1)  # else at each measurement
    keep_checkpoints: int = Field(default=2, ge=1)
    log_steps: int = Field(default=10, ge=1)
    early_stopping: int | None = Field(default=None, ge=1)  # measurements without a better one
    report_to: Names = Field(default_factory=list)  # tensorboard, wandb, mlflow

    @field_validator("window_s")
    @classmethod
    def _windows(cls, value: list[int]) -> list[int]:
        if not value or any(not 1 <= s <= 30 for s in value):
            raise ValueError("seconds between 1 and 30")
        return value


class Dev(Strict):
    """How it is measured on the way; the checkpoint with the best value is kept."""

    metric: Literal["wer", "cer", "loss"] | None = None  # else wer; loss for language models
    normaliser: NormaliserName = "raw"  # raw, basic, english, marks, arabic (chorus.tasks.normalise)
    every_steps: int | None = Field(default=None, ge=1)  # else once an epoch
    batch_size: int | None = Field(default=None, ge=1)
    max_new_tokens: int | None = Field(default=None, ge=1)
    limit: int | None = Field(default=None, ge=1)  # rows, evenly taken, the same ones every time
    window_s: int | None = Field(default=None, ge=1, le=30)


class Augment(Strict):
    """Changes to training audio, drawn anew for each row and epoch. Empty: none, and features are cached."""

    speed: tuple[float, float] | None = None
    gain_db: tuple[float, float] | None = None
    noise: float = Field(default=0.0, ge=0, le=1)  # probability
    noise_snr_db: tuple[float, float] = (5.0, 30.0)
    codec: float = Field(default=0.0, ge=0, le=1)  # probability of one of opus, mp3, vorbis, mulaw
    shift_s: float = Field(default=0.0, ge=0)  # silence of up to so much before and after
    mask_features: int = Field(default=0, ge=0)  # SpecAugment: bands of mels, and of frames
    mask_feature_width: int = Field(default=8, ge=1)
    mask_times: int = Field(default=0, ge=0)
    mask_time_width: int = Field(default=8, ge=1)
    zero_tail: float = Field(default=0.0, ge=0, le=1)  # share of rows padded by zeros, as faster-whisper pads

    @field_validator("speed", "gain_db", "noise_snr_db")
    @classmethod
    def _ordered(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and value[0] > value[1]:
            raise ValueError(f"{value[0]:g} is more than {value[1]:g}")
        return value

    @field_validator("speed")
    @classmethod
    def _possible(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and not 0.3 <= value[0] <= value[1] <= 3:
            raise ValueError("factors between 0.3 and 3")
        return value

    @property
    def changes_audio(self) -> bool:
        return bool(self.speed or self.gain_db or self.noise or self.codec or self.shift_s)


class TrainConfig(Strict):
    """A whole configuration."""

    version: int = VERSION
    task: LearntTask = "asr"
    name: str = ""
    seed: int = 0
    output: str = ""  # else artifacts/<task>[/<name>]
    logs: str = ""  # else runs/<task>[/<name>]
    device: DeviceName = "auto"
    model: StartSettings
    data: DataSettings
    adapter: AdapterSettings | None = None
    train: Train = Field(default_factory=Train)
    dev: Dev = Field(default_factory=Dev)
    augment: Augment = Field(default_factory=Augment)

    @field_validator("version")
    @classmethod
    def _known_version(cls, value: int) -> int:
        if value != VERSION:
            age = "an older" if value < VERSION else "a newer"
            raise ValueError(f"written for {age} version of this file ({value}; this Chorus reads {VERSION})")
        return value

    @field_validator("name")
    @classmethod
    def _a_folder(cls, value: str) -> str:
        if value.startswith(".") or "/" in value or "\\" in value:
            raise ValueError("a folder's name")
        return value

    @property
    def output_dir(self) -> str:
        return self.output or "/".join(filter(None, ("artifacts", self.task, self.name)))

    @property
    def logs_dir(self) -> str:
        return self.logs or "/".join(filter(None, ("runs", self.task, self.name)))

    @property
    def places(self) -> list[Path]:
        """Every local file and directory that a training is made from."""
        sources = [*self.data.train, *(self.data.dev or []), *(self.data.test or [])]
        named = [self.model.base, self.model.adapter]
        named += [name for s in sources for name in (s.manifest, s.audio_dir, s.dataset)]
        paths = [expanded(name) for name in named if name]
        return [path for path in paths if present(path)]  # what is not there is a hub id, or an error elsewhere

    @property
    def learning_rate(self) -> float:
        return self.train.learning_rate or (1e-4 if self.adapter or self.model.adapter else 1e-5)

    @property
    def metric(self) -> str:
        return self.dev.metric or ("loss" if self.task == LANGUAGE_MODELLING else "wer")
