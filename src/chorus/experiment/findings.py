"""What the numbers say, in sentences that could be read aloud: computed, never written by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from chorus.analyse.interference_facts import Interference
from chorus.analyse.overfitting_report import lead_of
from chorus.evaluate.comparison import Comparison, Difference, Line
from chorus.evaluate.tables import p_text
from chorus.experiment.places import JOINT
from chorus.experiment.results import Results


def told(results: Results) -> list[str]:
    """Of one task its findings; of several what is recovered of all, and a sentence each."""
    seeds, grids = len(results.seeds), results.grids
    if len(results.tasks) == 1:
        lines = findings(next(iter(results.tasks.values())).compared, results.best, seeds)
    else:
        lines = over_tasks(results.gains, {k: v.compared for k, v in results.tasks.items()}, results.best, seeds)
    if grids:
        if seeds > 1:
            lines.append(f"Ranks and weights are of the specialists of the first of {seeds} seeds alone:")
        lines += [line for model in grids.models for line in lead_of(grids.of(model))]
    return lines


def over_tasks(
    gains: Interference, compared: Mapping[str, Comparison], best: str, seeds: int
) -> list[str]:  # fmt: skip
    """The best merge over all tasks, and in each of them beside base, specialist and joint."""
    lines = [f"Chosen on dev, by what it recovers of the gains of specialists that surely gain there: {best}."]
    recovered = {one.system: one for one in gains.others}
    for one in (recovered[name] for name in (best, JOINT) if name in recovered):
        if one.mean is not None and one.ratio_of_sums is not None:
            name = "joint fine-tuning, which needs all data at once," if one.system == JOINT else best
            lines.append(
                f"On test {name} recovers {_share(one.mean)} of them in the mean, {_share(one.worst)} in the worst "
                f"({one.worst_in}), {_share(one.ratio_of_sums)} of their sum."
            )
    unsure = [row.name for row in gains.rows if row.own and not row.sure]
    if unsure:
        lines.append(f"Left out of that, as no specialist surely gains there: {', '.join(unsure)}.")
    for task, one_task in compared.items():
        group = one_task.groups[0]
        by_label = {line.label: line for line in one_task.lines}
        homes = [line for line in one_task.lines if line.role == "specialist" and line.home]
        others = [by_label[one_task.base], *homes, *([by_label[JOINT]] if one_task.joint else [])]
        beside = "; ".join(f"{line.label} {_rate(line, group, one_task)}" for line in others)
        lines.append(f"{task}, {one_task.title}: {best} {_rate(by_label[best], group, one_task)}; {beside}.")
    if seeds > 1:
        lines.append(f"All numbers are over {seeds} seeds together.")
    return lines


def findings(compared: Comparison, best: str, seeds: int) -> list[str]:
    """The best merge against base, specialists and joint, with its intervals and what it forgot."""
    lines = {line.label: line for line in compared.lines}
    merge, base = lines[best], lines[compared.base]
    specialists = [line for line in compared.lines if line.role == "specialist"]
    group = "in-domain"
    told = [
        f"Chosen on dev: {best}. On test, {compared.title} over the domains: {_rate(merge, group, compared)}; "
        f"the base {_rate(base, group, compared)}."
    ]
    if specialists:
        # the fairest rival: the best single model over all domains, not each in its own
        nearest = min(specialists, key=lambda line: abs(compared.best - line.averages[group]))
        # each at home, where it was trained
        gains = [-compared.lost(line, base, line.home) for line in specialists]
        told.append(
            f"Specialists gain {min(gains):.1f} to {max(gains):.1f} points in their own domains; the best of them "
            f"over all domains, {nearest.label}, has {_rate(nearest, group, compared)}. "
            + _recovered(merge, specialists)
        )
    if compared.joint:
        joint = lines[compared.joint]
        difference = next((d for d in merge.differences if d.reference == compared.joint and d.group == group), None)
        test = f" (the merge: {_tested(difference)})" if difference else ""
        told.append(f"Joint fine-tuning, which needs all data at once, has {_rate(joint, group, compared)}{test}.")
    if merge.forgetting is not None:
        changes = [
            f"{line.label} {compared.sign * line.forgetting:+z.1f}"
            for line in specialists if line.forgetting is not None
        ]  # fmt: skip
        verb = "loses" if merge.forgetting > 0 else "gains"
        told.append(
            f"Outside the domains the merge {verb} {abs(merge.forgetting):.1f} points against the base "
            f"(change of the specialists: {', '.join(changes)})."
        )
    if seeds > 1:
        told.append(f"All numbers are over {seeds} seeds together.")
    return told


def _recovered(merge: Line, specialists: Sequence[Line]) -> str:
    """Recovery, of the domains in which there is something to recover."""
    if merge.recovery_mean is None or merge.recovery_worst is None:
        return "No specialist gains more than chance may give: there is nothing that a merge could recover."
    left = len(specialists) - len(merge.recovery)
    where = f" ({left} of {len(specialists)} domains left out, where no gain is sure)" if left else ""
    return (
        f"Of what they gain the merge recovers {_share(merge.recovery_mean)} in the mean, "
        f"{_share(merge.recovery_worst)} in the worst domain{where}."
    )


def _share(value: float | None) -> str:
    """A recovery; what is nought has no sign.

    >>> _share(-0.0), _share(0.517), _share(None)
    ('0.00', '0.52', '-')
    """
    return "-" if value is None else f"{value:z.2f}"


def _tested(difference: Difference) -> str:
    """The difference of the two averages, its interval and its p value."""
    p = p_text(difference.p)
    return (
        f"{difference.points:+z.1f} points [{difference.low:+z.1f}, {difference.high:+z.1f}], "
        f"p {p if p.startswith('<') else f'= {p}'} by {difference.test}"
    )


def _rate(line: Line, group: str, compared: Comparison) -> str:
    inside, unit = line.average_intervals[group], " %" if compared.best == 0 else ""
    return f"{line.averages[group]:.1f}{unit} [{inside.low:.1f}, {inside.high:.1f}]"
