"""compare(): cells, the best, pairs and tests."""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from pathlib import Path

import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from collapsekit.comparison.compare import compare, compare_groups
from collapsekit.comparison.inputs import Group, LoadedRun, read_groups
from collapsekit.comparison.quantities import Choice
from collapsekit.errors import ConfigError
from collapsekit.measures import lookup
from collapsekit.report.comparison import Cell, Comparison, Row
from collapsekit.report.diagnosis import Report
from tests.comparison.making import make, write
from tests.factories import make_result

RNG = random.Random(0)
METRICS = {name: [RNG.gauss(mean, 0.02) for _ in range(9)] for name, mean in (("a", 0.8), ("b", 0.83), ("c", 0.8))}


def row(found: Comparison, name: str, modality: str | None = None, versus: str | None = None) -> Row:
    return next(r for r in found.rows if (r.name, r.modality, r.versus) == (name, modality, versus))


def cells(found: Comparison, name: str, modality: str | None = None) -> tuple[Cell, ...]:
    return row(found, name, modality).cells


def runs(values: Sequence[float], seeds: Sequence[int] | None = None) -> list[Report]:
    return [make(accuracy=v, seed=None if seeds is None else seeds[i]) for i, v in enumerate(values)]


def seeded() -> dict[str, list[Report]]:
    return {name: runs(values, range(9)) for name, values in METRICS.items()}


def test_single_reports_stand_as_they_are() -> None:
    found = compare({"x": make(0.2, 0.9), "y": make(0.9, 0.95)})
    assert [c.name for c in found.columns] == ["x", "y"]
    assert [c.states for c in cells(found, "verdict", "audio")] == [{"used": 1}, {"collapsed": 1}]
    assert [c.states for c in cells(found, "verdict")] == [{"healthy": 1}, {"collapsed": 1}]
    assert [(c.value, c.interval, c.best) for c in cells(found, "score", "image")] == [
        (0.2, (0.2 - 0.1, 0.2 + 0.1), True),
        (0.9, (0.9 - 0.1, 0.9 + 0.1), False),
    ]
    assert [c.best for c in cells(found, "reliance.full_metric")] == [False, True]
    assert [c.best for c in cells(found, "reliance.full_loss")] == [False, True]
    assert all(c.sd is None and c.test is None for r in found.rows for c in r.cells)
    assert found.testing is None
    assert any("Nothing is tested" in n for n in found.notes)


def test_swapping_two_reports_swaps_the_columns() -> None:
    one, other = make(0.2, 0.9, vif=3, rank=20), make(0.9, 0.95, vif=9)
    there, back = compare({"x": one, "y": other}), compare({"y": other, "x": one})

    def plain(row: Row, step: int) -> Row:
        return row.model_copy(update={"cells": tuple(c.model_copy(update={"change": None}) for c in row.cells[::step])})

    assert [plain(r, -1) for r in back.rows] == [plain(r, 1) for r in there.rows]
    for one_way, other_way in zip(there.rows, back.rows, strict=True):
        changes = [next((c.change for c in r.cells if c.change), None) for r in (one_way, other_way)]
        if None not in changes:
            assert changes[0].difference == -changes[1].difference  # type: ignore[union-attr]
            assert changes[0].clear == changes[1].clear  # type: ignore[union-attr]
    assert back.columns == there.columns[::-1]


def test_swapping_two_names_of_modalities_swaps_their_rows() -> None:
    def side(names: tuple[str, str]) -> Comparison:
        return compare({"x": make(0.2, names=names), "y": make(0.4, names=names)}, every=True)

    one, other = side(("audio", "image")), side(("image", "audio"))
    new = {"audio": "image", "image": "audio", None: None}
    assert [r.model_copy(update={"modality": new[r.modality], "versus": new[r.versus]}) for r in other.rows] == list(
        one.rows
    )


def test_the_cost_if_another_is_missing_is_the_most_and_all_of_them_with_every() -> None:
    names = ("a", "b", "c")
    reports = {"x": make(names=names), "y": make(names=names)}
    assert {r.versus for r in compare(reports).rows} == {None}
    assert cells(compare(reports), "costs_if_missing", "a")[0].value == pytest.approx(0.3)
    found = compare(reports, every=True)
    assert row(found, "costs_if_missing", "a", "b").cells[0].value == pytest.approx(0.2)


