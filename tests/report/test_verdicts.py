from __future__ import annotations

from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collapsekit.report.diagnosis import ModalityVerdict, OverallState, Report, Result
from collapsekit.report.verdicts import (
    COLLAPSED,
    ENOUGH,
    INFORMATIVE,
    LEARNED,
    MARGIN,
    MOST,
    NOTHING,
    SHARE,
    UNREAD,
    USED,
    WEAK,
    judge,
)
from tests.factories import make_plain_report, make_result

PRIOR = 1.0
ORDER = ["collapsed", "inconclusive", "underused", "used"]


def result(name: str, modality: str | None, value: float | None, half: float = 0.0, **more: Any) -> Result:
    interval = None if value is None else (value - half, value + half)
    return make_result(name, value, modality, interval=interval, **more)


def about(
    m: str,
    *,
    ratio: float | None = 1.0,
    half: float = 0.01,
    gain: float = 0.5,
    gain_half: float = 0.005,
    share: float | None = 0.5,
    other: str = "b",
    trained: float = 1.0,
    most: float = 0.9,
    credit: float = 0.3,
) -> list[Result]:
    """What utilisation, reliance, prefix_gap and polysemanticity say of one modality."""
    return [
        result("utilisation.credit", m, credit, min(0.01, credit / 2)),
        result("utilisation.share", m, share, 0.005),
        result("utilisation.ratio", m, ratio, half),
        result("utilisation.reference_trained", m, trained),
        result("utilisation.due_at_most", m, most),
        result("utilisation.alone_gain", m, gain, gain_half),
        result("utilisation.alone_metric", m, 0.8),
        result("utilisation.costs_now", m, 0.1, 0.02),
        result("utilisation.costs_if_missing", m, 0.4, 0.02, versus=other),
        result("reliance.shapley", m, 0.3, 0.01),
        result("prefix_gap.prefix_loss", m, 0.5),
        result("prefix_gap.prefix_metric", m, 0.7),
        result("prefix_gap.baseline_loss", m, 0.4),
        result("prefix_gap.baseline_metric", m, 0.8),
        result("polysemanticity.drive", m, 0.01),
    ]


def world(a: dict[str, Any], b: dict[str, Any] | None = None) -> list[Result]:
    return [
        result("utilisation.prior_loss", None, PRIOR),
        *about("a", **{"other": "b", **a}),
        *about("b", **{"other": "a", **(b or {})}),
    ]


def judged(results: list[Result], m: str = "a") -> ModalityVerdict:
    return judge(results, ("a", "b"), "accuracy").each[m]


NOTHING_ALONE = {"gain": 0.0, "ratio": None}


@pytest.mark.parametrize(
    ("case", "state"),
    [
        ({"ratio": 0.05}, "collapsed"),
        ({"ratio": COLLAPSED, "half": 0.0}, "inconclusive"),  # an interval that touches the limit does not decide
        ({"ratio": 0.14, "half": 0.02}, "inconclusive"),
        ({"ratio": 0.9, "half": 0.8}, "inconclusive"),
        ({"ratio": 0.17, "half": 0.01}, "underused"),
        ({"ratio": USED, "half": 0.0}, "used"),
        ({"ratio": USED - 1e-9, "half": 0.0}, "underused"),
        ({"ratio": 3.0}, "used"),
        ({"ratio": 0.05, "gain": INFORMATIVE * PRIOR}, "collapsed"),
        ({**NOTHING_ALONE, "share": 0.3}, "used"),
        ({**NOTHING_ALONE, "share": 0.0}, "uninformative"),
        ({**NOTHING_ALONE, "share": None}, "uninformative"),
        ({**NOTHING_ALONE, "share": SHARE}, "used"),
        ({**NOTHING_ALONE, "share": SHARE - 0.001}, "inconclusive"),
        ({"gain": INFORMATIVE * PRIOR - 0.001, "ratio": 0.05, "share": 0.0}, "uninformative"),
        ({"gain": INFORMATIVE * PRIOR, "gain_half": NOTHING * PRIOR, "ratio": 0.05, "share": 0.0}, "inconclusive"),
        ({"gain": 0.5, "ratio": None, "share": 0.0}, "inconclusive"),
    ],
)
def test_every_state_and_its_limits(case: dict[str, Any], state: str) -> None:
    verdict = judged(world(case))
    assert verdict.verdict == state
    assert_readable(verdict, world(case))


