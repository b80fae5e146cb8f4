"""Documents as JSON and YAML give them: maps whose values nothing has checked yet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

JsonObject = dict[str, Any]
JsonMap = Mapping[str, Any]  # the same, not to be written to
