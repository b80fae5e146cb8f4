"""The contract of a runtime, on a loaded backend and some sounds."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from chorus.errors import CheckpointError
from chorus.transcribe.backends.protocol import Backend, Hypothesis, Sound

SLACK_S = 0.001  # that rounding may go beyond a sound


def check_backend(backend: Backend, sounds: Sequence[Sound]) -> int:
    """Hold a backend to its protocol; closes it, and returns how many hypotheses were compared.

    Batches must not change texts, whoever else is in them and in whatever order; give sounds of unequal lengths. Where
    the decoding asks for times, they lie in the sound, in order, and words are those of their segments.
    """
    assert len(sounds) > 1, "give some sounds of unequal lengths"
    assert backend.longest_s is None or backend.longest_s > 0
    assert isinstance(backend.long_form, bool)
    assert all(isinstance(v, str) for v in backend.facts.values()), backend.facts
    backend.check([sound.row for sound in sounds])
    keys = [backend.sort_key(sound.seconds) for sound in sounds]
    assert all(len(key) == 2 for key in keys), keys
    # of unequal lengths: padding and masks are what makes a batch differ from its sounds alone
    together = list(backend.transcribe(sounds))
    assert len(together) == len(sounds), f"{len(together)} hypotheses for {len(sounds)} sounds"
    assert all(isinstance(one, Hypothesis) for one in together)
    for sound, one in zip(sounds, together, strict=True):
        _check_times(sound, one)
    turned = list(backend.transcribe(list(reversed(sounds))))
    assert turned[::-1] == together, "the order of a batch changes its texts"
    alone = [one for sound in sounds for one in backend.transcribe([sound])]
    assert alone == together, "a sound alone gives another text than in a batch"
    with suppress(CheckpointError):  # a runtime may say that it takes no other weights
        backend.replace({})
    assert list(backend.transcribe(sounds)) == together, "replacing no weight changes texts"
    backend.close()
    return 4 * len(sounds)


def _check_times(sound: Sound, found: Hypothesis) -> None:
    last = 0.0
    for segment in found.segments:
        assert last <= segment.start <= segment.end <= sound.seconds + SLACK_S, f"{segment} in {sound.seconds} s"
        assert segment.text == segment.text.strip() != "", f"{segment}: no text, or spaces around it"
        last = segment.start
        begun = [word.start for word in segment.words]
        assert begun == sorted(begun), f"words are not in order: {segment.words}"
        assert all(word.start <= word.end <= sound.seconds + SLACK_S for word in segment.words), segment.words
        said = "".join("".join(word.text.split()) for word in segment.words)
        assert not segment.words or said == "".join(segment.text.split()), f"{said} are other words than {segment.text}"