@pytest.mark.parametrize(("gain", "says"), [(0.0, "next to nothing about the label"), (0.09, "may be chance")])
def test_what_is_used_without_being_surely_informative_is_not_said_to_say_nothing(gain: float, says: str) -> None:
    verdict = judged(world({"gain": gain, "gain_half": 0.1, "ratio": None, "share": 0.4}))
    assert verdict.verdict == "used"
    assert says in verdict.reason


def assert_readable(verdict: ModalityVerdict, results: list[Result]) -> None:
    assert verdict.reason
    assert "\n" not in verdict.reason
    assert verdict.reason.endswith(".")
    assert "nan" not in verdict.reason.lower()
    assert set(verdict.evidence) <= {r.name for r in results if r.value is not None}
    if verdict.score is not None:
        assert 0 <= verdict.score <= 1
    if verdict.interval is not None:
        assert 0 <= verdict.interval[0] <= verdict.score <= verdict.interval[1] <= 1


@given(st.floats(0, 3), st.floats(0, 3), st.floats(0, 0.5))
def test_a_higher_ratio_never_gives_a_worse_verdict(one: float, other: float, half: float) -> None:
    low, high = sorted((one, other))
    states = [judged(world({"ratio": r, "half": half})).verdict for r in (low, high)]
    # Inconclusive lies between collapsed and the rest: from it on, only the interval's lower end counts.
    assert ORDER.index(states[0]) <= ORDER.index(states[1])


def test_score_is_the_utilisations() -> None:
    verdict = judged([*world({"ratio": 0.3}), result("utilisation.score", "a", 0.7, 0.1)])
    assert verdict.score == 0.7
    assert verdict.interval == pytest.approx((0.6, 0.8))
    assert "utilisation.score" in verdict.evidence
    assert judged(world({"ratio": 0.3})).score is None


@pytest.mark.parametrize(
    ("ratio", "half", "state"),
    [(0.02, 0.01, "collapsed"), (0.3, 0.01, "underused"), (0.9, 0.05, "used"), (0.1, 0.1, "inconclusive")],
)
def test_information_a_modality_holds_only_with_another_counts(ratio: float, half: float, state: str) -> None:
    nothing_alone = world({"ratio": ratio, "half": half, "gain": 0.0, "share": 0.0})
    due = result("utilisation.reference_credit", "a", 0.3, 0.05)
    assert judged([*nothing_alone, due]).verdict == state
    assert judged(nothing_alone).verdict == "uninformative"
    unsure = result("utilisation.reference_credit", "a", 0.3, 0.4)
    assert judged([*nothing_alone, unsure]).verdict == "inconclusive"
    if state == "collapsed":
        assert "together with" in judged([*nothing_alone, due]).reason


@pytest.mark.parametrize(
    ("states", "whole"),
    [
        (({"ratio": 1.0}, {"ratio": 1.0}), "healthy"),
        (({"ratio": 0.3}, {"ratio": 1.0}), "underused"),
        (({"ratio": 0.05}, {"ratio": 1.0}), "collapsed"),
        (({"ratio": 0.05}, {"ratio": 0.9, "half": 0.8}), "collapsed"),
        (({"ratio": 1.0}, {"ratio": 0.9, "half": 0.8}), "inconclusive"),
        (({"ratio": 1.0}, {**NOTHING_ALONE, "share": 0.0}), "healthy"),
    ],
)
def test_the_whole_is_the_worst_of_its_parts(states: tuple[dict[str, Any], dict[str, Any]], whole: str) -> None:
    made = judge(world(*states), ("a", "b"), "accuracy")
    assert made.overall == whole
    assert made.summary.endswith(".")


def test_costs_are_those_of_the_results_and_never_negative() -> None:
    results = [r for r in world({"ratio": 0.05}) if "costs" not in r.name]
    results += [
        result("utilisation.costs_now", "a", -0.01, 0.02),
        result("utilisation.costs_if_missing", "a", 0.4, versus="b"),
        result("utilisation.costs_if_missing", "b", 0.9, versus="a"),
    ]
    verdict = judged(results)
    assert verdict.costs_now == 0
    assert verdict.costs_if_missing == {"b": 0.4}
    assert "no measurable accuracy" in verdict.reason
    assert "Without b it costs up to 0.40" in verdict.reason


