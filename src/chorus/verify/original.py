"""The source through transformers in float32: what an export is compared with, loaded once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from chorus.data.manifest import Row
from chorus.errors import CheckpointError
from chorus.lazy import lazy
from chorus.models.kind import named_class
from chorus.models.languages import known_language
from chorus.models.loading import kind_at, load_parts
from chorus.models.texts import plain_ids
from chorus.models.whisper import KIND, LoadedWhisper
from chorus.runtime import quiet_libraries
from chorus.transcribe.backends.greedy import greedy
from chorus.transcribe.backends.huggingface import OpenDecoder, origin_of
from chorus.transcribe.backends.protocol import Hypothesis, Sound
from chorus.transcribe.decoding import Decoding
from chorus.transcribe.transcriber import carefully

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from chorus.data.audio import Audio
    from chorus.models.features import Features
    from chorus.transcribe.systems import System
    from chorus.verify.protocol import Floats
else:
    np, torch = lazy("numpy"), lazy("torch")


@dataclass(frozen=True)
class Forcing:
    """A sound, where one is heard, the tokens that a decoder is given, and the source's logits [tokens, vocabulary].

    first: the position from which on the tokens are the decoder's own choice; before it stand start, language and task.
    """

    mel: Floats | None
    tokens: Sequence[int]
    first: int
    logits: Floats


class Original:
    """A Whisper as transformers runs it. `CheckpointError` where the system is no Whisper, or cannot be loaded."""

    def __init__(self, system: System, decoding: Decoding) -> None:
        origin = origin_of(system)
        self.kind, self.decoding = kind_at(origin, "decoded"), decoding
        if self.kind is not KIND:
            raise CheckpointError(f"{system.label}: no Whisper", "its logits and transcripts are not compared yet")
        with quiet_libraries():
            self.parts = load_parts(self.kind, origin, "float32")
            self.parts.model = self.parts.model.eval().requires_grad_(False)
            self.whisper = LoadedWhisper(self.parts)

    @property
    def bins(self) -> int:
        """Mel bins that its extractor makes; `config_bins` are those that the model takes."""
        return int(self.whisper.extractor.feature_size)

    @property
    def config_bins(self) -> int:
        return int(self.parts.model.config.num_mel_bins)

    @property
    def first_timestamp(self) -> int:
        """The id of <|0.00|>, by the model's settings: tokenizers of the first Whispers have no timestamps."""
        return int(self.parts.model.generation_config.no_timestamps_token_id) + 1

    @cached_property
    def filters(self) -> Floats:
        """[bins, 201]."""
        found: NDArray[np.float32] = np.asarray(self.whisper.extractor.mel_filters, np.float32).T
        return found

    @cached_property
    def tokens(self) -> dict[str, int]:
        found: dict[str, int] = self.parts.tokenizer.get_vocab()
        return found

    def ids(self, text: str) -> list[int]:
        """A text's tokens, none of them special."""
        return plain_ids(self.parts.tokenizer, text)

    def log_mel(self, audio: Audio) -> Features:
        """[bins, 3000]: the audio and silence after it, or its first thirty seconds."""
        features = self.whisper.features
        found: Features = features.window([features(audio)], features.columns)[0].numpy()
        return found

    def transcripts(self, sounds: Sequence[Sound], *, timestamps: bool) -> list[Hypothesis | str]:
        """Greedy, as the backend decodes; why not, where a sound fails."""
        decoding = self.decoding.model_copy(update={"timestamps": timestamps})
        with quiet_libraries():
            opened: OpenDecoder = named_class(self.kind.decoder)
            decoder = opened(self.kind, self.parts, decoding)
            return [one for sound in sounds for one in carefully(decoder, [sound])]

    def forcings(self, sound: Sound, *, closing: bool = False) -> Forcing:
        """What the source writes for a sound, each token given; `closing`: after <|0.00|>, as with timestamps."""
        model = self.parts.model
        mel = self.log_mel(sound.audio)
        settings = model.generation_config
        with torch.inference_mode():
            hidden = model.get_encoder()(torch.from_numpy(mel)[None]).last_hidden_state
            start = [int(settings.decoder_start_token_id), *self._spoken(sound.row, hidden)]
            none = int(settings.no_timestamps_token_id)
            room = int(model.config.max_target_positions) - len(start) - 2
            (text,) = greedy(
                model, hidden, [[*start, none]], max_new_tokens=room, suppress=settings.suppress_tokens or (),
                suppress_first=settings.begin_suppress_tokens or (),
            )  # fmt: skip
            # <|0.00|> is the token after <|notimestamps|>, in every vocabulary
            tokens = [*start, none + 1 if closing else none, *text]
            return Forcing(mel, tokens, len(start), self._logits(hidden, tokens))

    def logits(self, tokens: Sequence[int], *, mel: Floats) -> Floats:
        """[tokens, vocabulary]: after each token, given those before it and a log-mel spectrum [bins, 3000]."""
        with torch.inference_mode():
            hidden = self.parts.model.get_encoder()(torch.from_numpy(mel)[None]).last_hidden_state
            return self._logits(hidden, tokens)

    def _logits(self, hidden: torch.Tensor, tokens: Sequence[int]) -> Floats:
        from transformers.modeling_outputs import BaseModelOutput

        out = self.parts.model(
            encoder_outputs=BaseModelOutput(last_hidden_state=hidden), decoder_input_ids=torch.tensor([list(tokens)])
        )
        found: Floats = out.logits[0].float().numpy()
        return found

    def _spoken(self, row: Row, hidden: torch.Tensor) -> list[int]:
        """Language and task; the first language that the model knows where none is told."""
        if not self.whisper.languages:
            return []
        known = self.whisper.languages
        told = row.language
        code = known_language(told, known, where=row, hint="give --language CODE") if told else self._likeliest(hidden)
        return self.whisper.spoken(code, self.decoding.task)

    def _likeliest(self, hidden: torch.Tensor) -> str:
        settings = self.parts.model.generation_config
        row = self._logits(hidden, [int(settings.decoder_start_token_id)])[-1]
        ids: dict[int, str] = {int(number): token.strip("<|>") for token, number in settings.lang_to_id.items()}
        return ids[max(ids, key=lambda number: float(row[number]))]