def test_ties_are_all_best_and_one_alone_is_not() -> None:
    report = make(results=[make_result("vif.max", 3.0)])
    found = compare({"x": make(vif=4), "y": make(vif=4 * (1 + 1e-15)), "z": make(vif=5)})
    assert [c.best for c in cells(found, "vif.median")] == [True, True, False]
    alone = compare({"x": report, "y": make()}, every=True)
    assert [c.best for c in cells(alone, "vif.max")] == [False, False]
    assert cells(alone, "vif.max")[1].missing == "the report does not have it"


def test_what_has_no_agreed_direction_has_no_best() -> None:
    found = compare({"x": make(rank=3), "y": make(rank=9)}, every=True)
    for r in found.rows:
        assert (r.better is not None) == (r.why is not None)
        if r.better is None:
            assert not any(c.best for c in r.cells)
    for name in ("spectrum.effective_rank", "reliance.shapley", "fusion_gain.gain", "noise.input"):
        measure = lookup(name)
        assert measure is not None
        assert measure.better is None
    assert lookup("own.number") is None


def test_the_best_with_modalities_missing_is_marked() -> None:
    """A comparison and a repair report judge alike."""
    names = ("missing.patterns.zeros", "missing.patterns_loss.zeros", "missing.rates_loss.mean")
    better = {"x": [make_result(n, 0.2) for n in names], "y": [make_result(n, 0.3) for n in names]}
    found = compare({k: make(results=v) for k, v in better.items()}, only=["missing.*"])
    assert [[c.best for c in cells(found, n)] for n in names] == [[False, True], [True, False], [True, False]]


def test_a_skipped_number_says_why() -> None:
    skipped = make(results=[make_result("collision.cross_modal", None, skipped="no neuron is driven")])
    found = compare({"x": make(results=[make_result("collision.cross_modal", 0.2)]), "y": skipped})
    assert cells(found, "collision.cross_modal")[1] == Cell(missing="no neuron is driven")
    assert "own.number" not in {r.name for r in found.rows}


def test_headlines_are_shown_and_every_result_on_request() -> None:
    reports = {"x": make(), "y": make()}
    default = compare(reports)
    shown = [lookup(r.name) for r in default.rows if r.part == "result"]
    assert shown
    assert all(m is not None and m.headline is not None for m in shown)
    assert [r.modality for r in default.rows if r.name == "spectrum.effective_rank"] == [None]
    every = compare(reports, every=True)
    assert {(r.name, r.modality) for r in every.rows if r.part == "result"} == {
        (r.name, r.modality) for r in make().results
    }
    turned = make(names=("image", "audio"))
    assert [r.modality for r in compare({"x": turned, "y": make()}).rows if r.name == "score"] == ["image", "audio"]
    mixed = make().model_copy(update={"results": make().results[::-1]})
    assert [(r.name, r.modality) for r in compare({"x": mixed, "y": mixed}).rows] == [
        (r.name, r.modality) for r in default.rows
    ]
    ranks = compare(reports, only=["spectrum.*", "score"])
    assert {r.name for r in ranks.rows} == {"spectrum.effective_rank", "score"}
    assert [r.modality for r in ranks.rows if r.part == "result"] == [None, "audio", "image"]
    with pytest.raises(ConfigError, match=r"--only 'vif\.maen' fits no number.*did you mean 'vif\.median'"):
        compare(reports, only=["vif.maen"])


def test_groups_have_mean_and_deviation_over_runs() -> None:
    found = compare({"x": runs([0.7, 0.8, 0.95]), "y": make(accuracy=0.9)})
    first, second = cells(found, "reliance.full_metric")
    assert first.value == pytest.approx(statistics.mean([0.7, 0.8, 0.95]))
    assert first.sd == pytest.approx(statistics.stdev([0.7, 0.8, 0.95]))
    assert (first.runs, first.interval) == (3, None)
    assert (second.runs, second.sd, second.best) == (1, None, True)
    states = compare({"x": [make(0.2), make(0.9), make(0.95)], "y": make()})
    assert cells(states, "verdict", "audio")[0].states == {"collapsed": 2, "used": 1}


