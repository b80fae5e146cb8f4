"""Any analysis, written as a directory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from chorus.analyse.cka import StateAnalysis
from chorus.analyse.coefficients import CoefficientAnalysis
from chorus.analyse.coefficients_report import coefficients_report
from chorus.analyse.disentanglement import Disentanglement
from chorus.analyse.disentanglement_report import disentanglement_report
from chorus.analyse.facts import WeightAnalysis
from chorus.analyse.interference_facts import Interference
from chorus.analyse.interference_report import interference_report
from chorus.analyse.leave_out import LeaveOneOut
from chorus.analyse.leave_out_report import leave_out_report
from chorus.analyse.live_report import cka_report, path_report
from chorus.analyse.overfitting import OverfittingAnalysis
from chorus.analyse.overfitting_report import overfitting_report
from chorus.analyse.page import REPORT, AnalysisReport, place_for, publish
from chorus.analyse.path import PathAnalysis
from chorus.analyse.weights_report import weights_report

Analysis = (
    WeightAnalysis
    | Interference
    | PathAnalysis
    | StateAnalysis
    | OverfittingAnalysis
    | CoefficientAnalysis
    | LeaveOneOut
    | Disentanglement
)
REPORTS: dict[type[Analysis], Callable[..., AnalysisReport]] = {
    WeightAnalysis: weights_report, Interference: interference_report, PathAnalysis: path_report,
    StateAnalysis: cka_report, OverfittingAnalysis: overfitting_report, CoefficientAnalysis: coefficients_report,
    LeaveOneOut: leave_out_report, Disentanglement: disentanglement_report,
}  # fmt: skip


def write_analysis(found: Analysis, output: str | Path, *, overwrite: bool = False) -> Path:
    """Write an analysis as JSON, plots, and one page that needs no network, into a directory; returns the page.

    Raises `MissingExtraError` without matplotlib and jinja2, `OutputError` where something else lies there.

    >>> import chorus
    >>> chorus.write_analysis(chorus.analyse_weights(["tuned"], "base"), "analysis")  # doctest: +SKIP
    PosixPath('analysis/report.html')
    """
    with place_for(output, (), overwrite=overwrite) as place:
        publish(report_of(found), place)
    return Path(output) / REPORT


def report_of(found: Analysis, *, command: Sequence[str] = ()) -> AnalysisReport:
    """What is written and printed of an analysis."""
    return REPORTS[type(found)](found, command=command)
