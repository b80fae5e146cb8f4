"""whisper.cpp, through pywhispercpp: a ggml file decoded as it ships, or a Whisper that is converted into the cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from chorus.data.manifest import Row
from chorus.errors import CheckpointError, ChorusError, MissingExtraError, UsageError
from chorus.export.ggml.reader import read
from chorus.models.times import Segment
from chorus.models.whisper import task_token
from chorus.runtime import device_parts, threads
from chorus.transcribe.backends.child import EndedError
from chorus.transcribe.backends.converting import converted
from chorus.transcribe.backends.hearing import asked_language, within
from chorus.transcribe.backends.isolated import Isolated
from chorus.transcribe.backends.protocol import Backend, Hypothesis, Sound
from chorus.transcribe.backends.words import of_tokens
from chorus.transcribe.decoding import Decoding
from chorus.transcribe.native.library import DISTRIBUTION, Messages, library
from chorus.transcribe.native.whisper_cpp import AGAIN, FLASH_ATTENTION, SHORTEST, language_count, long_enough
from chorus.transcribe.systems import GGML, System, refuse_converted

FILE = "ggml.bin"
# whisper.cpp works on float32 whatever it holds, and before 1.9 holds no convolution in it
TYPES = {"float32": "f16", "float16": "f16", "bfloat16": "bf16", "int8": "q8_0"}
MOST_BEAMS = 8  # that the library has room for
LEAST_TOKENS = 2  # it looks at its limit after the token that follows it
WINDOW_S = 30
TRIED_CONTEXT = 128  # of the encoder's positions: enough to see that it runs at all
NEVER = 1.0  # a probability of no speech that none exceeds: what a model writes is kept, however sure it is


def open_backend(system: System, decoding: Decoding, device: str) -> Backend:
    """Load in a process of its own; `CheckpointError` where whisper.cpp does not, or cannot run what it has loaded."""
    if find_spec("_pywhispercpp") is None:
        raise MissingExtraError("verify", "the whisper.cpp backend")
    if decoding.beam > MOST_BEAMS:
        raise UsageError(f"--beam {decoding.beam}: whisper.cpp has room for {MOST_BEAMS}", "give fewer beams")
    if decoding.max_new_tokens is not None and decoding.max_new_tokens < LEAST_TOKENS:
        raise UsageError(f"--max-new-tokens 1: whisper.cpp does not stop before {LEAST_TOKENS}", "give more")
    refuse_converted(system, unless=GGML)
    file = system.directory if system.kind == GGML else converted(system, "ggml", TYPES[decoding.dtype], FILE) / FILE
    settings = {
        "file": str(file), "name": system.label, "kind": _checked(system.label, file), "device": device,
        "decoding": decoding.model_dump(mode="json"),
    }  # fmt: skip
    try:
        return Isolated(f"{__name__}:WhisperCpp", settings, silent=True)
    except EndedError as error:
        raise CheckpointError(
            f"{system.label}: whisper.cpp cannot run it: {error.message}",
            "the file is damaged, or of a type that this version does not run (f32 before whisper.cpp 1.9)",
        ) from None


def _checked(name: str, file: Path) -> str:
    """The file's type; `CheckpointError` where whisper.cpp would fail at it, in clearer words than its own."""
    found = read(file)
    if problem := next(found.problems(), ""):
        raise CheckpointError(f"{name}: whisper.cpp cannot load it: {problem}", AGAIN)
    assert found.kind is not None, "one of the problems"
    return found.kind.name


