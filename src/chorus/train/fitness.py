"""Rows that the loaded model can learn: texts that it can write, languages that it knows, audio that it takes whole."""

from __future__ import annotations

from dataclasses import replace

from chorus.data.utterance import Utterance
from chorus.errors import DataError
from chorus.models.languages import language_code
from chorus.models.limits import NOT_LEARNT, OTHER_LANGUAGE
from chorus.train.backbones.protocol import Backbone
from chorus.train.rows import TrainingRows, shown

SPECIAL = "special tokens in text"  # a kind of problem, as `Limits` names it
UNNAMED = "rows without a language"


def keep_what_fits(rows: TrainingRows, backbone: Backbone, *, skip_bad: bool, strip: bool = False) -> None:
    """Take out of the rows what is too long for the model; refuse (or take out) texts and languages it cannot write.

    `strip` takes special tokens out of texts. What is not learnt of the texts that stay is told in `rows.notes`.
    """
    for name in ("train", "dev"):
        utterances = getattr(rows, name)
        if strip:
            utterances = [without_markers(u, backbone) for u in utterances]
        unfit = _unfit(utterances, backbone)
        told = {
            kind: [f"{u.row}: {detail}" if detail else str(u.row) for u, detail in members]
            for kind, members in unfit.items()
        }
        if told and not skip_bad:
            text = "; ".join(f"{len(names)} {kind}: {shown(names)}" for kind, names in told.items())
            hint = "mend these rows, or leave them out with --skip-bad"
            hint += "; data.special_tokens=strip takes the tokens out" * (SPECIAL in told)
            raise DataError(text, hint + "; data.language=CODE is for rows that name none" * (UNNAMED in told))
        for kind, names in told.items():
            rows.left_out.setdefault(kind, []).extend(names)
        dropped = {id(u) for members in unfit.values() for u, _ in members}
        setattr(rows, name, _short_enough([u for u in utterances if id(u) not in dropped], backbone, rows))
    rows.notes += _not_learnt([*rows.train, *rows.dev], backbone)
    if not rows.train and rows.stream is None:
        raise DataError("no training rows are left", "; ".join(f"{len(n)} {r}" for r, n in rows.left_out.items()))


def without_markers(utterance: Utterance, backbone: Backbone) -> Utterance:
    """The utterance with its text as it is without special tokens."""
    text = backbone.limits.markers.without(utterance.row.text)
    return replace(utterance, row=replace(utterance.row, text=text)) if text != utterance.row.text else utterance


def _not_learnt(utterances: list[Utterance], backbone: Backbone) -> list[str]:
    """A line for people where parts of texts stay out of the labels."""
    found: dict[str, list[str]] = {}
    for _, kind, detail in backbone.limits.notices([u.row for u in utterances]) if utterances else ():
        found.setdefault(kind, []).append(detail)
    notes = []
    if NOT_LEARNT in found:
        symbols = sorted({symbol for detail in found[NOT_LEARNT] for symbol in detail.split(" ")})
        few = " ".join(symbols[:12]) + (" ..." if len(symbols) > 12 else "")
        notes.append(
            f"{len(found[NOT_LEARNT])} texts hold what this model's decoding never writes (suppress_tokens: {few}): it "
            "is left out of what is learnt"
        )
    if OTHER_LANGUAGE in found:
        spoken = ", ".join(sorted({language_code(name) for name in found[OTHER_LANGUAGE]}))
        notes.append(
            f"{len(found[OTHER_LANGUAGE])} rows are in another language ({spoken}) than the one of this model, "
            f"{backbone.limits.only}: it has no tokens that tell languages apart"
        )
    return notes


def _unfit(utterances: list[Utterance], backbone: Backbone) -> dict[str, list[tuple[Utterance, str]]]:
    found: dict[str, list[tuple[Utterance, str]]] = {}
    by_row = {id(u.row): u for u in utterances}
    for row, kind, detail in backbone.limits.problems([u.row for u in utterances]) if utterances else ():
        found.setdefault(kind, []).append((by_row[id(row)], detail))
    # each row is told of once; and what its text breaks, such as an unknown language, misfit() need not meet
    known = {id(u) for members in found.values() for u, _ in members}
    for utterance in (u for u in utterances if id(u) not in known):
        if backbone.limits.languages and not utterance.row.language:
            found.setdefault(UNNAMED, []).append((utterance, ""))
            continue
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
