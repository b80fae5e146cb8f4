"""`chorus.transcribe`: recordings in, what was said in them out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from chorus.checkpoints.open import Source
from chorus.errors import DataError
from chorus.progress import Progress
from chorus.runtime import pick_device
from chorus.transcribe.backends.choose import chosen_backend
from chorus.transcribe.decoding import BY_COLUMN, DETECT, Decoding, check_language
from chorus.transcribe.listening import Listener, Transcription
from chorus.transcribe.recordings import recordings
from chorus.transcribe.systems import System, open_system


def transcribe(
    system: System | Source,
    audio: str | Path | Sequence[str | Path],
    *,
    decoding: Decoding | None = None,
    words: bool = False,
    backend: str = "auto",
    device: str = "auto",
    progress: Progress = lambda done, total: None,
) -> list[Transcription]:
    """What a system hears in recordings: files, and every file below a folder that is called as audio is.

    `system` is whatever `chorus.open_model` takes, or what `open_system` has opened. Without a `decoding` the language
    is detected. Each result has segments: with `decoding.timestamps` those that Whisper's timestamps tell, else one for
    each window or piece; with `words` their words too. A recording that cannot be read has `failed` say why, and ends
    nothing; `DataError` where none can be read.

        [heard] = chorus.transcribe("whisper-tiny.en", "talk.mp3", words=True)
        heard.text, heard.segments[0].words[0].start
    """
    listener = listener_for(system, decoding or Decoding(), words=words, backend=backend, device=device)
    found = recordings([audio] if isinstance(audio, str | Path) else audio)
    if not found:
        raise DataError("no recording to transcribe", "name files or folders")
    heard = list(listener.hear(found, progress))
    if all(one.failed for one in heard):
        reason = f"{heard[0].name}: {heard[0].failed}"
        raise DataError(f"no recording could be transcribed: {reason}", "mend it, or convert it to FLAC")
    return heard


def listener_for(
    system: System | Source, decoding: Decoding, *, words: bool = False, backend: str = "auto", device: str = "auto"
) -> Listener:
    """A system opened to hear recordings, whose languages no manifest tells."""
    check_language(decoding.language)
    opened = system if isinstance(system, System) else open_system(system)
    language = DETECT if decoding.language == BY_COLUMN else decoding.language
    asked = decoding.model_copy(update={"language": language, "detail": "words" if words else "segments"})
    return Listener(opened, asked, chosen_backend(backend, opened), pick_device(device))