class WhisperCpp:
    """The backend itself, in the child process.

    Pinned to what the other runtimes do: no fallback to higher temperatures, no text of the window before, no window
    left out as silence, no signs that stand for sounds (it knows no generation settings: its own list comes nearest to
    Whisper's), exact attention. With whisper-cli it is `-nf -bs 1 -bo 1 -mc 0 -sns -nfa`, and `-nt` without timestamps.
    """

    longest_s: float | None = float(WINDOW_S)
    long_form = True

    def __init__(self, file: str, name: str, kind: str, device: str, decoding: Mapping[str, object]) -> None:
        own = library()
        import _pywhispercpp as api

        self.api, self.name, self.messages = api, name, Messages()
        self.decoding = Decoding.model_validate(decoding)
        about = api.whisper_context_default_params()
        about.use_gpu, about.gpu_device = device_parts(device)[0] != "cpu", device_parts(device)[1] or 0
        about.flash_attn = FLASH_ATTENTION
        wrong = ""
        try:
            self.context = api.whisper_init_from_file_with_params(file, about)
        except Exception as error:  # what C++ throws
            wrong = f"{type(error).__name__}: {error}"
        # a context that was not made looks like any other here, and using it ends the process
        if wrong or self.messages.errors:
            raise CheckpointError(f"{name}: whisper.cpp cannot load it ({self.messages.first(wrong)})", AGAIN)
        count = language_count(api.whisper_n_vocab(self.context))
        self.languages = {api.whisper_lang_str(i): i for i in range(count)}
        self.limit: int = api.whisper_n_text_ctx(self.context) // 2 - 4  # tokens of a window, by whisper.cpp's own rule
        versions = {DISTRIBUTION: version(DISTRIBUTION), "whisper.cpp": own.whisper_version().decode()}
        self.facts = {**versions, "ggml type": kind}
        self._try()

    def _try(self) -> None:
        """Decode a moment of silence: some types load and then end the process, which must not cost every row."""
        settings = self._settings("en", timestamps=False)
        settings.audio_ctx, settings.max_tokens = min(TRIED_CONTEXT, self.api.whisper_n_audio_ctx(self.context)), 1
        self._run(settings, Sound(np.zeros(SHORTEST, np.float32), Row("silence")))

    def sort_key(self, seconds: float) -> tuple[float, float]:
        return (0.0, -seconds)

    def check(self, rows: Sequence[Row]) -> None:
        for row in rows:
            self._language(row)

    def _language(self, row: Row) -> str:
        """The code that a row is decoded in; empty where it is detected."""
        return asked_language(self.decoding, row, self.languages) if self.languages else "en"

    def transcribe(self, sounds: Sequence[Sound]) -> list[Hypothesis]:
        return [self._one(sound) for sound in sounds]

    def _one(self, sound: Sound) -> Hypothesis:
        # long audio goes on from the last timestamp, as in the other runtimes
        timestamps = self.decoding.timestamps or sound.seconds > WINDOW_S
        settings = self._settings(self._language(sound.row), timestamps=timestamps)
        self._run(settings, sound)
        api, context = self.api, self.context
        parts = range(api.whisper_full_n_segments(context))
        text = b"".join(api.whisper_full_get_segment_text(context, i) for i in parts).decode(errors="replace")
        spoken = api.whisper_lang_str(api.whisper_full_lang_id(context))
        told = self.decoding.detail != "text"
        segments = [self._segment(i, sound.seconds, spoken) for i in parts] if told else []
        cut = any(self._is_cut(i) for i in parts)
        return Hypothesis(text.strip(), spoken, cut, tuple(one for one in segments if one.text))

    def _segment(self, part: int, seconds: float, language: str) -> Segment:
        """A segment with its times, which are in hundredths of a second."""
        api, context = self.api, self.context

        start = within(api.whisper_full_get_segment_t0(context, part) / 100, seconds)
        end = max(start, within(api.whisper_full_get_segment_t1(context, part) / 100, seconds))
        text = api.whisper_full_get_segment_text(context, part).decode(errors="replace").strip()
        if self.decoding.detail != "words":
            return Segment(start, end, text)
        tokens = [
            api.whisper_full_get_token_data(context, part, i) for i in range(api.whisper_full_n_tokens(context, part))
        ]
        spoken = [
            (api.whisper_token_to_bytes(context, one.id), within(one.t0 / 100, seconds),
             within(max(one.t0, one.t1) / 100, seconds), one.p)
            for one in tokens if one.id < api.whisper_token_eot(context)
        ]  # fmt: skip
        return Segment(start, end, text, of_tokens(spoken, language))

    def _run(self, settings: Any, sound: Sound) -> None:
        samples = long_enough(sound.audio)
        code = self.api.whisper_full(self.context, settings, samples, len(samples))
        if code:
            raise ChorusError(f"whisper.cpp: {self.messages.first(f'error {code}')}")

    def _is_cut(self, part: int) -> bool:
        """Whether a segment ends at the limit, by neither the token of the end nor a timestamp."""
        api, context = self.api, self.context
        count: int = api.whisper_full_n_tokens(context, part)
        limit = min(self.decoding.max_new_tokens or self.limit, self.limit)
        return count >= limit and api.whisper_full_get_token_id(context, part, count - 1) < api.whisper_token_eot(
            context
        )

    def _settings(self, language: str, *, timestamps: bool) -> Any:
        api, decoding = self.api, self.decoding
        kinds = api.whisper_sampling_strategy
        beams = decoding.beam > 1
        made = api.whisper_full_default_params(
            kinds.WHISPER_SAMPLING_BEAM_SEARCH if beams else kinds.WHISPER_SAMPLING_GREEDY
        )
        made.n_threads = threads()
        made.print_progress = made.print_realtime = made.print_timestamps = made.print_special = False
        made.greedy = {"best_of": 1}
        if decoding.beam > 1:
            made.beam_search = {"beam_size": decoding.beam, "patience": -1.0}
        made.temperature, made.temperature_inc, made.no_speech_thold = 0.0, 0.0, NEVER
        made.language, made.translate = language, task_token(decoding.task) == "translate"
        made.suppress_nst = True
        made.no_timestamps, made.no_context, made.n_max_text_ctx = not timestamps, True, 0
        if decoding.max_new_tokens is not None:
            made.max_tokens = decoding.max_new_tokens - 1
        made.token_timestamps = decoding.detail == "words"  # after the decoding: no text depends on it
        if decoding.prompt:
            self._prompt(made)
        return made

    def _prompt(self, made: Any) -> None:
        """Before every window; room for it and no more, so that no text of the window before follows it."""
        text = f" {self.decoding.prompt.strip()}"
        made.initial_prompt, made.carry_initial_prompt = text, True
        made.n_max_text_ctx = 1 - self.api.whisper_tokenize(self.context, text, 0, 0)

    def close(self) -> None:
        self.api.whisper_free(self.context)