def test_tests_are_scipys_with_statsmodels_correction() -> None:
    found = compare(seeded(), only=["reliance.full_metric", "reliance.full_loss"])
    tests = [t for r in found.rows for c in r.cells if (t := c.test) is not None]
    expected = [stats.wilcoxon(METRICS[name], METRICS["a"]).pvalue for name in "bc"]
    metric = cells(found, "reliance.full_metric")
    assert metric[0].test is None
    assert [c.test.p for c in metric[1:] if c.test] == pytest.approx(expected, rel=1e-10)
    corrected = multipletests([t.p for t in tests], alpha=0.05, method="holm")
    assert [t.p_holm for t in tests] == pytest.approx(corrected[1], rel=1e-12)
    assert [t.significant for t in tests] == list(corrected[0])
    assert [t.significant for t in tests] == [True, False, True, False]
    assert found.testing is not None
    assert (found.testing.reference, found.testing.tests, found.testing.pairing) == ("a", 4, "training seed")
    assert "4 two-sided Wilcoxon signed-rank tests" in found.testing.family
    assert metric[1].test is not None
    difference = statistics.mean(b - a for a, b in zip(METRICS["a"], METRICS["b"], strict=True))
    assert metric[1].test.difference == pytest.approx(difference)


def test_the_reference_can_be_chosen() -> None:
    found = compare(seeded(), against="b", only=["reliance.full_metric"])
    metric = cells(found, "reliance.full_metric")
    assert [c.test is None for c in metric] == [False, True, False]
    assert metric[0].test is not None
    assert metric[0].test.p == pytest.approx(stats.wilcoxon(METRICS["a"], METRICS["b"]).pvalue)
    with pytest.raises(ConfigError, match="--against 'bb' names no column"):
        compare(seeded(), against="bb")


def test_the_default_reference_is_the_first_group() -> None:
    found = compare({"single": make(), **seeded()}, only=["reliance.full_metric"])
    assert found.testing is not None
    assert found.testing.reference == "a"
    assert [c.test is not None for c in found.rows[0].cells] == [False, False, True, True]
    assert any("'single' is one run and is not tested" in n for n in found.notes)
    untested = compare({"single": make(), **seeded()}, against="single")
    assert untested.testing is None
    assert any("Nothing is tested" in n for n in untested.notes)


@pytest.mark.parametrize("how", ["seed", "name"])
def test_the_order_of_paired_runs_changes_nothing(how: str) -> None:
    def groups(seed: int) -> list[Group]:
        order = list(range(9))
        out = []
        for name, values in METRICS.items():
            random.Random(f"{seed}{name}").shuffle(order)
            made = [make(accuracy=values[i], seed=i if how == "seed" else None) for i in order]
            out.append(Group(name, tuple(LoadedRun(f"run{i}", f"p{i}", r) for i, r in zip(order, made, strict=True))))
        return out

    first, again = compare_groups(groups(1)), compare_groups(groups(2))
    assert first.testing is not None
    assert first.testing.pairing == ("training seed" if how == "seed" else "name")
    assert first.testing.tests > 0
    assert (first.rows, first.testing, first.notes) == (again.rows, again.testing, again.notes)
    assert first.columns != again.columns


def test_by_order_the_order_counts_and_numbers_have_to_match() -> None:
    plain = {name: runs(values) for name, values in METRICS.items()}
    found = compare(plain, only=["reliance.full_metric"])
    assert found.testing is not None
    assert found.testing.pairing == "order"
    assert "paired by order" in found.testing.family
    turned = compare({**plain, "b": plain["b"][::-1]}, only=["reliance.full_metric"])
    assert turned.rows != found.rows
    with pytest.raises(ConfigError, match=r"'a' \(9\) and 'b' \(8\) cannot be paired: .* --training-seed"):
        compare({"a": plain["a"], "b": plain["b"][:8]})


def test_a_seed_that_is_missing_or_twice_is_no_key() -> None:
    def pairing(seeds: list[int | None]) -> str:
        made = [make(accuracy=0.5 + i / 100, seed=s) for i, s in enumerate(seeds)]
        found = compare({"x": made, "y": [make(accuracy=0.6 + i / 70, seed=i) for i in range(6)]})
        assert found.testing is not None
        return found.testing.pairing

    assert pairing([0, 1, 2, 3, 4, 5]) == "training seed"
    assert pairing([0, 1, 2, 3, 4, None]) == "order"
    assert pairing([0, 1, 2, 3, 4, 4]) == "order"
    for wrong in (True, "1", 1.0):
        odd = [make(accuracy=0.5 + i / 100, settings={"training_seed": i or wrong}) for i in range(6)]
        found = compare({"x": odd, "y": runs([0.6] * 6, range(6))})
        assert found.testing is not None
        assert found.testing.pairing == "order"