@pytest.mark.parametrize(("left", "where"), [(0.5, "lost in the fusion"), (0.95, "never learned it")])
def test_where_a_collapsed_modality_is_lost(left: float, where: str) -> None:
    results = [r for r in world({"ratio": 0.05}) if (r.name, r.modality) != ("prefix_gap.prefix_loss", "a")]
    assert where in judged([*results, result("prefix_gap.prefix_loss", "a", left)]).reason


def test_without_utilisation_credit_can_be_shown_and_nothing_is_decided() -> None:
    def by_reliance(value: float) -> ModalityVerdict:
        return judged(
            [
                result("reliance.full_loss", None, 0.2),
                result("reliance.empty_loss", None, 1.0),
                result("reliance.shapley", "a", value, 0.01),
            ]
        )

    for value, words in ((0.4, "costs the model"), (0.005, "nothing measurable"), (-0.4, "nothing measurable")):
        found = by_reliance(value)
        assert (found.verdict, found.missing is None) == ("inconclusive", False)
        assert words in found.reason
    assert judged([]).verdict == "inconclusive"
    assert judged([]).score is None


def test_a_credit_of_rounding_is_no_use() -> None:
    """The credit of what a model never reads is 0 up to the last digit, and so is its interval."""
    rest = [result("reliance.full_loss", None, 0.2), result("reliance.empty_loss", None, 1.0)]
    assert judged([*rest, result("reliance.shapley", "a", 7e-9, 1e-9)]).verdict == "inconclusive"


def test_why_there_is_no_utilisation_is_said_whether_a_number_or_the_probe_was_skipped() -> None:
    for name, modality in (("utilisation.credit", "a"), ("utilisation", None)):
        skipped = Result(
            name=name,
            probe="utilisation",
            modality=modality,
            definition="d",
            source="s",
            skipped="there is no train split",
        )
        assert "there is no train split" in judged([skipped, result("reliance.shapley", "a", 0.4, 0.01)]).reason


FULL = world({"ratio": 0.05}, {"ratio": 0.3})


@settings(max_examples=200)
@given(st.lists(st.booleans(), min_size=len(FULL), max_size=len(FULL)), st.sampled_from([0.0, 0.05, 0.3, 1.0, None]))
def test_whatever_is_missing_there_is_a_readable_verdict(kept: list[bool], ratio: float | None) -> None:
    results = [r for r, keep in zip(world({"ratio": ratio}, {"ratio": 0.3}), kept, strict=True) if keep]
    made = judge(results, ("a", "b"), "accuracy")
    assert made.overall in get_args(OverallState)
    assert made.summary
    for verdict in made.each.values():
        assert_readable(verdict, results)


@pytest.mark.parametrize("ratio", [0.05, 0.3, 1.0, None])
def test_no_two_results_are_needed_together(ratio: float | None) -> None:
    full = world({"ratio": ratio})
    for i in range(len(full)):
        for j in range(i, len(full)):
            results = [r for k, r in enumerate(full) if k not in (i, j)]
            assert_readable(judged(results), results)


@given(st.lists(st.booleans(), min_size=len(FULL), max_size=len(FULL)))
@settings(max_examples=50)
def test_the_report_alone_gives_the_same_verdicts(kept: list[bool]) -> None:
    results = [r for r, keep in zip(FULL, kept, strict=True) if keep]
    made = judge(results, ("a", "b"), "accuracy")
    again = Report.from_json(make_plain_report(results, **made.fields).to_json())
    assert judge(again.results, again.subject.modalities, again.subject.metric) == made
    assert (again.modalities, again.judged) == (made.each, made.judged)


@given(st.permutations(range(len(FULL))))
@settings(max_examples=30)
def test_the_order_of_results_decides_nothing(order: list[int]) -> None:
    assert judge([FULL[i] for i in order], ("a", "b"), "accuracy") == judge(FULL, ("a", "b"), "accuracy")


def test_renaming_modalities_renames_verdicts() -> None:
    name = {"a": "b", "b": "a", None: None}
    renamed = [r.model_copy(update={"modality": name[r.modality], "versus": name[r.versus]}) for r in FULL]
    one, other = judge(FULL, ("a", "b"), "accuracy")[2], judge(renamed, ("b", "a"), "accuracy")[2]
    for m in "ab":
        theirs = other[name[m]]
        assert (one[m].verdict, one[m].score, one[m].costs_now) == (theirs.verdict, theirs.score, theirs.costs_now)
        assert {name[k]: v for k, v in one[m].costs_if_missing.items()} == theirs.costs_if_missing
        assert one[m].evidence == theirs.evidence


