"""What files are called after a model."""

from __future__ import annotations

import re

from chorus.checkpoints.model import Model

ENDING = re.compile(r"\.(ya?ml|pth?|bin|gguf)$")  # of files that are models, which is no part of their names


def name_of(model: Model) -> str:
    """What files are called after: the last part of what the model is called, of an adapter on its base the adapter."""
    last = ENDING.sub("", model.label.rpartition("+")[2].rpartition("/")[2].partition("@")[0])
    return "".join(letter if letter.isalnum() or letter in "-._" else "-" for letter in last).strip("-.") or "model"
