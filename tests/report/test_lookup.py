"""Results by name: one, one of several, none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collapsekit import Report, Result, ext
from collapsekit.report.lookup import completions, look_up
from tests.gating.making import make_report

NAMES = st.sampled_from(["vif.mean", "vif.max", "reliance.shapley"])
MODALITIES = st.sampled_from([None, "image", "audio"])


def result(name: str, modality: str | None = None, versus: str | None = None, **more: object) -> Result:
    how = more or {"value": 1.0}
    return Result(name=name, probe="p", modality=modality, versus=versus, definition="d", source="s", **how)  # type: ignore[arg-type]


RESULTS = (
    result("vif.mean"),
    result("reliance.shapley", "image"),
    result("reliance.shapley", "audio"),
    result("spectrum.rank"),
    result("spectrum.rank", "image"),
    result("cka.pair", "image", "audio"),
    result("cka.pair", "image", "text"),
    result("gap.gap", "image", skipped="no encoder"),
)


@pytest.mark.parametrize(
    ("key", "place"),
    [
        ("vif.mean", 0),
        (("vif.mean",), 0),
        (("vif.mean", None), 0),
        (("reliance.shapley", "audio"), 2),
        ("spectrum.rank", 3),  # as find() has it: the whole before a part
        (("spectrum.rank", "image"), 4),
        (("cka.pair", "image", "text"), 6),
        ("gap.gap", 7),  # the only one, though of a modality; skipped, and there all the same
    ],
)
def test_a_key_of_one_result_gives_it(key: object, place: int) -> None:
    assert look_up(RESULTS, key) is RESULTS[place]


@pytest.mark.parametrize(
    ("key", "parts"),
    [
        (
            "reliance.shapley",
            ["2 results", "report['reliance.shapley', 'image']", "report['reliance.shapley', 'audio']"],
        ),
        (("cka.pair", "image"), ["report['cka.pair', 'image', 'audio']", "report['cka.pair', 'image', 'text']"]),
        ("vif.men", ["no result 'vif.men'", "did you mean 'vif.mean'"]),
        (("reliance.shapley", "imag"), ["did you mean 'image'", "report['reliance.shapley', 'audio']"]),
        (("vif.mean", "image"), ["no result 'vif.mean', 'image'", "but it has report['vif.mean', None]"]),
        (("cka.pair", "text"), ["report['cka.pair', 'image', 'audio']"]),
        (3, ["not by '3'"]),
        ((), ["not by '()'"]),
        (("vif.mean", 0), ["(name, modality, versus)"]),
    ],
)
def test_another_key_is_answered_in_one_sentence(key: object, parts: list[str]) -> None:
    with pytest.raises(KeyError) as raised:
        look_up(RESULTS, key)
    assert isinstance(raised.value, ext.ConfigError)
    text = str(raised.value)
    assert all(part in text for part in parts), text
    assert text.endswith(".")
    assert "\n" not in text


def test_names_of_a_report_do_not_act_in_a_message() -> None:
    hostile = "a\x1b[31m\n::error::x"
    with pytest.raises(ext.ResultKeyError) as raised:
        look_up((result("p.a", hostile), result("p.a", "image")), "p.a")
    assert "\x1b" not in str(raised.value)
    assert "\n" not in str(raised.value)


@given(st.lists(st.tuples(NAMES, MODALITIES), unique=True), NAMES, MODALITIES)
def test_what_find_finds_is_what_the_brackets_give(
    every: list[tuple[str, str | None]], name: str, modality: str | None
) -> None:
    report = Report.model_construct(results=tuple(result(n, m) for n, m in every))
    found = report.find(name, modality)
    if found is not None:
        assert report[name, modality] is found
    else:
        with pytest.raises(ext.ResultKeyError):
            report[name, modality]
    assert ((name, modality) in report) == (found is not None)
    assert (name in report) == any(n == name for n, _ in every)


@given(st.lists(st.tuples(NAMES, MODALITIES), unique=True))
def test_every_completion_with_a_modality_is_a_key(every: list[tuple[str, str | None]]) -> None:
    results = tuple(result(n, m) for n, m in every)
    keys = completions(results)
    assert {k for k in keys if isinstance(k, str)} == {n for n, _ in every}
    for key in keys:
        if isinstance(key, tuple):
            assert (look_up(results, key).name, look_up(results, key).modality) == key


def test_a_report_is_asked_by_name() -> None:
    report = make_report()
    name = report.results[0].name
    assert list(report.names()) == list(dict.fromkeys(r.name for r in report.results))
    assert name in report
    assert "no.such" not in report
    assert 3 not in report
    assert report._ipython_key_completions_()[0] == name
