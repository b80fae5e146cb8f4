"""Whisper through transformers: greedy by our own loop; beams, timestamps and long form by `generate`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from chorus.cache import Cache
from chorus.data.manifest import Row
from chorus.lazy import lazy
from chorus.models.batches import as_taken
from chorus.models.features import FRAMES_PER_SECOND, RATE
from chorus.models.finite import finite_alone
from chorus.models.kind import Kind
from chorus.models.label_scores import Scores, odds_of_heard, scores_of, tree_of
from chorus.models.languages import unspaced
from chorus.models.loading import put_weights
from chorus.models.parts import Parts
from chorus.models.texts import plain_ids
from chorus.models.times import Segment, in_ms
from chorus.models.whisper import GenerateSettings, LoadedWhisper, shorter_window, task_token
from chorus.tasks.registry import TASKS
from chorus.transcribe.backends.greedy import greedy
from chorus.transcribe.backends.hearing import AnswerForm, asked_labels, asked_language, by_form
from chorus.transcribe.backends.protocol import Hypothesis, Sound
from chorus.transcribe.backends.whisper_times import Timed, WordTimes, by_timestamps
from chorus.transcribe.decoding import DETECT, Decoding

if TYPE_CHECKING:
    import torch

    from chorus.checkpoints.lazy_tensor import LazyTensor
    from chorus.models.batches import Batch
    from chorus.models.features import Features
else:
    torch = lazy("torch")

PROMPT_SHARE = 2  # of the decoder's positions a prompt takes at most one half, as openai-whisper has it


class WhisperDecoder:
    """The backend (see protocol.py)."""

    long_form = True

    def __init__(self, kind: Kind, parts: Parts, decoding: Decoding) -> None:
        self.kind, self.parts = kind, parts
        self.decoding, self.task = decoding, task_token(decoding.task)
        self.whisper = LoadedWhisper(parts, Cache())
        self.model, self.tokenizer = parts.model, parts.tokenizer
        self.languages = self.whisper.languages
        self.longest_s = self.whisper.longest_s
        self.windows = sorted({min(float(s), self.longest_s) for s in (*(decoding.window_s or ()), self.longest_s)})
        self.facts: dict[str, str] = {}  # versions of transformers and torch are told of every result
        self.prompt = self._prompt(decoding.prompt)
        self.told = decoding.detail != "text"
        self.words = WordTimes(self.whisper, self.task) if decoding.detail == "words" else None

    def _prompt(self, text: str) -> list[int]:
        if not text:
            return []
        ids = plain_ids(self.tokenizer, f" {text.strip()}")
        room = self.model.config.max_target_positions // PROMPT_SHARE - 1
        return [self.whisper.token("<|startofprev|>"), *ids[-room:]]

    def replace(self, tensors: Mapping[str, LazyTensor]) -> None:
        """As the protocol says."""
        put_weights(self.model, tensors)

    def under(self, decoding: Decoding) -> WhisperDecoder:
        """As the protocol says."""
        return WhisperDecoder(self.kind, self.parts, decoding)

    def sort_key(self, seconds: float) -> tuple[float, float]:
        """Sounds of one window together, the longest first."""
        return (self._window_of(seconds), -seconds)

    def _window_of(self, seconds: float) -> float:
        if seconds > self.longest_s:
            return 2 * self.longest_s
        return next(w for w in self.windows if seconds <= w)

    def transcribe(self, sounds: Sequence[Sound]) -> list[Hypothesis]:
        """Sounds of one window (see `sort_key`) and one form of answers, or of several one after the other."""
        found: dict[int, Hypothesis] = {}
        groups: dict[tuple[float, AnswerForm], list[int]] = {}
        for form, places in by_form(self.decoding, [sound.row for sound in sounds], self.whisper.labels).items():
            for i in places:
                groups.setdefault((self._window_of(sounds[i].seconds), form), []).append(i)
        for (window_s, form), members in groups.items():
            chosen = [sounds[i] for i in members]
            decoded = self._long(chosen) if window_s > self.longest_s else self._short(chosen, window_s, form.most)
            found |= dict(zip(members, decoded, strict=True))
        return [found[i] for i in range(len(sounds))]

    def close(self) -> None:
        del self.model, self.whisper, self.parts

    def _short(self, sounds: Sequence[Sound], window_s: float, most: int | None) -> list[Hypothesis]:
        features = [self._features(sound) for sound in sounds]
        labels = asked_labels(self.decoding, [sound.row for sound in sounds])
        batch = {"input_features": self.whisper.features.window(features, int(window_s * FRAMES_PER_SECOND))}
        inputs = as_taken(batch, self.model)["input_features"]
        with torch.inference_mode(), shorter_window(self.model, inputs.shape[-1] // 2):
            hidden = self.model.get_encoder()(inputs).last_hidden_state
            languages = self._languages(sounds, hidden)
            if self.decoding.beam == 1 and not self.decoding.timestamps:
                ids = self._greedy(hidden, languages, most)
                written = [len(one) for one in ids]
            else:
                ids = self._generate(hidden, inputs, languages, most)
                written = [self._written(one) for one in ids]
            scores = self._scores(sounds, labels, hidden, languages)
        segments = [self._told(*one) for one in zip(sounds, languages, ids, strict=True)]
        texts = self.tokenizer.batch_decode(ids, skip_special_tokens=True)
        limit = self._room(len(self.prompt) + len(self.whisper.spoken(languages[0], self.decoding.task)) + 2, most)
        return [
            Hypothesis(text.strip(), code, count >= limit, told, odds)
            for text, count, code, told, odds in zip(texts, written, languages, segments, scores, strict=True)
        ]

    def _told(self, sound: Sound, code: str, ids: Sequence[int]) -> tuple[Segment, ...]:
        """The segments of a window between the timestamps in it; one, where it has none."""
        if not self.told:
            return ()
        settings = self.model.generation_config
        timed = by_timestamps(ids, self._end, settings.no_timestamps_token_id, sound.seconds)
        found = self._segments(sound, code, timed)
        # without timestamps the words alone know when it began and ended
        return found if self.decoding.timestamps else tuple(one.as_its_words() for one in found)

    def _segments(self, sound: Sound, code: str, timed: Sequence[Timed]) -> tuple[Segment, ...]:
        if not timed:  # batch_decode takes no texts for one text
            return ()
        spoken = self.words.of(sound, timed, code) if self.words is not None else [()] * len(timed)
        texts = self.tokenizer.batch_decode([list(one.ids) for one in timed], skip_special_tokens=True)
        return tuple(
            Segment(in_ms(one.start), in_ms(one.end), text.strip(), words)
            for one, text, words in zip(timed, texts, spoken, strict=True)
            if text.strip()
        )

    @property
    def _end(self) -> int:
        """The token that ends a text; those below it are text."""
        end = self.model.generation_config.eos_token_id
        return int(end[0] if isinstance(end, list) else end)

    def _written(self, ids: Sequence[int]) -> int:
        """How many tokens of text and timestamps a model has written: what has ended has one less than it might."""
        last = self.model.generation_config.no_timestamps_token_id
        return sum(token < self._end or token > last for token in ids)

    def _features(self, sound: Sound) -> Features:
        return self.whisper.features.cached(sound.key, lambda: sound.audio)

    def _languages(self, sounds: Sequence[Sound], hidden: torch.Tensor | None = None) -> list[str]:
        """The code of each sound; empty where the model is English-only, or where long form detects by itself."""
        if self.languages and self.decoding.language == DETECT and hidden is not None:
            return self._detected(hidden)
        return [self.language(s.row) for s in sounds]

    def check(self, rows: Sequence[Row]) -> None:
        for row in rows:
            self.language(row)

    def language(self, row: Row) -> str:
        """The code of a row's language, if it has to be told; `DataError` where it is missing or unknown."""
        return asked_language(self.decoding, row, self.languages)

    def _detected(self, hidden: torch.Tensor) -> list[str]:
        """The likeliest language token after the start, as openai-whisper detects."""
        from transformers.modeling_outputs import BaseModelOutput

        start = torch.full((len(hidden), 1), self.model.generation_config.decoder_start_token_id, device=hidden.device)
        out = self.model(encoder_outputs=BaseModelOutput(last_hidden_state=hidden), decoder_input_ids=start)
        known = {int(i): token.strip("<|>") for token, i in self.model.generation_config.lang_to_id.items()}
        ids = sorted(known)
        return [known[ids[i]] for i in out.logits[:, -1, ids].argmax(-1).tolist()]

    def _greedy(self, hidden: torch.Tensor, languages: Sequence[str], most: int | None) -> list[list[int]]:
        settings, prefixes = self.model.generation_config, self._prefixes(languages)
        return greedy(
            self.model, hidden, prefixes, max_new_tokens=self._room(len(prefixes[0]), most),
            suppress=settings.suppress_tokens or (), suppress_first=settings.begin_suppress_tokens or (),
        )  # fmt: skip

    def _prefixes(self, languages: Sequence[str]) -> list[list[int]]:
        """What the decoder is told before it writes a text without timestamps."""
        settings = self.model.generation_config
        start, last = int(settings.decoder_start_token_id), int(settings.no_timestamps_token_id)
        return [
            [*self.prompt, start, *self.whisper.spoken(code, self.decoding.task), last] for code in languages
        ]  # fmt: skip

    def _scores(
        self, sounds: Sequence[Sound], labels: Sequence[Sequence[str]], hidden: torch.Tensor, languages: Sequence[str]
    ) -> list[Scores]:
        """How likely each row's labels are, as a text without timestamps; nothing where answers are no labels."""
        if not labels or self.decoding.labels == "free":
            return [{} for _ in languages]
        # as they were taught: by the language that labels are written in, which is not the spoken one
        task = TASKS.get(self.decoding.task)
        written = [task.written(one.row) or code for one, code in zip(sounds, languages, strict=True)]
        trees = [
            tree_of({label: self.whisper.labels(label, spaced=not unspaced(code)) for label in own}, self._end)
            for own, code in zip(labels, written, strict=True)
        ]
        return [scores_of(one) for one in odds_of_heard(self.model, hidden, self._prefixes(languages), trees)]

    def _room(self, taken: int, most: int | None) -> int:
        """How many tokens may follow so many that were given: at most so many, or as many as fit."""
        room = int(self.model.config.max_target_positions) - taken - 1
        return max(1, min(most or room, room))

    def _generate(
        self, hidden: torch.Tensor, inputs: torch.Tensor, languages: Sequence[str], most: int | None
    ) -> list[list[int]]:  # fmt: skip
        """transformers' beams, language by language."""
        from transformers.modeling_outputs import BaseModelOutput

        found: dict[int, list[int]] = {}
        for code in sorted(set(languages)):
            members = [i for i, one in enumerate(languages) if one == code]
            ids = self.model.generate(
                input_features=inputs[members],
                encoder_outputs=BaseModelOutput(last_hidden_state=hidden[members]),
                max_new_tokens=self._room(
                    len(self.prompt) + len(self.whisper.spoken(code, self.decoding.task)) + 2, most
                ),
                **self._settings(code),
            )
            found |= dict(zip(members, ids.tolist(), strict=True))
        return [self._without_prompt(found[i], len(self.whisper.spoken(c, self.task))) for i, c in enumerate(languages)]

    def _settings(self, code: str) -> GenerateSettings:
        settings = GenerateSettings(
            num_beams=self.decoding.beam, do_sample=False, return_timestamps=self.decoding.timestamps,
            logits_processor=finite_alone(),
        )  # fmt: skip
        if self.languages:
            settings["task"] = self.task
            if code:
                settings["language"] = code
        if self.prompt:
            settings["prompt_ids"] = torch.tensor(self.prompt, device=self.model.device)
        if self.told and self.decoding.timestamps:
            # else a window whose speech ends early is decoded again from its beginning, as its encoding is given
            settings["force_unique_generate_call"] = True
        return settings

    def _without_prompt(self, ids: list[int], spoken: int) -> list[int]:
        count = len(self.prompt)
        ids = ids[count:] if count and ids[:count] == self.prompt else ids
        # a single call gives its beginning back: the start, the language and the task
        start = self.model.generation_config.decoder_start_token_id
        return ids[1 + spoken :] if self.told and ids[:1] == [start] else ids

    def _long(self, sounds: Sequence[Sound]) -> list[Hypothesis]:
        """The model's own long form: windows that go on from the last timestamp decoded."""
        hypotheses = []
        for sound, code in zip(sounds, self._long_languages(sounds), strict=True):
            whole = self.whisper.extractor(
                sound.audio, sampling_rate=RATE, return_tensors="pt", truncation=False, padding="longest",
                return_attention_mask=True,
            )  # fmt: skip
            batch: Batch = {name: whole[name] for name in ("input_features", "attention_mask")}
            settings: GenerateSettings = {**self._settings(code), "return_timestamps": True}
            settings.pop("force_unique_generate_call", None)
            with torch.inference_mode():
                made = self.model.generate(**as_taken(batch, self.model), **settings, return_segments=self.told)
            ids, parts = (made["sequences"], made["segments"][0]) if self.told else (made, [])
            text = self.tokenizer.batch_decode(ids, skip_special_tokens=True)[0]
            timed = [Timed.of(p["start"], p["end"], p["tokens"].tolist(), self._end, sound.seconds) for p in parts]
            told = self._segments(sound, code, [one for one in timed if one.ids])
            hypotheses.append(Hypothesis(text.strip(), code, segments=told))
        return hypotheses

    def _long_languages(self, sounds: Sequence[Sound]) -> list[str]:
        """As `_languages`; where it is to be told it is detected in the first window, as transformers detects it."""
        if not (self.told and self.languages and self.decoding.language == DETECT):
            return self._languages(sounds)
        columns = int(self.longest_s * FRAMES_PER_SECOND)
        batch = {
            "input_features": self.whisper.features.window([self.whisper.features(s.audio) for s in sounds], columns)
        }
        with torch.inference_mode():
            hidden = self.model.get_encoder()(as_taken(batch, self.model)["input_features"]).last_hidden_state
        return self._detected(hidden)
