"""How families of speech LLMs are spoken to: what stands around a recording and a question, and how long it is there.

The processors of these models ask for image and video parts (and for torchvision), or for mistral-common, though only
audio is given; so that their texts are put together here, as their chat templates have them.

Qwen2-Audio, Qwen2.5-Omni  ChatML: a system prompt, the audio and the question, the answer
Qwen3-ASR                  ChatML: the question is the system's, as words to be expected are; an answer is a
                           transcript, led by its language: `language English<asr_text>`
Voxtral                    [INST], audio, question, [/INST]; of nothing asked, audio, language, [TRANSCRIBE]
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from chorus.models.features import MARGIN
from chorus.models.languages import LANGUAGES, language_code

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from chorus.models.features import LogMel

SYSTEM_PROMPT = "You are a helpful assistant."
AUDIO, BEGIN, END = "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"
AFTER_QUESTION = "<|im_end|>\n<|im_start|>assistant\n"
LEAST_COLUMNS = 4  # of features: what the tower makes one frame of
WRITTEN = "<asr_text>"  # between Qwen3-ASR's word for a language and the transcript
SPOKEN = re.compile(r"^lang:[a-z]{2,3}(?=\W|[A-Z]|$)\s*")  # what Voxtral may write before a transcript
# the languages that Qwen3-ASR knows, by their English names (its card); one has another name than in our table
KNOWN_TO_QWEN = (
    "ar", "yue", "zh", "cs", "da", "nl", "en", "fi", "fr", "de", "el", "hi", "hu", "id", "it", "ja", "ko", "mk", "ms",
    "fa", "pl", "pt", "ro", "ru", "es", "sv", "th", "tr", "vi",
)  # fmt: skip
FILIPINO = {"tl": "Filipino"}


class Wording(Protocol):
    """One family's way. `audio` is the token that stands for a frame of sound, `end` what ends an answer.

    `transcribes`: of nothing asked it writes down what is said, and is told the language.
    `mask`: the model's word for which columns hold speech; empty where it takes none.
    """

    audio: str
    end: str
    transcribes: bool
    mask: str

    def window(self, most: int) -> int:
        """Columns that a recording may have, of so many that the extractor gives."""
        ...

    def columns(self, given: int, most: int) -> int:
        """The columns that hold speech, of features that are so wide."""
        ...

    def width(self, columns: int, most: int) -> int:
        """How wide the features of a batch are, whose longest speech has so many columns."""
        ...

    def around(self, columns: int, question: str, language: str) -> tuple[str, str]:
        """What stands before a question and behind it, up to the answer."""
        ...

    def lead(self, language: str) -> str:
        """What an answer that is learnt begins with, where nobody has told the language."""
        ...

    def read(self, text: str) -> str:
        """The answer in what was written."""
        ...


class ChatMl:
    """Qwen2-Audio's and Omni's."""

    audio, end, mask, transcribes = AUDIO, "<|im_end|>", "feature_attention_mask", False

    def __init__(self, config: PretrainedConfig, features: LogMel) -> None:
        self.positions = int(config.audio_config.max_source_positions)

    def window(self, most: int) -> int:
        return min(most, self.positions * 2)

    def columns(self, given: int, most: int) -> int:
        return max(LEAST_COLUMNS, min(given - MARGIN, most))

    def width(self, columns: int, most: int) -> int:
        return most

    def around(self, columns: int, question: str, language: str) -> tuple[str, str]:
        return before_question(columns), AFTER_QUESTION

    def lead(self, language: str) -> str:
        return ""

    def read(self, text: str) -> str:
        return text


def before_question(columns: int) -> str:
    """ChatML up to the question; the audio's place is as long as the tower's output of so many columns of features."""
    frames = ((columns - 1) // 2 + 1 - 2) // 2 + 1
    return f"<|im_start|>system\n{SYSTEM_PROMPT}<|im_end|>\n<|im_start|>user\n{BEGIN}{AUDIO * frames}{END}"


class Qwen3Asr:
    """Qwen3-ASR's: sounds in chunks of a second, each a few frames."""

    audio, end, mask, transcribes = "<|audio_pad|>", "<|im_end|>", "input_features_mask", True

    def __init__(self, config: PretrainedConfig, features: LogMel) -> None:
        self.chunk = 2 * int(config.audio_config.n_window)
        # what is shorter its extractor fills up, and takes the silence for speech
        self.least = int(getattr(features.extractor, "min_length", 0)) // features.hop

    def window(self, most: int) -> int:
        return most // self.chunk * self.chunk

    def columns(self, given: int, most: int) -> int:
        # of a whole window nobody knows where the speech ends
        return max(LEAST_COLUMNS, self.least, given - MARGIN if given < most else most)

    def width(self, columns: int, most: int) -> int:
        return -(-columns // self.chunk) * self.chunk

    def around(self, columns: int, question: str, language: str) -> tuple[str, str]:
        whole, rest = divmod(columns, self.chunk)
        frames = whole * _halved(self.chunk) + _halved(rest)
        user = f"<|im_start|>user\n<|audio_start|>{self.audio * frames}<|audio_end|>"
        return "<|im_start|>system\n", f"<|im_end|>\n{user}{AFTER_QUESTION}{self._led(language)}"

    def lead(self, language: str) -> str:
        return "" if self._led(language) else f"language None{WRITTEN}"

    def read(self, text: str) -> str:
        return text.rpartition(WRITTEN)[2]

    def _led(self, language: str) -> str:
        code = language_code(language)
        name = FILIPINO.get(code) or (LANGUAGES[code].title() if code in KNOWN_TO_QWEN else "")
        return f"language {name}{WRITTEN}" if name else ""


def _halved(columns: int) -> int:
    """Frames that three convolutions of stride two leave of a chunk."""
    for _ in range(3):
        columns = (columns - 1) // 2 + 1 if columns else 0
    return columns


class Voxtral:
    """Voxtral's: whole windows of thirty seconds, several of whose frames are one."""

    audio, end, mask, transcribes = "[AUDIO]", "</s>", "", True

    def __init__(self, config: PretrainedConfig, features: LogMel) -> None:
        tower = config.audio_config
        self.whole = 2 * int(tower.max_source_positions)
        self.frames = int(tower.max_source_positions) * int(tower.hidden_size) // int(tower.intermediate_size)

    def window(self, most: int) -> int:
        return self.whole

    def columns(self, given: int, most: int) -> int:
        return most

    def width(self, columns: int, most: int) -> int:
        return most

    def around(self, columns: int, question: str, language: str) -> tuple[str, str]:
        before = f"<s>[INST][BEGIN_AUDIO]{self.audio * self.frames}"
        if question:
            return before, "[/INST]"
        code = language_code(language)
        told = f"lang:{code}" if code in LANGUAGES else ""
        return before, f"[/INST]{told}[TRANSCRIBE]"

    def lead(self, language: str) -> str:
        return ""

    def read(self, text: str) -> str:
        return SPOKEN.sub("", text)


DIALECTS: dict[str, Callable[[PretrainedConfig, LogMel], Wording]] = {  # model_type -> its family's
    "qwen2_audio": ChatMl, "qwen2_5_omni": ChatMl, "qwen2_5_omni_thinker": ChatMl, "qwen3_asr": Qwen3Asr,
    "voxtral": Voxtral,
}  # fmt: skip
