"""How speech is decoded: everything that may change a hypothesis, checked before a model is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from chorus.errors import RecipeError, UsageError, nearest
from chorus.files import shown
from chorus.models.languages import LANGUAGES, names_of, published_code
from chorus.models.texts import SHAPE
from chorus.settings import Strict, explain, validated
from chorus.tasks.registry import TaskName

BY_COLUMN, DETECT = "column", "detect"
Segments = Literal["auto", "vad", "native"]
Detail = Literal["text", "segments", "words"]
Seconds = Annotated[int, Field(ge=1, le=30)]
Windows = Annotated[
    tuple[Seconds, ...], BeforeValidator(lambda v: tuple(sorted(v)) if isinstance(v, list | tuple) else (v,))
]


class Decoding(Strict):
    """One decoding.

    segments: `auto` decodes what fits the model as it is, and longer audio by the model's own long form, or cut at
        pauses where it has none; `vad` cuts all audio at pauses and drops what is no speech; `native` insists on the
        long form.
    window_s: Whisper is given the shortest of these windows (seconds) that holds an utterance, else the whole 30. Which
        one depends on the utterance alone, so that batches of any size decode the same.
    detail: what is told of a sound besides its text: when its segments, or words, were said.
    labels: of a task whose answers are labels, what the model writes, and how likely each label is; or the first alone.
    """

    model_config = ConfigDict(frozen=True)

    @field_validator("prompt")
    @classmethod
    def _words_alone(cls, value: str) -> str:
        if found := SHAPE.search(value):
            raise ValueError(f"{found[0]} is a special token, which a prompt cannot hold")
        return value

    beam: int = Field(default=1, ge=1)
    language: str = BY_COLUMN  # a code, `column` (the manifest's), or `detect`
    task: TaskName = "asr"
    prompt: str = ""
    timestamps: bool = False
    segments: Segments = "auto"
    batch_size: int = Field(default=16, ge=1)
    max_new_tokens: int | None = Field(default=None, ge=1)  # else as many as the model can write
    window_s: Windows | None = None
    dtype: Literal["float32", "float16", "bfloat16", "int8"] = "float32"
    detail: Detail = "text"
    labels: Literal["both", "free"] = "both"

    @model_serializer(mode="wrap")
    def _as_ever(self, handler: SerializerFunctionWrapHandler) -> dict[str, object]:
        """Without what came later, where it is as ever: results and fingerprints that lack it stay as they are."""
        found: dict[str, object] = handler(self)
        for name, usual in (("detail", "text"), ("labels", "both")):
            if found.get(name) == usual:
                del found[name]
        return found

    @model_validator(mode="wrap")
    @classmethod
    def _in_words(cls, settings: object, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Made in Python it is refused in the words that a file of settings gets."""
        try:
            return handler(settings)
        except ValidationError as error:
            raise RecipeError(explain(error, cls), source="decoding") from None


PRESETS: dict[str, dict[str, object]] = {
    "default": {},
    # arXiv 2603.05354: segments by voice activity (as WhisperX cuts), beam 5
    "paper": {"segments": "vad", "beam": 5},
}


def check_language(language: str) -> None:
    """`UsageError` for a language that there is not, whatever a model takes. A code that the table lacks may be one.

    A model without languages of its own would decode as if none had been asked for.
    """
    if language and language not in (BY_COLUMN, DETECT) and not published_code(language):
        near = nearest(" ".join(language.lower().split()), names_of(LANGUAGES))
        told = near if "did you mean" in near else ""  # not two hundred names
        raise UsageError(f'unknown language "{shown(language)}"{told}', "give a code, such as pt, or the English name")


def decoding(preset: str = "default", settings: Mapping[str, object] | None = None) -> Decoding:
    """A preset with some settings changed; None leaves a setting as it is.

    >>> decoding("paper", {"batch_size": 4}).beam
    5
    """
    if preset not in PRESETS:
        raise UsageError(f'unknown preset "{preset}"{nearest(preset, PRESETS)}')
    given = {k: v for k, v in (settings or {}).items() if v is not None}
    return validated(Decoding, {**PRESETS[preset], **given}, source="decoding")
