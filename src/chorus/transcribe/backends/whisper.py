"""Whisper through transformers: greedy by our own loop; beams, timestamps and long form by `generate`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from chorus.architectures.whisper import complete_generation, shorter_window, task_token
from chorus.cache import Cache
from chorus.data.audio import RATE
from chorus.data.features import FRAMES_PER_SECOND, LogMel
from chorus.data.limits import limits_from
from chorus.data.manifest import Row
from chorus.lazy import lazy
from chorus.models.languages import known_language
from chorus.transcribe.backends.greedy import greedy
from chorus.transcribe.backends.loading import load_model, load_side, put_weights
from chorus.transcribe.backends.protocol import Hypothesis, Sound
from chorus.transcribe.decoding import BY_COLUMN, DETECT, Decoding
from chorus.transcribe.systems import System

if TYPE_CHECKING:
    from chorus.checkpoints.lazy_tensor import LazyTensor

torch = lazy("torch")
transformers = lazy("transformers")

PROMPT_SHARE = 2  # of the decoder's positions a prompt takes at most one half, as openai-whisper has it


class Whisper:
    """The backend (see protocol.py)."""

    long_form = True

    def __init__(self, system: System, decoding: Decoding, device: str) -> None:
        self.decoding, self.device, self.task = decoding, device, task_token(decoding.task)
        self.model = load_model(transformers.WhisperForConditionalGeneration, system, decoding, device)
        self.tokenizer = load_side(transformers.WhisperTokenizerFast, system, "tokenizer")
        extractor = load_side(transformers.WhisperFeatureExtractor, system, "feature extractor")
        self.extractor = extractor
        self.features = LogMel(extractor, Cache())
        self.languages = set(limits_from(self.model.config, self.tokenizer).languages)
        complete_generation(self.model, self.tokenizer, self.languages)
        self.model.config.forced_decoder_ids = None
        self.longest_s: float | None = self.model.config.max_source_positions * 2 / FRAMES_PER_SECOND
        self.windows = sorted({min(float(s), self.longest_s) for s in (*(decoding.window_s or ()), self.longest_s)})
        self.facts: dict[str, str] = {}  # versions of transformers and torch are told of every result
        self.prompt = self._prompt(decoding.prompt)

    def _prompt(self, text: str) -> list[int]:
        if not text:
            return []
        ids = self.tokenizer.encode(f" {text.strip()}", add_special_tokens=False)
        room = self.model.config.max_target_positions // PROMPT_SHARE - 1
        return [self.token("<|startofprev|>"), *ids[-room:]]

    def token(self, name: str) -> int:
        return int(self.tokenizer.convert_tokens_to_ids(name))

    def replace(self, tensors: Mapping[str, LazyTensor]) -> None:
        """As the protocol says."""
        put_weights(self.model, tensors)

    def sort_key(self, seconds: float) -> tuple[float, float]:
        """Sounds of one window together, the longest first."""
        return (self._window_of(seconds), -seconds)

    def _window_of(self, seconds: float) -> float:
        assert self.longest_s is not None
        if seconds > self.longest_s:
            return 2 * self.longest_s
        return next(w for w in self.windows if seconds <= w)

    def transcribe(self, sounds: Sequence[Sound]) -> list[Hypothesis]:
        """Sounds of one window (see `sort_key`), or of several one after the other."""
        found: dict[int, Hypothesis] = {}
        groups: dict[float, list[int]] = {}
        for i, sound in enumerate(sounds):
            groups.setdefault(self._window_of(sound.seconds), []).append(i)
        for window_s, members in groups.items():
            chosen = [sounds[i] for i in members]
            long = self.longest_s is not None and window_s > self.longest_s
            decoded = self._long(chosen) if long else self._short(chosen, window_s)
            found |= dict(zip(members, decoded, strict=True))
        return [found[i] for i in range(len(sounds))]

    def close(self) -> None:
        del self.model

    def _short(self, sounds: Sequence[Sound], window_s: float) -> list[Hypothesis]:
        features = [self.features.cached(s.key, lambda s=s: s.audio) for s in sounds]
        inputs = self.features.window(features, int(window_s * FRAMES_PER_SECOND))
        inputs = inputs.to(self.device, self.model.dtype)
        with torch.inference_mode(), shorter_window(self.model, inputs.shape[-1] // 2):
            hidden = self.model.get_encoder()(inputs).last_hidden_state
            languages = self._languages(sounds, hidden)
            if self.decoding.beam == 1 and not self.decoding.timestamps:
                ids = self._greedy(hidden, languages)
            else:
                ids = self._generate(hidden, inputs, languages)
        texts = self.tokenizer.batch_decode(ids, skip_special_tokens=True)
        return [Hypothesis(t.strip(), code) for t, code in zip(texts, languages, strict=True)]

    def _languages(self, sounds: Sequence[Sound], hidden: Any = None) -> list[str]:
        """The code of each sound; empty where the model is English-only, or where long form detects by itself."""
        if not self.languages:
            return [""] * len(sounds)
        if self.decoding.language == DETECT:
            return self._detected(hidden) if hidden is not None else [""] * len(sounds)
        return [self.language(s.row) for s in sounds]

    def check(self, rows: Sequence[Row]) -> None:
        if self.languages and self.decoding.language != DETECT:
            for row in rows:
                self.language(row)

    def language(self, row: Row) -> str:
        """The code of a row's language; `DataError` where it is missing or unknown."""
        given = self.decoding.language
        text = row.language if given == BY_COLUMN else given
        return known_language(text, self.languages, where=row, hint="give --language CODE, or --language detect")

    def _detected(self, hidden: Any) -> list[str]:
        """The likeliest language token after the start, as openai-whisper detects."""
        from transformers.modeling_outputs import BaseModelOutput

        start = torch.full((len(hidden), 1), self.model.generation_config.decoder_start_token_id, device=self.device)
        out = self.model(encoder_outputs=BaseModelOutput(last_hidden_state=hidden), decoder_input_ids=start)
        known = {int(i): token.strip("<|>") for token, i in self.model.generation_config.lang_to_id.items()}
        ids = sorted(known)
        return [known[ids[i]] for i in out.logits[:, -1, ids].argmax(-1).tolist()]

    def _greedy(self, hidden: Any, languages: Sequence[str]) -> list[list[int]]:
        settings = self.model.generation_config
        prefixes = []
        for code in languages:
            spoken = [self.token(f"<|{code}|>"), self.token(f"<|{self.task}|>")] if code else []
            start = int(settings.decoder_start_token_id)
            prefixes.append([*self.prompt, start, *spoken, int(settings.no_timestamps_token_id)])
        return greedy(
            self.model, hidden, prefixes, max_new_tokens=self._room(len(prefixes[0])),
            suppress=settings.suppress_tokens or (), suppress_first=settings.begin_suppress_tokens or (),
        )  # fmt: skip

    def _room(self, taken: int) -> int:
        return max(1, min(self.decoding.max_new_tokens, int(self.model.config.max_target_positions) - taken - 1))

    def _generate(self, hidden: Any, inputs: Any, languages: Sequence[str]) -> list[list[int]]:
        """transformers' beams, language by language."""
        from transformers.modeling_outputs import BaseModelOutput

        found: dict[int, list[int]] = {}
        for code in sorted(set(languages)):
            members = [i for i, one in enumerate(languages) if one == code]
            ids = self.model.generate(
                input_features=inputs[members],
                encoder_outputs=BaseModelOutput(last_hidden_state=hidden[members]),
                max_new_tokens=self._room(len(self.prompt) + 4),
                **self._settings(code),
            )
            found |= dict(zip(members, ids.tolist(), strict=True))
        return [self._without_prompt(found[i]) for i in range(len(languages))]

    def _settings(self, code: str) -> dict[str, Any]:
        settings: dict[str, Any] = {
            "num_beams": self.decoding.beam, "do_sample": False, "return_timestamps": self.decoding.timestamps,
        }  # fmt: skip
        if self.languages:
            settings |= {"task": self.task} | ({"language": code} if code else {})
        if self.prompt:
            settings["prompt_ids"] = torch.tensor(self.prompt, device=self.device)
        return settings

    def _without_prompt(self, ids: list[int]) -> list[int]:
        count = len(self.prompt)
        return ids[count:] if count and ids[:count] == self.prompt else ids

    def _long(self, sounds: Sequence[Sound]) -> list[Hypothesis]:
        """The model's own long form: windows that go on from the last timestamp decoded."""
        hypotheses = []
        for sound, code in zip(sounds, self._languages(sounds), strict=True):
            made = self.extractor(
                sound.audio, sampling_rate=RATE, return_tensors="pt", truncation=False, padding="longest",
                return_attention_mask=True,
            )  # fmt: skip
            settings = {**self._settings(code), "return_timestamps": True}
            with torch.inference_mode():
                ids = self.model.generate(
                    input_features=made["input_features"].to(self.device, self.model.dtype),
                    attention_mask=made["attention_mask"].to(self.device), **settings,
                )  # fmt: skip
            text = self.tokenizer.batch_decode(ids, skip_special_tokens=True)[0]
            hypotheses.append(Hypothesis(text.strip(), code))
        return hypotheses
