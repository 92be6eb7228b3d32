"""Rules: what they mean, what they refuse, and that what is not there never passes."""

from __future__ import annotations

import json
import operator

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from collapsekit.config.options import WATCHED
from collapsekit.errors import CollapsekitError, ConfigError, RefusedError
from collapsekit.gating.criteria import METRIC_AS_IT_IS, MISSING, USE
from collapsekit.gating.decide import gate
from collapsekit.gating.rules.evaluate import decide_rule
from collapsekit.gating.rules.parser import parse_rule
from collapsekit.report.base import sealed
from collapsekit.report.diagnosis import Report
from collapsekit.report.gate import GateReport
from collapsekit.report.verdicts import judge
from tests.factories import make_result
from tests.gating.making import make_report

REPORT = make_report(
    {"audio": 0.1, "image": 0.9},
    results=(
        make_result("reliance.shapley", 0.2, "audio", interval=(0.1, 0.3)),
        make_result("cka", 0.5, "audio", versus="image"),
        make_result("prefix_gap", None, skipped="profile quick trains nothing"),
    ),
)
NO_SCORE = make_report({"audio": 0.5, "image": 0.9}, scores={"audio": None, "image": 0.1})


def state(rule: str, report: Report = REPORT) -> str:
    return decide_rule(rule, report).state


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("verdict != collapsed", "failed"),
        ("verdict == 'collapsed'", "passed"),
        ("modalities.audio.score <= 0.3", "failed"),
        ("modalities.image.score <= 0.3", "passed"),
        ("0.3 >= modalities.image.score", "passed"),
        ("modalities.*.score <= 0.95", "passed"),
        ("modalities.*.score <= 0.3", "failed"),
        ("modalities.image.score.upper <= 0.15", "failed"),
        ("modalities.image.score.lower < 1e-1", "passed"),
        ("modalities.audio.verdict == collapsed", "passed"),
        ("modalities.audio.costs_now > 0", "passed"),
        ("modalities.audio.costs_if_missing.image <= 0.2", "passed"),
        ("results[vif.mean] <= 5", "passed"),
        ("results[vif.mean].upper <= 4.5", "failed"),
        ("results[reliance.shapley, audio] > .15", "passed"),
        ("results[cka, audio, image] == 0.5", "passed"),
        ("subject.examples >= 200 and subject.metric == accuracy", "passed"),
        ("verdict == healthy or results[vif.mean] < 5", "passed"),
        ("verdict == healthy or results[vif.mean] < 1", "failed"),
        ("not verdict == healthy and not (results[vif.mean] > 5)", "passed"),
        ("not not verdict == healthy", "failed"),
        ("verdict == healthy and results[vif.mean] < 5 or subject.seed == 0", "passed"),  # "and" binds closer
        ("modalities.image.score < modalities.audio.score", "passed"),
        ('modalities."audio".score > 0.5', "passed"),
        ("modalities.*.score <= results[vif.mean]", "passed"),
    ],
)
def test_rules_decide_as_they_read(rule: str, expected: str) -> None:
    assert state(rule) == expected


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("modalities.audi.score <= 1", "did you mean 'audio'"),
        ("modalities.audio.costs_if_missing.depth <= 1", "depth"),
        ("results[vif.maen] <= 5", "did you mean 'vif.mean'"),
        ("results[reliance.shapley] <= 5", "write results[reliance.shapley, NAME]"),
        ("results[reliance.shapley, image] <= 5", "audio"),
        ("results[reliance.shapley, *] <= 5", "image"),
        ("results[prefix_gap.gap] <= 5", "profile quick trains nothing"),
        ("results[prefix_gap] <= 5", "profile quick trains nothing"),
        ("results[cka, audio, image].upper <= 5", "no interval"),
    ],
)
@pytest.mark.parametrize("around", ["{}", "{} or verdict == collapsed", "({} and verdict == collapsed)", "not ({})"])
def test_what_is_not_there_never_passes(rule: str, said: str, around: str) -> None:
    if around == "not ({})" and "*" in rule:
        return
    check = decide_rule(around.format(rule), REPORT)
    assert check.state == "inconclusive"
    assert said in check.sentence
    assert decide_rule(f"{rule} and verdict == healthy", REPORT).state == "failed"  # whatever it might be


