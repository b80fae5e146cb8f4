"""What a kind of model is.

A new kind is a file like ctc.py, which holds all but its training, and one in train/backbones/.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

from chorus.plain import JsonMap, JsonObject

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from chorus.models.limits import Limits
    from chorus.models.recogniser import OpenRecogniser

SPEECH_TO_TEXT, AUDIO_TEXT_TO_TEXT, TEXT = "automatic-speech-recognition", "audio-text-to-text", "text-generation"


@dataclass(frozen=True)
class Kind:
    """All that is known of a kind before a model of it is loaded. Classes named `module:Class` are imported late.

    covers          its models, for people
    recognises      whether a config is one of this kind
    model_class     the class of transformers that loads it (or a `module:Class`)
    limits          what a model of the kind can write and take, from its config and tokenizer
    pipeline_tag    the hub's word for what it does
    extractor_class empty where it takes texts alone
    recogniser      what transcribes with a loaded model, in training and in evaluation
    decoder         what transcribes: takes a recogniser, unless the kind has a decoder of its own; empty: nothing does
    backbone        what trains it; empty: nothing does
    peft_task       PEFT's task type; None for speech, whose inputs PEFT's wrappers do not know
    elsewhere       another tool's name -> its tensors' names in transformers' words
    generation      the generation settings completed, from the config, what there is of them, and the ids of tokens
    why         what keeps a model from being trained or transcribed, where that is worth a word
    """

    name: str
    covers: str
    recognises: Callable[[JsonMap], bool]
    model_class: Callable[[JsonMap], str]
    limits: Callable[[JsonMap, PreTrainedTokenizerBase], Limits]
    pipeline_tag: str
    tokenizer_class: str = "AutoTokenizer"
    extractor_class: str = "AutoFeatureExtractor"
    recogniser: OpenRecogniser | None = None
    # by name: this room lies below those, and an import would bring in torch
    decoder: str = "chorus.transcribe.backends.recognising:Recognising"
    backbone: str = ""
    peft_task: str | None = None
    elsewhere: Mapping[str, Callable[[str], str]] = field(default_factory=dict)
    generation: Callable[[JsonMap, JsonMap, Mapping[str, int]], JsonObject] | None = None
    why: Callable[[JsonMap], str] = lambda config: ""

    @property
    def takes_audio(self) -> bool:
        """Or texts alone."""
        return bool(self.extractor_class)


def named_class(path: str) -> Any:
    """The class at `module:Class`."""
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)