def test_runs_without_a_partner_count_in_means_only() -> None:
    a, b = METRICS["a"], METRICS["b"]
    found = compare({"a": runs(a, range(9)), "b": runs(b[:7], range(2, 9))}, only=["reliance.full_metric"])
    test = found.rows[0].cells[1].test
    assert test is not None
    assert test.pairs == found.columns[1].pairs == 7
    assert test.p == pytest.approx(stats.wilcoxon(a[2:], b[:7]).pvalue)
    assert found.rows[0].cells[0].value == pytest.approx(statistics.mean(a))
    assert any("2 runs of 'b' and 'a' have no partner by training seed" in n for n in found.notes)


@pytest.mark.parametrize("pairs", [2, 5, 6])
def test_fewer_than_six_pairs_are_not_tested_and_that_is_said(pairs: int) -> None:
    found = compare({"a": runs(METRICS["a"][:pairs]), "b": runs([0.99] * pairs)}, only=["reliance.full_metric"])
    assert (found.rows[0].cells[1].test is None) == (pairs < 6)
    said = any("no two-sided p-value can reach 0.05 (2/2^5 = 0.0625)" in n for n in found.notes)
    assert said == (pairs < 6)


def test_holms_reach_is_said() -> None:
    few = {"a": runs(METRICS["a"][:6], range(6)), "b": runs([0.99] * 6, range(6))}
    one = compare(few, only=["reliance.full_metric"])
    assert one.rows[0].cells[1].test is not None
    assert one.rows[0].cells[1].test.significant
    assert not any("after Holm's correction" in n for n in one.notes)
    two = compare(few, only=["reliance.full_*"])
    assert not any(c.test.significant for r in two.rows for c in r.cells if c.test)
    assert any("With 2 tests of so few pairs no p-value can reach 0.05" in n and "0.062" in n for n in two.notes)


def test_equal_runs_have_p_one() -> None:
    same = runs(METRICS["a"], range(9))
    found = compare({"a": same, "b": same})
    tests = [c.test for r in found.rows for c in r.cells if c.test]
    assert tests
    assert all((t.p, t.p_holm, t.differing, t.difference, t.significant) == (1, 1, 0, 0, False) for t in tests)


def test_a_number_that_some_runs_lack_is_tested_over_the_others() -> None:
    def group(shift: float, lacking: int) -> list[Report]:
        more = [[make_result("vif.max", shift + i * i)] if i >= lacking else [] for i in range(9)]
        return [make(seed=i, results=m) for i, m in enumerate(more)]

    found = compare({"a": group(0, 0), "b": group(0.5, 2)}, only=["vif.max"])
    cell = found.rows[0].cells[1]
    assert (cell.runs, cell.test and cell.test.pairs) == (7, 7)
    assert compare({"a": group(0, 0), "b": group(0.5, 4)}, only=["vif.max"]).rows[0].cells[1].test is None


def test_numbers_at_the_ends_of_their_range() -> None:
    for values in ([1.7e308, -1.7e308], [1.7e308] * 8, [5e-324, -5e-324], [-1.7e308] * 7 + [1.7e308]):
        made = [make(seed=i, results=[make_result("vif.max", v)]) for i, v in enumerate(values)]
        other = [make(seed=i, results=[make_result("vif.max", -v)]) for i, v in enumerate(values)]
        cell = row(compare({"a": made, "b": other}, only=["vif.max"]), "vif.max").cells[0]
        assert cell.value == pytest.approx(sum(v / len(values) for v in values))
    assert Comparison.model_validate_json(compare({"a": made, "b": other}).to_json()).rows


def test_two_columns_are_needed() -> None:
    with pytest.raises(ConfigError, match="at least two columns, found 1"):
        compare({"a": make()})
    with pytest.raises(ConfigError, match="column 'a' has no report"):
        compare({"a": [], "b": make()})


def test_files_and_python_agree(tmp_path: Path) -> None:
    for name, values in METRICS.items():
        for i, report in enumerate(runs(values, range(9))):
            write(tmp_path / name / f"s{i}", report)
    found = compare_groups(read_groups([f"{n}={tmp_path / n}" for n in METRICS]), choice=Choice(every=True))
    assert found.rows == compare(seeded(), every=True).rows
