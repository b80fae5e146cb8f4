"""When Whisper heard what it wrote: segments by its timestamps, words by the heads that follow the speech.

A word's times come from cross-attention (openai-whisper, timing.py): some heads look, for each token, at the frames in
which it is spoken. Their weights, normalised over tokens and smoothed over frames, are a matrix [tokens, frames], and
the path of least cost through it (dynamic time warping) says which frame each token begins in.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from chorus.errors import UsageError
from chorus.lazy import lazy
from chorus.models.times import Word, in_ms
from chorus.models.whisper import POSITIONS_PER_SECOND, LoadedWhisper
from chorus.transcribe.backends.words import begins_word, with_marks

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from chorus.data.audio import Audio
    from chorus.transcribe.backends.protocol import Sound

    Floats = NDArray[np.float64]
else:
    np, torch = lazy("numpy"), lazy("torch")

STEP_S = 0.02  # between two timestamps
SMOOTHED = 7  # frames that a median is taken of
LONGEST_WORD_S = 1.4  # at the end of a sentence, where a pause would belong to it
ROOM = 8  # of the decoder's positions: start, language, task, no timestamps, end
SENTENCE_ENDS = ".。!！?？"
RATE = 16_000


class Timed(NamedTuple):
    """Tokens of text between two times [s] of a sound."""

    start: float
    end: float
    ids: tuple[int, ...]

    @classmethod
    def of(cls, start: float, end: float, ids: Sequence[int], end_token: int, seconds: float) -> Timed:
        """Times within the sound, whatever the model wrote; of the tokens those of text."""
        first = min(max(0.0, float(start)), seconds)
        return cls(first, min(max(first, float(end)), seconds), tuple(token for token in ids if token < end_token))


def by_timestamps(ids: Sequence[int], end_token: int, no_timestamps: int, seconds: float) -> list[Timed]:
    """What stands between the timestamps of a window; the last goes on to the end of the sound where none closes it.

    >>> by_timestamps([103, 1, 2, 153, 153, 3, 100], 100, 102, 5.0)
    [Timed(start=0.0, end=1.0, ids=(1, 2)), Timed(start=1.0, end=5.0, ids=(3,))]
    """
    found: list[Timed] = []
    start, text = 0.0, list[int]()
    for token in ids:
        if token == end_token:  # what follows is padding
            break
        if token <= no_timestamps:
            text.append(token)
            continue
        now = (token - no_timestamps - 1) * STEP_S
        if text:
            found.append(Timed.of(start, now, text, end_token, seconds))
        start, text = now, []
    if text:
        found.append(Timed.of(start, seconds, text, end_token, seconds))
    return [one for one in found if one.ids]


class WordTimes:
    """The words of a loaded Whisper's texts, with times. `UsageError` where nothing says which heads follow speech."""

    def __init__(self, whisper: LoadedWhisper, task: str) -> None:
        self.whisper, self.model, self.tokenizer, self.task = whisper, whisper.model, whisper.tokenizer, task
        heads = getattr(self.model.generation_config, "alignment_heads", None)
        if not heads:
            raise UsageError(
                "no word timestamps: the model's generation_config.json names no alignment_heads",
                "copy them there from its base's, or use --backend faster-whisper or openai-whisper",
            )
        layers, wide = int(self.model.config.decoder_layers), int(self.model.config.decoder_attention_heads)
        if any(not (0 <= layer < layers and 0 <= head < wide) for layer, head in heads):
            raise UsageError(
                f"no word timestamps: the alignment_heads of generation_config.json are not within {layers} layers of "
                f"{wide} heads",
                "take the heads of the base that the model was trained from",
            )
        self.heads = [(int(layer), int(head)) for layer, head in heads]

    def of(self, sound: Sound, timed: Sequence[Timed], language: str) -> list[tuple[Word, ...]]:
        """The words of each stretch of text; stretches that fit into one window are looked at together."""
        found: list[tuple[Word, ...]] = []
        for start, end, group in self._windows(sound, timed):
            audio = sound.audio[int(start * RATE) : int(end * RATE)]
            ids = [token for one in group for token in one.ids]
            words = self._words(audio, ids, language)
            for one in group:
                taken = list(_taken(words, len(one.ids)))
                words = words[len(taken) :]
                found.append(tuple(
                    Word(in_ms(start + w.start), in_ms(start + w.end), w.text, w.probability)
                    for w in with_marks([w for w, _ in taken])
                ))  # fmt: skip
        return found

    def _windows(self, sound: Sound, timed: Sequence[Timed]) -> Iterator[tuple[float, float, list[Timed]]]:
        """Neighbours that the encoder and the decoder take at once, with the part of the sound that they are in."""
        longest, room = self.whisper.longest_s, int(self.model.config.max_target_positions) - ROOM
        group: list[Timed] = []
        whole = sound.seconds <= longest
        for one in [*timed, None]:  # None ends the last group
            if group and (
                one is None
                or (not whole and one.end - group[0].start > longest)
                or sum(len(g.ids) for g in group) + len(one.ids) > room
            ):
                first, last = (0.0, sound.seconds) if whole else (group[0].start, group[-1].end)
                yield first, min(last, first + longest), group
                group = []
            if one is not None:
                group.append(one)

    def _words(self, audio: Audio, ids: Sequence[int], language: str) -> list[tuple[Word, int]]:
        """Each word of the text with how many tokens it has."""
        frames = min(int(self.model.config.max_source_positions), -(-len(audio) * POSITIONS_PER_SECOND // RATE))
        if not ids or not frames:
            return [(Word(0.0, 0.0, text), count) for text, count in self._split(ids, language)]
        matrix, chances = self._attended(audio, ids, language, frames)
        starts = [frame / POSITIONS_PER_SECOND for frame in path_starts(-matrix)]
        words, at = [], 0
        for text, count in self._split(ids, language):
            chance = float(np.mean(chances[at : at + count]))
            words.append((Word(starts[at], starts[at + count], text, round(chance, 4)), count))
            at += count
        return without_pauses(words)

    def _attended(self, audio: Audio, ids: Sequence[int], language: str, frames: int) -> tuple[Floats, Floats]:
        """What the heads look at [tokens of text and the end, frames], and how likely each token of the text was."""
        settings = self.model.generation_config
        spoken = self.whisper.spoken(language, self.task)
        before = [int(settings.decoder_start_token_id), *spoken, int(settings.no_timestamps_token_id)]
        end = self.tokenizer.eos_token_id
        tokens = torch.tensor([[*before, *ids, end]], device=self.model.device)
        first = next(p for p in self.model.parameters() if p.is_floating_point())
        features = self.whisper.extractor(audio, sampling_rate=RATE, return_tensors="pt")["input_features"]
        weights: dict[int, torch.Tensor] = {}
        layers = self.model.get_decoder().layers

        def keep(layer: int) -> torch.utils.hooks.RemovableHandle:
            def look(module: object, given: object, made: tuple[torch.Tensor, torch.Tensor]) -> None:
                weights[layer] = made[1][0].float()

            handle: torch.utils.hooks.RemovableHandle = layers[layer].encoder_attn.register_forward_hook(look)
            return handle

        # one forward pass over the finished text: the decoding itself may be fast, and need not keep what it looked at
        usual = self.model.config._attn_implementation
        self.model.set_attn_implementation("eager")  # the fast kinds do not say what they look at
        hooks = [keep(layer) for layer in sorted({layer for layer, _ in self.heads})]
        try:
            with torch.inference_mode():
                inputs = features.to(first.device, first.dtype)
                logits = self.model(input_features=inputs, decoder_input_ids=tokens).logits[0].float()
        finally:
            for hook in hooks:
                hook.remove()
            self.model.set_attn_implementation(usual)
        # of tokens of text alone: what a timestamp might have got is no doubt about a word
        chances = logits[len(before) - 1 : -2, :end].softmax(-1)
        likely = chances[torch.arange(len(ids)), torch.tensor(list(ids), device=chances.device)]
        looked = torch.stack([weights[layer][head] for layer, head in self.heads])[:, :, :frames]
        return focused(looked.double().cpu().numpy())[len(before) - 1 : -1], likely.double().cpu().numpy()

    def _split(self, ids: Sequence[int], language: str) -> Iterator[tuple[str, int]]:
        """The text in words, each with the number of its tokens; letters by themselves where no spaces are written."""
        text, count = "", 0
        for piece, size in self._letters(ids):
            if count and begins_word(piece, language):
                yield text, count
                text, count = "", 0
            text, count = text + piece, count + size
        if count:
            yield text, count

    def _letters(self, ids: Sequence[int]) -> Iterator[tuple[str, int]]:
        """The fewest tokens at a time that are whole letters: several may share the bytes of one."""
        held: list[int] = []
        for token in ids:
            held.append(token)
            text = self.tokenizer.decode(held, clean_up_tokenization_spaces=False)
            if "\ufffd" not in text:
                yield text, len(held)
                held = []
        if held:
            yield self.tokenizer.decode(held, clean_up_tokenization_spaces=False), len(held)


def focused(looked: Floats) -> Floats:
    """Weights of heads [heads, tokens, frames] as one matrix [tokens, frames]: what stands out, smoothed."""
    # as a softmax over these frames alone would have it
    weights = looked / np.maximum(looked.sum(-1, keepdims=True), 1e-12)  # of the frames with speech alone
    deviation = np.maximum(weights.std(-2, keepdims=True), 1e-12)
    weights = (weights - weights.mean(-2, keepdims=True)) / deviation
    side = SMOOTHED // 2
    if weights.shape[-1] > side:
        padded = np.pad(weights, ((0, 0), (0, 0), (side, side)), mode="reflect")
        weights = np.median(np.lib.stride_tricks.sliding_window_view(padded, SMOOTHED, axis=-1), axis=-1)
    found: Floats = weights.mean(0)
    return found


def path_starts(cost: Floats) -> list[int]:
    """The frame in which the path of least cost [tokens, frames] enters each token.

    From one corner to the other it goes on by a token, by a frame, or by both (Sakoe & Chiba 1978).

    >>> path_starts(np.array([[0.0, 0, 1, 1], [1, 1, 0, 1], [1, 1, 1, 0]]))
    [0, 2, 3]
    """
    rows, columns = cost.shape
    total = np.full((rows + 1, columns + 1), np.inf)
    total[0, 0] = 0.0
    # one diagonal after the other: all cells of one depend on those before it alone
    for diagonal in range(rows + columns - 1):
        i = np.arange(max(0, diagonal - columns + 1), min(rows, diagonal + 1))
        j = diagonal - i
        least = np.minimum(np.minimum(total[i, j], total[i, j + 1]), total[i + 1, j])
        total[i + 1, j + 1] = cost[i, j] + least
    starts = [0] * rows
    i, j = rows, columns
    while i > 0:
        starts[i - 1] = j - 1
        both, token, frame = total[i - 1, j - 1], total[i - 1, j], total[i, j - 1]
        if both < token and both < frame:
            i, j = i - 1, j - 1
        elif token < both and token < frame:
            i -= 1
        else:
            j -= 1
        if j == 0:
            break
    return starts


def _taken(words: Sequence[tuple[Word, int]], tokens: int) -> Iterator[tuple[Word, int]]:
    """The first words that make so many tokens; a word across the border belongs to where it begins."""
    for word, count in words:
        if tokens <= 0:
            return
        yield word, count
        tokens -= count


def without_pauses(words: Sequence[tuple[Word, int]]) -> list[tuple[Word, int]]:
    """Words beside a pause, which take it for theirs, not longer than twice the usual.

    Such are the first and the last of a window, and those beside the end of a sentence.

    >>> words = [Word(0.0, 5.0, " yes"), Word(5.0, 5.5, " we"), Word(5.5, 6.0, " can")]
    >>> without_pauses([(word, 1) for word in words])[0][0].start
    4.0
    """
    lengths = [w.end - w.start for w, _ in words if w.end > w.start]
    most = min(LONGEST_WORD_S, 2 * float(np.median(lengths))) if lengths else 0.0
    found: list[tuple[Word, int]] = []
    for i, (word, count) in enumerate(words):
        if word.end - word.start > most:
            if i == 0 or words[i - 1][0].text.strip() in SENTENCE_ENDS:
                word = word._replace(start=word.end - most)
            elif i == len(words) - 1 or word.text.strip() in SENTENCE_ENDS:
                word = word._replace(end=word.start + most)
        found.append((word, count))
    return found