@pytest.mark.parametrize(
    ("case", "state", "at_most", "at_least"),
    [
        ({"ratio": 0.05}, "collapsed", None, None),  # a stronger reference makes it smaller still
        ({"ratio": 0.9}, "used", None, None),
        ({"ratio": USED * WEAK, "half": 0.0}, "used", None, None),
        ({"ratio": USED * WEAK - 1e-9, "half": 0.0}, "inconclusive", None, "underused"),
        ({"ratio": 0.9, "most": 0.3 / COLLAPSED + 0.01}, "inconclusive", None, "underused"),  # if it said everything
        ({"ratio": 0.12, "half": 0.01}, "collapsed", None, None),
        ({"ratio": 0.2, "half": 0.01}, "inconclusive", "underused", None),
        ({"ratio": 0.3, "half": 0.01}, "inconclusive", "underused", "underused"),
        ({**NOTHING_ALONE, "share": 0.0}, "inconclusive", None, None),
    ],
)
def test_a_weak_reference_decides_what_it_would_decide_were_it_half_as_strong_again(
    case: dict[str, Any], state: str, at_most: str | None, at_least: str | None
) -> None:
    results = [*world({**case, "trained": 0.0}), note("a", "profile quick trains no encoder alone")]
    found = judged(results)
    assert (found.verdict, found.at_most, found.at_least) == (state, at_most, at_least)
    assert (found.missing == "profile quick trains no encoder alone") == (state == "inconclusive")
    assert_readable(found, results)


def note(m: str, text: str) -> Result:
    """Why no encoder was trained alone; it takes the place of the world's own."""
    return result("utilisation.reference_trained", m, 0.0, note=text)


def test_weak_references_of_others_leave_a_collapse_open_that_is_near_the_limit() -> None:
    others = {"trained": 0.0}
    assert judged(world({"ratio": 0.12, "half": 0.0}, others)).verdict == "inconclusive"
    assert judged(world({"ratio": 0.12, "half": 0.0}, others)).at_most == "underused"
    assert judged(world({"ratio": 0.09, "half": 0.0}, others)).verdict == "collapsed"


@pytest.mark.parametrize("ratio", [0.5, 1.0, 2.0])
def test_next_to_no_credit_is_no_use_however_little_is_due(ratio: float) -> None:
    little = {"ratio": ratio, "credit": MARGIN * PRIOR - 1e-4}
    assert judged(world(little)).verdict == "inconclusive"
    assert "chance" in judged(world(little)).reason
    assert judged(world({**little, "credit": MARGIN * PRIOR + 1e-4})).verdict == "used"


def test_why_a_credit_does_not_count_is_told() -> None:
    small = judged(world({"credit": MARGIN * PRIOR - 1e-4}))
    assert "next to nothing of the loss" in small.reason
    wide = [
        result(r.name, "a", 0.3, 0.4) if r.name == "utilisation.credit" and r.modality == "a" else r for r in world({})
    ]
    assert judged(wide).verdict == "inconclusive"
    assert "the interval of its credit reaches 0" in judged(wide).reason
    assert "next to nothing" not in judged(wide).reason


def test_nothing_is_used_by_a_model_that_learned_nothing() -> None:
    for learned, state in ((LEARNED - 1e-3, "inconclusive"), (LEARNED + 1e-3, "used")):
        assert (
            judged([*world({"ratio": 1.0, "gain": 0.05}), result("utilisation.learned", None, learned)]).verdict
            == state
        )


def test_nothing_is_used_by_a_model_that_learned_little_of_what_there_is() -> None:
    for learned, state in ((0.8 * COLLAPSED - 1e-3, "inconclusive"), (0.8 * COLLAPSED + 1e-3, "used")):
        whole = [result("utilisation.learned", None, learned), result("utilisation.learnable", None, 0.8)]
        found = judged([*world({"ratio": 1.0, "gain": 0.04}), *whole])
        assert found.verdict == state
        assert ("as a whole it gains only" in found.reason) == (state == "inconclusive")
        assert ("of what the reference gains" in found.reason) == (state == "inconclusive")