def test_no_score_and_inconclusive_verdicts_decide_nothing() -> None:
    assert state("modalities.*.score <= 0.9", NO_SCORE) == "inconclusive"
    assert state("modalities.image.score <= 0.9", NO_SCORE) == "passed"
    assert state("modalities.*.score <= 0.05", NO_SCORE) == "failed"  # whatever audio's would be
    unsure = make_report(verdict="inconclusive")
    assert state("verdict != collapsed", unsure) == "inconclusive"
    assert state("not verdict == collapsed", unsure) == "inconclusive"
    assert state("verdict == healthy", unsure) == "inconclusive"
    assert state("verdict != inconclusive", unsure) == "failed"
    assert state("verdict == healthy or verdict == inconclusive", unsure) == "inconclusive"


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("", "its end stands where a name"),
        ("verdict", "its end stands where <="),
        ("verdict != colapsed", "did you mean 'collapsed'"),
        ("modalities.audio.verdict == healthy", "a verdict is one of used"),
        ("modalities.audio.scor <= 1", "did you mean 'score'"),
        ("modalities.audio <= 1", "needs a modality and what of it"),
        ("modalities.audio.score.middle <= 1", "lower or upper"),
        ("modalities.audio.costs_if_missing <= 1", "the other modality"),
        ("modalities.audio.costs_now.upper <= 1", "too much"),
        ("subject.sise > 1", "subject.examples"),
        ("verdict.x == healthy", "has no parts"),
        ("result[vif.mean] <= 5", "did you mean 'results'"),
        ("results.vif.mean <= 5", "is not written as results[vif.mean]"),
        ("results[a, b, c, d] <= 5", "is not written as results[vif.mean]"),
        ("results[*] <= 5", "only in the place of the modality"),
        ("results[vif.mean].median <= 5", "value, lower or upper"),
        ("1 < 2", "compares no number of the report"),
        ("verdict <= collapsed", "orders text"),
        ("verdict == 1", "compares a number with text"),
        ("modalities.audio.score == collapsed", "compares a number with text"),
        ("modalities.audio.score <= 1e999", "too large a number"),
        ("modalities.audio.score <= nan", "compares a number with text"),
        ("0 < modalities.audio.score < 1", "one sign too many"),
        ("verdict == healthy verdict", "too much"),
        ("(verdict == healthy", "where `)` should"),
        ("not modalities.*.score > 1", "under `not`"),
        ("not (verdict == healthy and results[x, *] > 1)", "under `not`"),
        ("__import__('os').system('x') == 1", "nothing a rule is made of"),
        ("os.system == 1", "begins with none of"),
        ("verdict = healthy", "nothing a rule is made of"),
        ("(" * 60 + "verdict == healthy" + ")" * 60, "levels deep"),
        ("verdict == healthy or " * 200 + "verdict == healthy", "characters"),
    ],
)
def test_rules_that_name_nothing_are_refused_in_one_sentence(rule: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        decide_rule(rule, REPORT)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


PIECES = st.sampled_from(
    [
        *(
            "verdict",
            "modalities",
            "results",
            "subject",
            ".",
            "audio",
            "score",
            "[",
            "]",
            "vif.mean",
            ",",
            "*",
            "(",
            ")",
        ),
        *("and", "or", "not", "<=", "<", ">", "==", "!=", "0.3", "-1", "1e5", "'", '"', "collapsed", "healthy", " "),
        *(
            "modalities.audio.score",
            "results[vif.mean]",
            "modalities.*.score",
            "verdict == collapsed",
            "\0",
            "\x1b",
            "é",
        ),
    ]
)


@settings(max_examples=600)
@given(
    st.one_of(
        st.text(max_size=60), st.lists(PIECES, max_size=14).map(" ".join), st.lists(PIECES, max_size=14).map("".join)
    )
)
@example("modalities.audio.score <= 0.3\n")
@example("[" * 1000)
@example("not " * 400 + "verdict == healthy")
def test_any_text_is_decided_or_refused_in_a_sentence(rule: str) -> None:
    try:
        check = decide_rule(rule, REPORT)
    except CollapsekitError as e:
        said = str(e)
    else:
        said = check.sentence
        assert check.state in ("passed", "failed", "inconclusive")
        parse_rule(rule)  # what was decided was read
    assert 0 < len(said) < 1_500


# Rules made at random beside what Python's own operators say of them.
LEAVES = st.tuples(
    st.sampled_from(
        [
            ("modalities.audio.score", 0.9),
            ("modalities.image.score", 0.1),
            ("results[vif.mean]", 4.2),
            ("results[zz]", None),
        ]
    ),
    st.sampled_from(["<", "<=", ">", ">=", "==", "!="]),
    st.sampled_from([0.05, 0.1, 0.5, 0.9, 4.2]),
)
SIGNS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "==": operator.eq, "!=": operator.ne}


