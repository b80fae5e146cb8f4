"""The formats that there are; others' come from the entry-point group `chorus.exporters`."""

from __future__ import annotations

from chorus.export.protocol import Exporter
from chorus.registry import Registry


def _load() -> None:
    from chorus.export.ctranslate2.exporter import CTranslate2
    from chorus.export.ggml.exporter import Ggml

    EXPORTERS.add("ctranslate2", CTranslate2())
    EXPORTERS.add("ggml", Ggml())


EXPORTERS: Registry[Exporter] = Registry("format of export", "chorus.exporters", _load)
