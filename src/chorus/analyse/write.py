"""Any analysis, written as a directory."""

from __future__ import annotations

from collections.abc import Sequence
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
    if isinstance(found, WeightAnalysis):
        return weights_report(found, command=command)
    if isinstance(found, PathAnalysis):
        return path_report(found, command=command)
    if isinstance(found, StateAnalysis):
        return cka_report(found, command=command)
    if isinstance(found, CoefficientAnalysis):
        return coefficients_report(found, command=command)
    if isinstance(found, Disentanglement):
        return disentanglement_report(found, command=command)
    if isinstance(found, LeaveOneOut):
        return leave_out_report(found, command=command)
    if isinstance(found, OverfittingAnalysis):
        return overfitting_report(found, command=command)
    return interference_report(found, command=command)
