"""The same system over several seeds as one evaluation: its rows together, each utterance a cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast

from chorus.evaluate.results import Evaluation
from chorus.tasks.scored import Answer, Scored


def pooled(test: Mapping[int, Sequence[Evaluation]]) -> list[Evaluation]:
    """The evaluations of each label, over seeds; of one seed as they are. Nothing is counted again."""
    seeds = list(test)
    if len(seeds) == 1:
        return list(test[seeds[0]])
    found = []
    for parts in zip(*(test[seed] for seed in seeds), strict=True):
        rows: list[Answer] = []
        scored: list[Scored] = []
        for seed, one in zip(seeds, parts, strict=True):
            for row, counted in zip(one.rows, one.scored, strict=True):
                # names must differ within an evaluation; the utterance keeps its own, so that its seeds are one cluster
                named = {"name": f"{row['name']} (seed {seed})", "utterance": row["name"]}
                rows.append(cast(Answer, {**row, **named}))
                scored.append(replace(counted, name=named["name"], utterance=named["utterance"]))
        found.append(Evaluation(parts[0].directory, parts[0].summary, rows, scored))
    return found
