"""A job's stages, simulated: how far it is, and how long the rest takes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collapsekit.progress.job import TimedJob

RECKONED = st.lists(st.floats(0.5, 50), min_size=2, max_size=12)


def run(reckoned: Sequence[float], factors: Sequence[float], ticks: int = 20) -> Iterator[tuple[float, float, float]]:
    """Run a job whose stages take so many times what they were reckoned at; at every tick the moment, the share that is
    said to be done and the seconds that are said to be left."""
    job, now = TimedJob(0.0), 0.0
    job.plan({f"part {i}": seconds for i, seconds in enumerate(reckoned)})
    for i, (seconds, factor) in enumerate(zip(reckoned, factors, strict=True)):
        assert job.begin(f"part {i}", now)
        for tick in range(ticks):
            now += seconds * factor / ticks
            if tick + 1 < ticks:  # what is counted last ends the stage
                job.count(f"part {i}", tick + 1, ticks, now)
            fraction, left = job.compute_fraction(now), job.estimate_remaining(now)
            assert fraction is not None
            assert left is not None
            if tick + 1 < ticks:
                yield now, fraction, left
    job.end(now)
    yield now, job.compute_fraction(now) or 0.0, job.estimate_remaining(now) or 0.0


def true_left(told: Sequence[tuple[float, float, float]]) -> Iterator[tuple[float, float]]:
    """What was said to be left from a tenth of the job on, and what was: but for the last instants, which none can see."""
    end = told[-1][0]
    return ((left, end - now) for now, _, left in told if 0.1 * end <= now <= 0.99 * end)


@given(RECKONED, st.data())
def test_the_share_never_falls_and_ends_at_one_and_nothing_negative_is_left(
    reckoned: list[float], data: st.DataObject
) -> None:
    factors = [data.draw(st.floats(0.01, 100)) for _ in reckoned]
    told = list(run(reckoned, factors))
    fractions = [fraction for _, fraction, _ in told]
    assert all(a <= b for a, b in itertools.pairwise(fractions))
    assert all(0 <= fraction <= 1 for fraction in fractions)
    assert fractions[-1] == 1
    assert all(left >= 0 for _, _, left in told)
    assert told[-1][2] == 0


@given(RECKONED, st.floats(0.1, 50))
def test_what_is_left_is_exact_where_the_machine_is_slower_or_faster_throughout(
    reckoned: list[float], factor: float
) -> None:
    for left, true in true_left(list(run(reckoned, [factor] * len(reckoned)))):
        assert true / 2 <= left <= 2 * true


@given(RECKONED, st.floats(0.25, 20), st.data())
def test_what_is_left_is_within_a_factor_of_two_where_stages_differ_by_up_to_that(
    reckoned: list[float], factor: float, data: st.DataObject
) -> None:
    factors = [factor * data.draw(st.floats(2**-0.5, 2**0.5)) for _ in reckoned]
    for left, true in true_left(list(run(reckoned, factors))):
        assert true / 2.05 <= left <= 2.05 * true


def test_stages_inside_a_stage_tell_how_long_others_of_its_kind_will_take() -> None:
    job = TimedJob(0.0)
    job.plan({"diagnosis before": 10.0, "training": 10.0, "diagnosis after": 5.0})
    job.begin("diagnosis before", 0.0)
    job.plan({"probe a": 30.0, "probe b": 70.0})
    assert job.estimate_remaining(0.0) == pytest.approx(100 + 10 * 10**0.5 + 50)
    job.begin("probe a", 0.0)
    job.begin("probe b", 60.0)
    assert job.names == ["diagnosis before", "probe b"]
    assert job.estimate_remaining(60.0) == pytest.approx(140 + 10 * 20**0.5 + 100)
    job.begin("training", 200.0)
    assert job.names == ["training"]
    job.begin("diagnosis after", 210.0)
    assert job.estimate_remaining(210.0) == pytest.approx(100)


def test_a_stage_that_counts_nothing_is_overdue_and_never_done_before_it_ends() -> None:
    job = TimedJob(0.0)
    job.plan({"part a": 1.0, "part b": 1.0})
    job.begin("part a", 0.0)
    assert job.estimate_remaining(0.5) == pytest.approx(1.5)
    left = [job.estimate_remaining(t) or 0.0 for t in (2.0, 20.0, 200.0)]
    assert 0 < left[0] < left[1] < left[2]
    assert (job.compute_fraction(200.0) or 1.0) < 0.6


def test_what_is_counted_may_be_a_small_part_of_its_stage() -> None:
    job = TimedJob(0.0)
    job.plan({"a": 100.0})
    job.begin("a", 0.0)
    job.count("examples", 1, 2, 1.0)
    job.count("examples", 2, 2, 2.0)
    assert (job.estimate_remaining(2.0) or 0.0) > 85  # the stage goes on, so that there is more to it
    job.count("models", 1, 100, 10.0)  # what came before it may have been anything
    assert (job.estimate_remaining(10.0) or 0.0) < 100
    job.count("models", 2, 100, 20.0)  # each takes ten seconds: far more than was reckoned
    assert job.estimate_remaining(20.0) == pytest.approx(10 + 990 - 20)


def test_without_a_plan_nothing_is_claimed() -> None:
    job = TimedJob(0.0)
    job.count("examples", 1, 2, 1.0)
    assert job.estimate_remaining(1.0) is None
    assert job.compute_fraction(1.0) is None
    assert not job.begin("a", 1.0)


def test_a_plan_made_anew_keeps_what_is_done() -> None:
    job = TimedJob(0.0)
    job.plan({"a": 1.0, "b": 1.0})
    job.begin("a", 0.0)
    job.begin("b", 2.0)
    job.end(3.0)
    assert [s.measure(9.0) for s in job.root.inner] == [2.0, 1.0]


def test_what_no_inner_stage_stands_for_is_measured_by_itself() -> None:
    job = TimedJob(0.0)
    job.plan({"probe a": {"readouts": 4.0, "networks": 6.0, "": 2.0}, "probe b": 12.0})
    assert job.estimate_remaining(0.0) == pytest.approx(24)
    job.begin("probe a", 0.0)
    assert job.estimate_remaining(1.0) == pytest.approx(23)  # of what is loose
    job.begin("readouts", 2.0)
    job.count("readouts", 0, 2, 2.0)
    job.count("readouts", 1, 2, 4.0)
    assert job.estimate_remaining(4.0) == pytest.approx(2 + 6 + 12)
    job.count("readouts", 2, 2, 6.0)
    assert job.names == ["probe a"]  # what comes now is not of the readouts
    assert job.estimate_remaining(6.0) == pytest.approx(6 + 12)
    job.begin("networks", 6.0)
    assert job.names == ["probe a", "networks"]
    job.begin("probe b", 12.0)
    assert job.names == ["probe b"]
