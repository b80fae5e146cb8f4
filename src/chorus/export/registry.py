"""The formats that there are; others' come from the entry-point group `chorus.exporters`."""

from __future__ import annotations

from chorus.export.protocol import Exporter
from chorus.registry import Registry


def _load() -> None:
    from chorus.export.ctranslate2.exporter import CTranslate2
    from chorus.export.ggml.exporter import Ggml
    from chorus.export.gguf.adapter import GgufAdapter
    from chorus.export.gguf.exporter import Gguf
    from chorus.export.hf.exporter import HuggingFace
    from chorus.export.onnx.exporter import Onnx
    from chorus.export.openai.exporter import Openai

    EXPORTERS.add("ctranslate2", CTranslate2())
    EXPORTERS.add("ggml", Ggml())
    EXPORTERS.add("gguf", Gguf())
    EXPORTERS.add("gguf-adapter", GgufAdapter())
    EXPORTERS.add("onnx", Onnx())
    EXPORTERS.add("openai", Openai())
    EXPORTERS.add("hf", HuggingFace())


EXPORTERS: Registry[Exporter] = Registry("format of export", "chorus.exporters", _load)