@pytest.mark.parametrize(
    ("alone", "learned", "state"),
    [
        (0.12, MOST * 0.12 + 1e-3, "used"),  # most of what a weak modality says, beside a strong one that is ignored
        (0.12, MOST * 0.12 - 1e-3, "inconclusive"),
        (LEARNED + 1e-3, LEARNED + 1e-3, "used"),
        (LEARNED - 1e-3, LEARNED + 1e-3, "inconclusive"),  # as much as a trifle may be chance
    ],
)
def test_a_weak_modality_is_used_by_a_model_that_gains_most_of_it(alone: float, learned: float, state: str) -> None:
    whole = [result("utilisation.learned", None, learned), result("utilisation.learnable", None, 1.0)]
    found = judged([*world({"ratio": 1.0, "gain": alone * PRIOR}), *whole])
    assert found.verdict == state
    assert ("of what the reference gains" in found.reason) == (state == "inconclusive")


@pytest.mark.parametrize("ratio", [0.5, 1.0, 2.0])
def test_a_modality_is_not_used_by_a_model_that_gains_much_less_than_it_does_alone(ratio: float) -> None:
    for part in (ENOUGH - 1e-3, ENOUGH + 1e-3):
        found = judged([*world({"ratio": ratio, "gain": 0.5}), result("utilisation.learned", None, part * 0.5 / PRIOR)])
        assert found.verdict == ("used" if part > ENOUGH else "inconclusive")
        assert ("says alone" in found.reason) == (found.verdict == "inconclusive")


def test_the_headline_says_what_is_missing_and_no_more_than_was_judged() -> None:
    weak = judge([*world({"ratio": 0.5, "trained": 0.0}, {"ratio": 1.0})], ("a", "b"), "accuracy")
    assert (weak.overall, weak.judged.extent) == ("inconclusive", "partly")
    assert weak.summary.startswith("Partly judged: what a could give is not known")
    assert "b" not in weak.judged.missing[0][:2]
    full = judge(world({"ratio": 1.0}, {"ratio": 1.0}), ("a", "b"), "accuracy")
    assert (full.summary, full.judged.extent) == ("The model uses every modality.", "fully")
    less = judge(world({"ratio": 0.17, "half": 0.05}, {"ratio": 1.0}), ("a", "b"), "accuracy")
    assert (less.overall, less.summary) == ("underused", "The model underuses a.")
    nothing = {**NOTHING_ALONE, "share": 0.0}
    none = judge(world(nothing, nothing), ("a", "b"), "accuracy")
    assert (none.overall, none.judged.extent) == ("inconclusive", "fully")
    assert "Nothing that was tried" in none.summary


def test_a_run_of_one_probe_is_partly_judged() -> None:
    results = [r for r in world({"ratio": 1.0}, {"ratio": 1.0}) if r.probe == "reliance"]
    made = judge(results, ("a", "b"), "accuracy")
    assert (made.overall, made.judged.extent) == ("inconclusive", "partly")
    assert made.summary.startswith("Partly judged")


@pytest.mark.parametrize(("block", "said"), [(0.005, True), (UNREAD * 139.5 + 0.1, False)])
def test_a_branch_that_the_first_layer_does_not_read_is_told_in_plain_numbers(block: float, said: bool) -> None:
    more = [
        result("gradient_rank.block_norm", "a", block),
        result("gradient_rank.layer_norm", "a", 139.5),
        result("spectrum.spread", "a", 1.5e-8),
    ]
    reason = judged([*world({"ratio": 0.0}), *more]).reason
    assert ("varies by 1.5e-08" in reason) == ("the fusion does not read it" in reason) == said
    assert ("lost in the fusion" in reason) != said


def test_an_encoder_never_learned_what_the_strongest_readout_finds() -> None:
    """Whichever readout that is: of the encoder trained alone, or of the raw input."""
    weak = [r for r in world({"ratio": 0.05, "gain": 0.9}) if not r.name.startswith("prefix_gap.baseline")]
    assert "never learned it" in judged(weak).reason  # the encoder's readout gains 0.5, the strongest 0.9
    found = [r for r in world({"ratio": 0.05, "gain": 0.55}) if not r.name.startswith("prefix_gap.baseline")]
    assert "still holds it" in judged(found).reason
