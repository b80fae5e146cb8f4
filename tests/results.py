"""Evaluations made up of texts, for tests of what is done with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from chorus.evaluate.facts import Facts
from chorus.evaluate.results import Evaluation
from chorus.evaluate.run import Scoring, count_answers
from chorus.tasks.scored import Answer
from chorus.transcribe.decoding import Decoding
from chorus.transcribe.request import FORMAT

WORDS = ("one", "two", "three", "four", "five")


def made_up(
    place: Path, label: str, wrong: Mapping[str, int], *, each: int | Mapping[str, int] = 20,
    languages: Mapping[str, str] | None = None, speakers: int = 3, conditions: Sequence[str] = ("clean",),
    words: int = 2, **told: Any,
) -> Evaluation:  # fmt: skip
    """`each` utterances of `words` words a domain, of which `wrong[domain]` have the last word wrong."""
    rows: list[Answer] = []
    for condition in conditions:
        for domain, count in wrong.items():
            for i in range(each if isinstance(each, int) else each[domain]):
                texts = [WORDS[(i + k) % 5] for k in range(words)]
                reference, hypothesis = " ".join(texts), " ".join([*texts[:-1], "wrong"] if i < count else texts)
                rows.append({
                    "name": f"{domain}/{i}", "condition": condition, "domain": domain, "seconds": 1.0,
                    "speaker": f"{domain}-{i % speakers}", "language": (languages or {}).get(domain, "en"),
                    "reference": reference, "hypothesis": hypothesis,
                })  # fmt: skip
    return counted(place, label, rows, conditions=conditions, **told)


def counted(
    place: Path, label: str, rows: Sequence[Answer], *, role: str = "", home: str = "",
    conditions: Sequence[str] = ("clean",), normaliser: str = "marks", parameters: Mapping[str, Any] | None = None,
    task: str = "asr", trained_on: Mapping[str, Sequence[str]] | None = None,
) -> Evaluation:  # fmt: skip
    """An evaluation of these answers, written."""
    facts: Facts = {
        "format": FORMAT, "kind": "evaluation", "chorus": "0", "fingerprint": label,
        "backend": "transformers", "device": "cpu",
        "system": {"label": label, "kind": "model", "identity": label, "role": role,
                   "home": {"domain": home} if home else {}, "parameters": dict(parameters or {}),
                   "trained_on": trained_on if trained_on is not None else {"domain": [home]} if home else {}},
        "decoding": Decoding(task=task).model_dump(mode="json"), "versions": {}, "conditions": list(conditions),
        "test": {"fingerprint": "f", "utterances": len({row["name"] for row in rows}), "hours": 0.1, "left_out": {}},
        "timing": {"decode_s": 1.0, "audio_s": 2.0, "real_time_factor": 0.5},
    }  # fmt: skip
    return count_answers(place / label, facts, rows, Scoring(normaliser))


def family(place: Path) -> list[Evaluation]:
    """Base, two specialists, joint, merge; `extra` is no domain of theirs, `fado` is in another language."""
    languages, both = {"fado": "pt"}, {"domain": ["radio", "phone"]}
    given: list[tuple[str, dict[str, int], str, str]] = [
        ("base", {"radio": 16, "phone": 16, "extra": 4, "fado": 4}, "base", ""),
        ("radio", {"radio": 4, "phone": 18, "extra": 8, "fado": 6}, "specialist", "radio"),
        ("phone", {"radio": 18, "phone": 4, "extra": 8, "fado": 6}, "specialist", "phone"),
        ("joint", {"radio": 6, "phone": 6, "extra": 6, "fado": 12}, "joint", ""),
        ("merged", {"radio": 7, "phone": 10, "extra": 4, "fado": 5}, "merge", ""),
    ]
    return [
        made_up(place, label, wrong, role=role, home=home, languages=languages,
                trained_on=both if role in ("joint", "merge") else None)
        for label, wrong, role, home in given
    ]  # fmt: skip
