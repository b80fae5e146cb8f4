"""One ggml file in whisper.cpp, in this process: forced logits, tokens, log-mel spectrum, special ids."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from chorus.errors import CheckpointError, ChorusError
from chorus.models.whisper_tokens import MULTILINGUAL
from chorus.plain import JsonObject
from chorus.runtime import threads
from chorus.transcribe.native.library import DISTRIBUTION, KNOWN, Messages, library

if TYPE_CHECKING:
    from chorus.data.audio import Audio

Floats = np.ndarray[tuple[int, ...], np.dtype[np.float32]]

AGAIN = "convert or download it again"
DIMS = (
    "n_vocab", "n_audio_ctx", "n_audio_state", "n_audio_head", "n_audio_layer", "n_text_ctx", "n_text_state",
    "n_text_head", "n_text_layer", "n_mels", "ftype",
)  # fmt: skip
SPECIAL = {
    "eot": "<|endoftext|>", "sot": "<|startoftranscript|>", "translate": "<|translate|>",
    "transcribe": "<|transcribe|>", "solm": "<|startoflm|>", "prev": "<|startofprev|>", "nosp": "<|nospeech|>",
    "not": "<|notimestamps|>", "beg": "<|0.00|>",
}  # fmt: skip
# with it whisper.cpp (1.8.5, whisper_build_graph_encoder) attends to 36 positions of padding that nothing masks: of the
# real tiny.en's transcripts of single words, a fifth become others
FLASH_ATTENTION = False
OTHER_TOKENS = 51765  # of a vocabulary, besides its languages and one more where it is multilingual
SHORTEST = 4_000  # samples: the library reads 200 past the first, and decodes nothing under a tenth of a second
STATE_BYTES = 2_048  # at the beginning of a state, where its spectrum is looked for; it takes far more
TRIED_FRAMES = 7  # of a spectrum that is put in to see whether it is found
AS_GIVEN = {"use gpu": "0", "flash attn": "0"}


def language_count(vocabulary: int) -> int:
    """How many languages whisper.cpp gives a vocabulary of this size; none where it takes it for English alone."""
    return vocabulary - OTHER_TOKENS - 1 if vocabulary >= MULTILINGUAL else 0


def long_enough(audio: Audio) -> Floats:
    """The audio, with silence after it where whisper.cpp would take too little: silence follows in any case."""
    samples = np.ascontiguousarray(audio, dtype=np.float32)
    return np.pad(samples, (0, max(0, SHORTEST - len(samples))))


class LoadedGgml:
    """A loaded model. Damaged files may end the process: see remote.py."""

    def __init__(self, path: str) -> None:
        self.library, self.messages = library(), Messages()
        self.threads = threads()
        settings = self.library.whisper_context_default_params()
        settings.use_gpu, settings.flash_attn = False, FLASH_ATTENTION
        self.context = self.library.whisper_init_from_file_with_params_no_state(path.encode(), settings)
        if not self.context or self.messages.errors:
            raise CheckpointError(f"{path}: whisper.cpp cannot load it ({self.messages.first()})", AGAIN)
        if self.messages.taken != AS_GIVEN:
            raise ChorusError(
                f"{path}: whisper.cpp has read other settings than it was given: {self.messages.taken}", KNOWN
            )
        self.state = self.library.whisper_init_state(self.context)
        if not self.state:
            raise ChorusError(f"{path}: whisper.cpp has no memory to run it ({self.messages.first()})")
        self.dims = {name: int(getattr(self.library, f"whisper_model_{name}")(self.context)) for name in DIMS}
        self._tried = False

    def about(self) -> JsonObject:
        """What the file and the library say of themselves."""
        return {"versions": self.versions(), "dims": self.dims, "special_ids": self.special_ids()}

    def versions(self) -> dict[str, str]:
        from importlib.metadata import version

        return {DISTRIBUTION: version(DISTRIBUTION), "whisper.cpp": self.library.whisper_version().decode()}

    def special_ids(self) -> dict[str, int]:
        """Token -> id as whisper.cpp has it, by the size of the vocabulary alone."""
        found = {token: int(getattr(self.library, f"whisper_token_{n}")(self.context)) for n, token in SPECIAL.items()}
        for i in range(language_count(self.dims["n_vocab"])):
            code = self.library.whisper_lang_str(i).decode()
            found[f"<|{code}|>"] = int(self.library.whisper_token_lang(self.context, i))
        return found

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """Each text as its tokenizer cuts it: the longest token first, not byte pairs by rank."""
        return [self._tokens(text.encode()) for text in texts]

    def _tokens(self, text: bytes) -> list[int]:
        room = (ctypes.c_int * (len(text) + 1))()
        count = self.library.whisper_tokenize(self.context, text, room, len(room))
        if self.messages.errors or count < 0:
            raise ChorusError(f"whisper.cpp has no tokens for {text.decode()!r} ({self.messages.first()})")
        return list(room[:count])

    def log_mel(self, audio: Audio) -> Floats:
        """[mel bins, frames] of the audio and of the half minute of silence that it puts after it."""
        if not self._tried:
            self._try()
        self._hear(audio)
        return self._spectrum()

    def _try(self) -> None:
        """A spectrum that is put in must come back: another build may keep its own elsewhere, or turned round."""
        known = np.arange(self.dims["n_mels"] * TRIED_FRAMES, dtype=np.float32).reshape(-1, TRIED_FRAMES)
        self._set(known)
        if not np.array_equal(self._spectrum(), known):
            raise ChorusError(f"{self._version()} gives another spectrum back than it was given", KNOWN)
        self._tried = True

    def _spectrum(self) -> Floats:
        """What a state holds, length and all, where its interface gives no way to it but its length."""
        frames, bins = self.library.whisper_n_len_from_state(self.state), self.dims["n_mels"]
        head = ctypes.string_at(self.state, STATE_BYTES)
        # three integers and a vector of floats that fit each other
        for place in range(0, STATE_BYTES - 40, 4):
            length, whole, its_bins = struct.unpack_from("<3i", head, place)
            if (whole, its_bins) != (frames, bins) or length < frames:
                continue
            begin, end, room = struct.unpack_from("<3Q", head, -(-(place + 12) // 8) * 8)
            if end - begin == 4 * length * bins and room >= end:
                return np.frombuffer(ctypes.string_at(begin, end - begin), np.float32).reshape(bins, length)
        raise ChorusError(f"the spectrum is not where {self._version()} is known to keep it", KNOWN)

    def _version(self) -> str:
        return f"whisper.cpp {self.versions()['whisper.cpp']}"

    def logits(self, tokens: Sequence[int], *, audio: Audio | None = None, mel: Floats | None = None) -> Floats:
        """[tokens, vocabulary]: after each token, given all before it and the first half minute of a sound.

        The sound is `audio`, or a log-mel spectrum [mel bins, frames].
        """
        if mel is not None:
            self._set(mel)
        else:
            assert audio is not None, "either audio or its spectrum"
            self._hear(audio)
        self._done(self.library.whisper_encode_with_state(self.context, self.state, 0, self.threads), "encode")
        size = self.dims["n_vocab"]
        if wrong := [token for token in tokens if not 0 <= token < size]:
            raise ChorusError(f"token {wrong[0]} is not one of {size:,}")
        if len(tokens) > self.dims["n_text_ctx"]:
            raise ChorusError(f"{len(tokens):,} tokens are more than its {self.dims['n_text_ctx']:,} positions")
        rows = [self._step(token, before) for before, token in enumerate(tokens)]
        return np.stack(rows) if rows else np.empty((0, size), np.float32)

    def _step(self, token: int, before: int) -> Floats:
        """One at a time, as it decodes: of several it keeps the last one's logits alone."""
        one = (ctypes.c_int * 1)(token)
        code = self.library.whisper_decode_with_state(self.context, self.state, one, 1, before, self.threads)
        self._done(code, "decode")
        found = self.library.whisper_get_logits_from_state(self.state)
        return np.ctypeslib.as_array(found, (self.dims["n_vocab"],)).copy()

    def _set(self, mel: Floats) -> None:
        values = np.ascontiguousarray(mel, dtype=np.float32)
        (bins, frames), pointer = values.shape, values.ctypes.data_as(ctypes.c_void_p)
        code = self.library.whisper_set_mel_with_state(self.context, self.state, pointer, frames, bins)
        self._done(code, "take the spectrum")

    def _hear(self, audio: Audio) -> None:
        samples = long_enough(audio)
        pointer = samples.ctypes.data_as(ctypes.c_void_p)
        code = self.library.whisper_pcm_to_mel_with_state(self.context, self.state, pointer, len(samples), self.threads)
        self._done(code, "hear the audio")

    def _done(self, code: int, what: str) -> None:
        if code:
            raise ChorusError(f"whisper.cpp could not {what} ({self.messages.first(f'code {code}')})")

    def close(self) -> None:
        self.library.whisper_free_state(self.state)
        self.library.whisper_free(self.context)
