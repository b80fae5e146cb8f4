"""Rows that the loaded model can learn: texts that it can write, languages that it knows, audio that it hears whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from chorus.data.utterance import Utterance
from chorus.errors import DataError
from chorus.train.config import TrainConfig
from chorus.train.rows import Rows, shown


def keep_what_fits(rows: Rows, backbone: Any, *, skip_bad: bool) -> None:
    """Take out of the rows what is too long to be heard; refuse (or take out) texts and languages it cannot write."""
    for name in ("train", "dev"):
        utterances = getattr(rows, name)
        unfit = _unfit(utterances, backbone)
        told = {kind: [f"{u.row}: {detail}" for u, detail in members] for kind, members in unfit.items()}
        if told and not skip_bad:
            text = "; ".join(f"{len(names)} {kind}: {shown(names)}" for kind, names in told.items())
            raise DataError(text, "mend the texts, or leave these rows out with --skip-bad")
        for kind, names in told.items():
            rows.left_out.setdefault(kind, []).extend(names)
        dropped = {id(u) for members in unfit.values() for u, _ in members}
        setattr(rows, name, _heard_whole([u for u in utterances if id(u) not in dropped], backbone, rows))
    if not rows.train and rows.stream is None:
        raise DataError("no training rows are left", "; ".join(f"{len(n)} {r}" for r, n in rows.left_out.items()))
    prefix = getattr(backbone, "prefix", None)
    if prefix is not None:
        for utterance in [*rows.train, *rows.dev]:
            prefix(utterance.row)  # a row without a language is found before the model is trained


def _unfit(utterances: list[Utterance], backbone: Any) -> dict[str, list[tuple[Utterance, str]]]:
    found: dict[str, list[tuple[Utterance, str]]] = {}
    by_row = {id(u.row): u for u in utterances}
    for row, kind, detail in backbone.limits.problems([u.row for u in utterances]) if utterances else ():
        found.setdefault(kind, []).append((by_row[id(row)], detail))
    for utterance in utterances if hasattr(backbone, "misfit") else ():
        why = backbone.misfit(utterance)
        if why:
            found.setdefault("text too long for its audio", []).append((utterance, why))
    return found


def _heard_whole(utterances: list[Utterance], backbone: Any, rows: Rows) -> list[Utterance]:
    longest = backbone.longest_s if backbone.needs_audio else None
    if longest is None:
        return utterances
    long = [str(u.row) for u in utterances if u.duration_s > longest + 0.01]
    if long:
        rows.left_out.setdefault(f"longer than {longest:g} s", []).extend(long)
    return [u for u in utterances if u.duration_s <= longest + 0.01]


def warn(config: TrainConfig, backbone: Any, note: Callable[[str], None]) -> None:
    """What is allowed and will be regretted."""
    share = config.data.timestamps
    if hasattr(backbone, "targets") and share in (0.0, 1.0):
        kind = "without" if share == 0 else "with"
        note(
            f"WARNING: every target is {kind} timestamps (data.timestamps: {share:g}). A Whisper that is taught only "
            f"one way breaks in the other: whisper.cpp and faster-whisper ask for timestamps by default."
        )
