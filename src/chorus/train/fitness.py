"""Rows that the loaded model can learn: texts that it can write, languages that it knows, audio that it takes whole."""

from __future__ import annotations

from chorus.data.utterance import Utterance
from chorus.errors import DataError
from chorus.train.backbones.protocol import Backbone
from chorus.train.rows import TrainingRows, shown


def keep_what_fits(rows: TrainingRows, backbone: Backbone, *, skip_bad: bool) -> None:
    """Take out of the rows what is too long for the model; refuse (or take out) texts and languages it cannot write."""
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
        setattr(rows, name, _short_enough([u for u in utterances if id(u) not in dropped], backbone, rows))
    if not rows.train and rows.stream is None:
        raise DataError("no training rows are left", "; ".join(f"{len(n)} {r}" for r, n in rows.left_out.items()))


def _unfit(utterances: list[Utterance], backbone: Backbone) -> dict[str, list[tuple[Utterance, str]]]:
    found: dict[str, list[tuple[Utterance, str]]] = {}
    by_row = {id(u.row): u for u in utterances}
    for row, kind, detail in backbone.limits.problems([u.row for u in utterances]) if utterances else ():
        found.setdefault(kind, []).append((by_row[id(row)], detail))
    # each row is told of once; and what its text breaks, such as an unknown language, misfit() need not meet
    known = {id(u) for members in found.values() for u, _ in members}
    for utterance in (u for u in utterances if id(u) not in known):
        why = backbone.misfit(utterance)
        if why:
            found.setdefault("text too long for its audio", []).append((utterance, why))
    return found


def _short_enough(utterances: list[Utterance], backbone: Backbone, rows: TrainingRows) -> list[Utterance]:
    longest = backbone.longest_s
    if longest is None:
        return utterances
    long = [str(u.row) for u in utterances if u.duration_s > longest + 0.01]
    if long:
        rows.left_out.setdefault(f"longer than {longest:g} s", []).extend(long)
    return [u for u in utterances if u.duration_s <= longest + 0.01]
