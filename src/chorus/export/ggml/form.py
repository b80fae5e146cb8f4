"""whisper.cpp's file as a model that every command opens."""

from __future__ import annotations

from chorus.checkpoints.formats import FORMATS
from chorus.export.ggml.reader import GgmlForm

FORMATS.add("ggml", GgmlForm())
