"""What a figure is said to show: never against the numbers, and never more than their intervals allow."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sample_pictures import every_probe
from sample_reports import HOSTILE, make_report

from collapsekit.measures import Finding, headings_of_package
from collapsekit.measures.picture import ANSWERS, FIELDS
from collapsekit.render import write
from collapsekit.render.figures.diagnosis import pictures_of, state
from collapsekit.render.figures.findings import state_finding
from collapsekit.report.diagnosis import Curve, Report, Result
from collapsekit.report.names import cleaned

NAMES = ("image", "audio", "text")
numbers = st.integers(-20, 20).map(lambda n: n / 8)


@st.composite
def estimates(draw: st.DrawFn) -> dict[str, Any]:
    """A value with an interval around it, or with none."""
    value, below, above = draw(numbers), abs(draw(numbers)), abs(draw(numbers))
    interval = (value - below, value + above) if draw(st.integers(0, 5)) else None
    return {"value": value, "interval": interval}


def report_of(*results: Result) -> Report:
    return make_report().model_copy(update={"results": results})


def result(modality: str | None = None, versus: str | None = None, name: str = "p.n", **more: Any) -> Result:
    return Result(name=name, probe="p", definition="d", source="s", modality=modality, versus=versus, **more)


def answer(question: Any, report: Report, **more: Any) -> list[str]:
    says = {a: f"{a} {{modality}}" if question in ("most", "among") else a for a in ANSWERS[question]}
    return state_finding(report, (Finding(question, "p.n", says, **more),)).split()


def below(a: Result, b: Result) -> bool:
    return a.interval is not None and b.interval is not None and a.interval[1] < b.interval[0]


@given(st.lists(estimates(), min_size=2, max_size=3), st.sampled_from(["above", "below"]))
def test_the_most_is_apart_from_all_others(rows: list[dict[str, Any]], side: str) -> None:
    results = [result(m, **row) for m, row in zip(NAMES, rows, strict=False)]
    said, modality = answer("most", report_of(*results), side=side)
    top = next(r for r in results if r.modality == modality)
    others = [r for r in results if r is not top]
    ordered = [(r, top) if side == "above" else (top, r) for r in others]
    assert all((a.value or 0) <= (b.value or 0) for a, b in ordered)
    assert (said == "clear") == all(below(a, b) for a, b in ordered)


@given(st.lists(estimates(), min_size=1, max_size=3), numbers, st.sampled_from(["above", "below"]))
def test_what_lies_beyond_a_limit_does_so_with_its_interval(
    rows: list[dict[str, Any]], limit: float, side: str
) -> None:
    results = [result(m, **row) for m, row in zip(NAMES, rows, strict=False)]
    says = {"clear": "{modality}", "unclear": "none"}
    said = state_finding(report_of(*results), (Finding("beyond", "p.n", says, side=side, limit=limit),))  # type: ignore[arg-type]
    sure = [r for r in results if r.interval and (r.interval[0] > limit if side == "above" else r.interval[1] < limit)]
    if not any(r.interval for r in results):
        assert said == ""
    elif not sure:
        assert said == "none"
    else:
        farthest = max(sure, key=lambda r: (r.value or 0) * (1 if side == "above" else -1))
        named = next(r for r in sure if r.modality == said)
        assert named.value == farthest.value


@given(estimates(), estimates())
def test_one_number_is_above_another_only_where_intervals_are_apart(one: dict[str, Any], other: dict[str, Any]) -> None:
    first, second = result(**one), result(name="p.o", **other)
    exact = second if second.interval else result(value=second.value, interval=(second.value, second.value))
    right = "above" if below(exact, first) else "below" if below(first, exact) else "unclear"
    assert answer("against", report_of(first, second), other="p.o") == [right]


@given(estimates(), st.lists(estimates(), min_size=1, max_size=3))
def test_the_whole_is_above_all_or_below_all_or_neither(one: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    whole, parts = result(**one), [result(m, **row) for m, row in zip(NAMES, rows, strict=False)]
    said, modality = answer("among", report_of(whole, *parts))
    assert (said == "above") == all(below(r, whole) for r in parts)
    assert (said == "below") == all(below(whole, r) for r in parts)
    values = [r.value for r in parts if r.value is not None]
    nearest = max(values) if said == "above" else min(values)
    assert nearest in [r.value for r in parts if r.modality == modality]


@given(st.lists(st.tuples(numbers, numbers), min_size=3, max_size=3), st.sampled_from([None, 1.0, 7.0]))
def test_a_curve_rises_only_where_its_band_does(points: list[tuple[float, float]], begin: float | None) -> None:
    y, half = [p[0] for p in points], [abs(p[1]) for p in points]
    lower, upper = ([v + sign * h for v, h in zip(y, half, strict=True)] for sign in (-1, 1))
    band = {"lower": tuple(lower), "upper": tuple(upper)}
    labels = {"x_label": "x", "y_label": "y"}
    curve = Curve(x=(0.0, 1.0, 2.0), y=tuple(y), **band, **labels)
    said = answer("change", report_of(result("image", curve=curve)), begin=begin)
    i = 0 if begin is None else 1
    right = "above" if lower[2] > upper[i] else "below" if upper[2] < lower[i] else "unclear"
    assert said == ([] if begin == 7.0 else [right])
    bare = Curve(x=(0.0, 1.0, 2.0), y=tuple(y), **labels)
    assert answer("change", report_of(result("image", curve=bare)), begin=begin) == []  # nothing is known of its noise


def test_of_several_curves_a_clear_change_comes_before_a_large_one() -> None:
    labels = {"x_label": "x", "y_label": "y"}
    noisy = Curve(x=(0.0, 1.0), y=(0.0, 9.0), lower=(-9.0, 0.0), upper=(9.0, 18.0), **labels)
    sure = Curve(x=(0.0, 1.0), y=(0.0, -1.0), lower=(-0.1, -1.1), upper=(0.1, -0.9), **labels)
    report = report_of(result("image", curve=noisy), result("audio", curve=sure))
    says = {a: f"{a} {{modality}} {{value}}, {{other}}, {{begin}} to {{end}}" for a in ANSWERS["change"]}
    said = state_finding(report, (Finding("change", "p.n", says),))
    assert said == "below audio 0 [-0.10, 0.10], -1 [-1.10, -0.90], 0 to 1"


def test_a_share_counts_what_is_drawn() -> None:
    curve = Curve(x=(1.0, 2.0, 3.0), y=(9.0, 11.0, 10.0), x_label="x", y_label="y")
    says = {"clear": "{count} above {limit}"}
    assert (
        state_finding(report_of(result(curve=curve)), (Finding("share", "p.n", says, limit=10.0),)) == "1 of 3 above 10"
    )


def test_the_first_finding_with_numbers_is_told() -> None:
    none = Finding("share", "p.none", {"clear": "never"})
    some = Finding("most", "p.n", {"clear": "{modality} {value} {unit} {metric}", "unclear": "?"})
    a, b = (result(m, value=v, interval=(v, v), unit="loss (nats)") for m, v in (("image", 1.0), ("audio", 2.0)))
    assert state_finding(report_of(a, b), (none, some)) == "audio 2 [2, 2] nats accuracy"
    assert state_finding(report_of(a), (none, some)) == ""  # there is no most of one


@pytest.mark.parametrize("head", headings_of_package(), ids=lambda h: h.probe)
def test_sentences_are_whole(head: Any) -> None:
    for picture in head.pictures:
        assert picture.findings, picture.name
        for finding in picture.findings:
            for sentence in finding.says.values():
                filled = sentence.format(**dict.fromkeys(FIELDS, "x"))
                assert filled.endswith(".")
                assert not re.search(r"[{}]|\s\s", filled)
            clear = [s for a, s in finding.says.items() if a != "unclear"]
            assert not any("clear" in s.replace("nuclear", "") for s in clear), "a clear answer that hedges"
            if "unclear" in finding.says:
                assert "clear" in finding.says["unclear"]


def test_findings_of_the_sample_are_these() -> None:
    report = every_probe(("image", "audio"))
    said = {p.name: state(report, p) for p in pictures_of(report)}
    assert said["missing"] == "Without image, accuracy falls by 0.34 [0.29, 0.39], filled in the best way."
    assert said["utilisation"] == "audio gets 0.044 [0.042, 0.047] times the credit it is due."
    assert said["prefix_gap"] == "The encoder of audio is worse than one trained alone, by 0.20 [0.12, 0.28] nats."
    assert said["vif"] == "11 of 24 fused neurons have a VIF above 10."
    assert said["gradient_rank"] == "No two modalities clearly have gradients that pull against each other."
    assert not any(re.search(r"\bnan\b|\binf\b|None", text) for text in said.values())


def test_names_in_findings_are_clean() -> None:
    report = cleaned(every_probe(HOSTILE))
    for picture in pictures_of(report):
        text = state(report, picture)
        assert text.isprintable()
        assert not re.search("[\x00-\x1f\u202a-\u202e\u2066-\u2069\u200b]", text)


def test_the_caption_says_the_finding_and_then_the_definition() -> None:
    page = write(every_probe(("image", "audio")), "html")
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", page, re.S)
    vif = re.sub("</?abbr[^>]*>", "", next(c for c in captions if "VIF" in c))
    assert vif.startswith(
        "<b>11 of 24 fused neurons have a VIF above 10.</b> Redundancy of the fused neurons: The per feature"
    )
    costs, why = page.rsplit("Why: the fused representation", 1)  # the first stands among the contents
    assert all(f'id="figure-{name}"' in costs for name in ("reliance", "utilisation", "missing", "noise"))
    assert all(f'id="figure-{name}"' in why for name in ("controls", "similarity", "collision", "gradient_rank"))