def leaf(made: tuple[tuple[str, float | None], str, float]) -> tuple[str, list[bool], bool]:
    """A comparison's text, what it may be (both, of what is not there), whether all is there."""
    (name, value), sign, limit = made
    return f"{name} {sign} {limit}", [False, True] if value is None else [SIGNS[sign](value, limit)], value is not None


def joined(word: str, a: tuple[str, list[bool], bool], b: tuple[str, list[bool], bool]) -> tuple[str, list[bool], bool]:
    combine = operator.and_ if word == "and" else operator.or_
    return f"({a[0]}) {word} ({b[0]})", [combine(x, y) for x in a[1] for y in b[1]], a[2] and b[2]


RULES = st.recursive(
    LEAVES.map(leaf),
    lambda inner: st.one_of(
        st.tuples(st.sampled_from(["and", "or"]), inner, inner).map(lambda t: joined(*t)),
        inner.map(lambda a: (f"not ({a[0]})", [not x for x in a[1]], a[2])),
    ),
    max_leaves=6,
)


@given(RULES)
def test_is_what_logic_says(made: tuple[str, list[bool], bool]) -> None:
    text, may_be, all_there = made
    found = state(text)
    if all_there:
        assert found == ("passed" if may_be[0] else "failed")
    else:
        # Each unknown is taken apart from the others here, as in a logic of three values.
        assert found == ("failed" if not any(may_be) else "inconclusive")


def test_the_sentence_says_what_was_found() -> None:
    check = decide_rule("modalities.*.score <= 0.3", REPORT)
    assert "modalities.audio.score is 0.9" in check.sentence
    assert "modalities.image.score is 0.1" in check.sentence
    assert (check.modality, check.found) == (None, None)
    check = decide_rule("modalities.audio.score <= 0.3", REPORT)
    assert (check.modality, check.found) == ("audio", pytest.approx(0.9))


def test_a_collapsed_verdict_says_of_what() -> None:
    assert "verdict is collapsed (of audio)" in decide_rule("verdict != collapsed", REPORT).sentence


def test_names_swapped_swap_the_results() -> None:
    swapped = make_report({"audio": 0.9, "image": 0.1})
    for a, b in (("audio", "image"), ("image", "audio")):
        assert state(f"modalities.{a}.score <= 0.3") == state(f"modalities.{b}.score <= 0.3", swapped)


SKIPPED = make_report({"audio": 0.9, "image": 0.9}, results=(make_result("cka.mean", None),))


