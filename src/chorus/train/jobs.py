"""The trainings of a campaign: a specialist for each value of a column, one for all, one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from chorus.errors import DataError, UsageError, nearest
from chorus.models.languages import is_language
from chorus.tasks.registry import task_or
from chorus.train.config import DataSettings, RowSource, TrainConfig
from chorus.train.rows import columns_of, spellings


@dataclass(frozen=True)
class Job:
    """One training; `after` names the job that must be finished first."""

    name: str
    config: TrainConfig
    after: str | None = None


def plan_jobs(
    config: TrainConfig, *, joint: bool = False, continual: str | None = None, each: str | None = None,
    only: Sequence[str] = (),
) -> list[Job]:  # fmt: skip
    """The trainings that are asked for. `DataError` where the column has no values, `UsageError` for unknown ones."""
    jobs = []
    if each:
        found = _Sources(config, each)
        for value in found.values(only):
            jobs.append(Job(value, found.part(value, [value])))
    if joint:
        jobs.append(Job("joint", _joint(config, each or continual or "domain", only)))
    if continual:
        jobs += _one_after_another(config, continual, only)
    places = [job.config.output for job in jobs]
    twice = [job.name for job in jobs if places.count(job.config.output) > 1]
    if twice:
        raise UsageError(f"{', '.join(twice)} would be written to one folder", "rename the value in the manifest")
    return jobs


def walked_column(config: TrainConfig) -> str:
    """What `continual` walks where nobody says it: the tasks where the training rows name several, else domains."""
    column = config.data.task_column
    named = {task_or(v) for s in config.data.train if not s.streaming for v in spellings(config, s, "train", column)}
    return column if len(named - {""}) > 1 else "domain"


def _joint(config: TrainConfig, column: str, only: Sequence[str]) -> TrainConfig:
    if not only:
        return _part(config, "joint", config.data)
    found = _Sources(config, column)
    return found.part("joint", found.values(only))


def _one_after_another(config: TrainConfig, column: str, only: Sequence[str]) -> list[Job]:
    """Each value's training starts from what the last one left: its model, or its adapter."""
    jobs: list[Job] = []
    found = _Sources(config, column)
    values = found.values(only)
    for number, value in enumerate(values, 1):
        name = "continual" if number == len(values) else f"continual-{number}-{value}"
        part = found.part(name, [value])
        if jobs:
            last = jobs[-1].config
            if config.adapter is not None or config.model.adapter:
                part = part.model_copy(update={"model": part.model.model_copy(update={"adapter": last.output_dir})})
            else:
                part = part.model_copy(
                    update={"model": part.model.model_copy(update={"base": last.output_dir, "revision": None})}
                )
        jobs.append(Job(name, part, after=jobs[-1].name if jobs else None))
    return jobs


Spelled = tuple[RowSource, dict[str, list[str]]]


class _Sources:
    """A configuration's sources, and which values of a column each of them has: one manifest may hold one domain."""

    def __init__(self, config: TrainConfig, column: str) -> None:
        if any(source.streaming for source in config.data.train):
            raise DataError("a streamed dataset cannot be divided by a column", "give one for each")
        self.config, self.column = config, column
        self.train = [(s, spellings(config, s, "train", column)) for s in config.data.train]
        self.dev = [(s, spellings(config, s, "dev", column)) for s in config.data.dev or []]

    def values(self, only: Sequence[str]) -> list[str]:
        """The values of the training rows, or those that are asked for."""
        found = list(dict.fromkeys(value for _, known in self.train for value in known))
        if not found:
            known = columns_of(self.config.data.train)
            told = f'no training row has the column "{self.column}"{nearest(self.column, known)}'
            raise DataError(told, "name another: --each COLUMN, or --continual --by COLUMN")
        for value in only:
            if not any(self._is(one, value) for one in found):
                raise UsageError(f'--only {value}: no training row has {self.column} "{value}"{nearest(value, found)}')
        kept: list[str] = []
        for value in [] if only else found:
            # where rows say pt and pt-BR, both are of pt: one training, not two of which one has the other's rows
            if not any(self._is(value, other) for other in kept):
                kept = [*(other for other in kept if not self._is(other, value)), value]
        return list(only) or kept

    def part(self, name: str, values: Sequence[str]) -> TrainConfig:
        """The configuration on the rows of these values; sources that have none are left out."""
        dev = None if self.config.data.dev is None else self._narrowed(self.dev, values)
        config, mix = self.config, self.config.data.mix
        if mix is not None and mix.by == self.column:  # of groups that this part has not nothing is weighed
            mix = mix.model_copy(update={"weights": {k: v for k, v in mix.weights.items() if k in values}})
        data = config.data.model_copy(update={"train": self._narrowed(self.train, values), "dev": dev, "mix": mix})
        part = _part(config, name, data)
        if self.column == config.data.task_column and len(values) == 1:
            part = part.model_copy(update={"task": task_or(values[0], config.task)})
        return part

    def _narrowed(self, sources: Sequence[Spelled], values: Sequence[str]) -> list[RowSource]:
        narrowed = []
        for source, known in sources:
            # as its rows write them, so that what `where` left out already stays out
            ways = [way for asked in values for value, ways in known.items() if self._is(value, asked) for way in ways]
            if ways:
                where = {**source.where, self.column: ways if len(ways) > 1 else ways[0]}
                narrowed.append(source.model_copy(update={"where": where}))
        return narrowed

    def _is(self, value: str, asked: str) -> bool:
        return value == asked or (self.column == "language" and is_language(value, asked))


def _part(config: TrainConfig, name: str, data: DataSettings) -> TrainConfig:
    """The configuration of one job: its rows, results and logs in a folder of its own."""
    safe = "".join(c if c.isalnum() or c in "-_." else "_" for c in name).lstrip(".") or "_"
    return config.model_copy(
        update={
            "data": data,
            "output": f"{config.output_dir}/{safe}",
            "logs": f"{config.logs_dir}/{safe}",
            "device": config.device.split(":")[0],  # which one of several is the campaign's to say
        }
    )
