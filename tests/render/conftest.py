"""Fixtures over :mod:`sample_reports`."""

from __future__ import annotations

import pytest
from sample_reports import HOSTILE, LONG, MakeReport, make_report, nothing_measured

from collapsekit.render import write
from collapsekit.report.diagnosis import Report


@pytest.fixture(name="make_report")
def _make_report() -> MakeReport:
    return make_report


@pytest.fixture(
    params=[
        ("image", "audio"),
        ("image", "audio", "text", "depth"),
        LONG,
        HOSTILE,
    ],
    ids=["two", "four", "six-long", "six-hostile"],
)
def report(request: pytest.FixtureRequest) -> Report:
    return make_report(request.param)


@pytest.fixture(scope="session", params=[("image", "audio"), HOSTILE], ids=["two", "six-hostile"])
def page(request: pytest.FixtureRequest) -> tuple[Report, str]:
    """A report and its HTML page, rendered once for all tests."""
    report = make_report(request.param)
    return report, write(report, "html")


@pytest.fixture
def bare() -> Report:
    """A report in which nothing could be measured."""
    return nothing_measured()
