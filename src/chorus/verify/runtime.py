"""A runtime's own numbers for an export, from a process of its own: what crashes there is a finding here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from chorus.plain import JsonMap
from chorus.transcribe.native.remote import Remote

if TYPE_CHECKING:
    from chorus.data.audio import Audio
    from chorus.verify.protocol import Floats


class RuntimeChild:
    """What `module:class` makes of `settings` (see protocol.Native); it may lack what its format is not asked for."""

    def __init__(self, made_by: str, settings: JsonMap, *, what: str) -> None:
        self._remote = Remote(made_by, settings, what=what)
        try:
            self.versions: Mapping[str, str] = self._remote.ask("versions")
        except BaseException:
            self._remote.close()
            raise

    def logits(self, tokens: Sequence[int], *, mel: Floats | None = None) -> Floats:
        """As the protocol says."""
        sound = {} if mel is None else {"mel": mel}
        found: Floats = self._remote.ask("logits", tokens=[int(i) for i in tokens], **sound)
        return found

    @property
    def special_ids(self) -> Mapping[str, int]:
        """Its special tokens."""
        found: Mapping[str, int] = self._remote.ask("special_ids")
        return found

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """Each text as it cuts it; special tokens in it are text."""
        found: list[list[int]] = self._remote.ask("tokens", texts=list(texts))
        return found

    def log_mel(self, audio: Audio) -> Floats:
        """[mel bins, frames] of audio at 16 kHz and of silence after it."""
        found: Floats = self._remote.ask("log_mel", audio=audio)
        return found

    def __enter__(self) -> RuntimeChild:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._remote.close()