@pytest.mark.parametrize(
    "rule",
    [
        "modalities.zzz.score <= 1",
        "modalities.zzz*.score <= 1",
        "modalities.*o.score <= 1",
        "not modalities.zzz.score > 1",
        "modalities.zzz.verdict != collapsed",
        "modalities.audio.costs_if_missing.zzz <= 1",
        "results[no.such] <= 1",
        "not results[no.such] > 1",
        "results[cka.mean] <= 1e9",
        "results[cka.mean] != 0",
        "results[vif.mean, audio] <= 1e9",
        "results[vif.*] <= 1e9",
        "results[reliance.leave_one_out_metric, zzz] <= 1",
        "results[utilisation.credit, audio].upper <= 1e9",
        "results[no.such] <= 1 or results[vif.mean] >= 0",
        "results[vif.mean] >= 0 or results[no.such] <= 1",
        "results[vif.mean] <= nan",
        "results[vif.mean] >= nan",
        "results[vif.mean] != nan",
        "results[vif.mean] <= inf",
        "results[vif.mean] >= -inf",
        "results[vif.mean] != '0.9'",
        "results[vif.mean] != true",
        "results[vif.mean] != collapsed",
        "verdict != colapsed",
        "verdict != 'colapsed'",
        "verdict != 1",
        "modalities.*.verdict != ''",
        "subject.examples != '200'",
        "subject.sha256 != 0",
        "nan == nan",
        "1 == 1",
        "",
        " ",
    ],
)
def test_what_is_not_there_or_means_nothing_passes_no_rule(rule: str) -> None:
    try:
        found = gate(SKIPPED, require=[rule])
    except ConfigError as e:
        assert e.exit_code == 2  # noqa: PT017 - either is fine, a pass is not
        return
    assert found.outcome == "inconclusive", found.checks[0].sentence
    assert found.exit_code == 5


def test_no_rules_at_all_pass_nothing() -> None:
    assert gate(SKIPPED, require=[]).exit_code == 5


def test_a_rule_given_twice_is_one_check_however_it_is_spaced() -> None:
    found = gate(SKIPPED, require=["verdict == healthy", " verdict == healthy ", "verdict == healthy"])
    assert [c.name for c in found.checks if c.kind == "rule"] == ["verdict == healthy"]
    assert found.settings["require"] == ["verdict == healthy"]
    assert GateReport.from_json(found.to_json()) == found


def test_what_can_be_watched_is_what_the_gate_measures() -> None:
    assert [m.name for m in (METRIC_AS_IT_IS, USE, MISSING)] == list(WATCHED)


def test_what_was_only_partly_judged_passes_where_that_is_allowed() -> None:
    full = make_report()
    assert full.judged is not None
    assert full.judged.extent == "fully"
    weak = [
        make_result("utilisation.reference_trained", 0.0, m, note="none was trained") for m in full.subject.modalities
    ]
    kept = [r for r in full.results if r.name != "utilisation.reference_trained"]
    made = judge(
        [*kept, *weak, make_result("utilisation.due_at_most", 9.0, "audio")], full.subject.modalities, "accuracy"
    )
    partly = full.model_copy(update={"results": (*kept, *weak), **made.fields})
    assert gate(full).outcome == "passed"
    found = gate(partly)
    assert (found.outcome, found.exit_code) == ("inconclusive", 5)
    last = found.checks[-1]
    assert (last.name, last.kind, last.state) == ("fully judged", "judged", "inconclusive")
    assert "none was trained" in last.sentence
    waived = gate(partly, require="verdict != collapsed", allow_partial=True)
    assert [c.kind for c in waived.checks] == ["rule"]
    assert waived.settings["allow_partial"] is True
    for report in (found, waived):
        assert GateReport.from_json(report.to_json()) == report


def test_a_report_from_before_is_not_known_to_be_fully_judged() -> None:
    earlier = make_report().model_copy(update={"judged": None, "rules": None})
    found = gate(earlier)
    assert found.exit_code == 5
    assert "does not say how much" in found.checks[-1].sentence
    assert gate(earlier, allow_partial=True).outcome == "passed"


def test_a_judgement_that_is_missing_cannot_fail_a_gate() -> None:
    raw = json.loads(gate(make_report()).to_json())
    raw["checks"][-1]["state"], raw["outcome"], raw["summary"] = "failed", "failed", "1 of 2 checks failed."
    with pytest.raises(RefusedError, match="missing cannot"):
        GateReport.from_data(sealed(GateReport, raw))
