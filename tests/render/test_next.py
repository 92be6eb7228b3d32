"""What comes next on the page is what the terminal says: one repair, one reason, one gate with its exit code."""

from __future__ import annotations

import re
import shlex
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_reports import HOSTILE, LONG, make_report

from collapsekit.cli.next_steps import Request, next_steps
from collapsekit.config.options import RECORDED, DiagnoseOptions
from collapsekit.gating.decide import decide
from collapsekit.render import write
from collapsekit.render.views import _next
from collapsekit.render.views._next import recorded_steps
from collapsekit.render.views._screen import NextStep
from collapsekit.report.diagnosis import Judged, Report
from collapsekit.session.command_line import words_of

CHECKPOINT, CONFIG = Path("my runs/ckpt.pt"), Path("conf/c.yaml")
DECIDED = {"reliance": {}, "utilisation": {}}
TRAINED = {"prefix_gap": {"epochs": 60, "budget": 120.0}}
FEW = "zer: it still got better when its 60 epochs were over"
NAMES = st.sampled_from([*HOSTILE, *LONG, "image", "a b c"]) | st.text(min_size=1, max_size=40).filter(str.strip)


def asked(report: Report, options: DiagnoseOptions, **more: Any) -> tuple[Report, Request[DiagnoseOptions]]:
    """The report as the command records it, and what was typed."""
    words = ["collapsekit", "diagnose", str(CHECKPOINT), "--config", str(CONFIG), *words_of(options)]
    recorded = {"command": shlex.join(words), "profile": options.profile, "limit": options.limit}
    changed = report.model_copy(update={"settings": {**report.settings, "probes": DECIDED, **recorded, **more}})
    return changed, Request(options, CHECKPOINT, CONFIG)


def partly(report: Report, why: str) -> Report:
    return report.model_copy(update={"judged": Judged(extent="partly", missing=(why,))})


def healthy(report: Report) -> Report:
    used = {m: v.model_copy(update={"verdict": "used", "at_most": None}) for m, v in report.modalities.items()}
    return report.model_copy(update={"modalities": used, "verdict": "healthy"})


def by_kind(steps: tuple[NextStep, ...]) -> dict[str, NextStep]:
    """Steps by what they are about: repair, more, gate."""
    found = {}
    for step in steps:
        kind = "gate" if step.about.startswith("the gate") else "more" if "more" in step.about else "repair"
        found[kind] = step
    return found


OPTIONS = (
    {"seed": 3, "device": "cpu"},
    {"profile": "full", "limit": 50, "split": "val", "skip": ("noise",), "training_seed": 1},
    {},
)


@settings(max_examples=30)
@given(
    st.lists(NAMES, min_size=2, max_size=6, unique=True),
    st.sampled_from(("collapsed", "inconclusive")),
    st.sampled_from(OPTIONS),
)
def test_repair_gate_and_exit_code_are_those_of_the_terminal(
    names: list[str], verdict: str, options: dict[str, Any]
) -> None:
    report, typed = asked(make_report(tuple(names)), DiagnoseOptions.make(**options))
    report = report.model_copy(update={"verdict": verdict})
    said, page = by_kind(next_steps(report, typed, None)), by_kind(recorded_steps(report))
    assert page["repair"] == said["repair"]
    assert page["repair"].command[:2] == ("collapsekit", "repair")
    if verdict == "inconclusive":
        assert page["more"].about == said["more"].about
    else:
        assert page["gate"] == said["gate"]
        assert ("--seed" in page["gate"].command) == ("seed" in options)
        assert ("--limit" in page["gate"].command) == ("limit" in options)
        assert "--skip" not in page["gate"].command  # which no gate takes
    assert _code(page["gate"].about) == decide(report).exit_code


def test_a_healthy_model_needs_no_repair_on_either() -> None:
    report, typed = asked(healthy(make_report()), DiagnoseOptions.make())
    said, page = next_steps(report, typed, Path("report.json")), recorded_steps(report)
    assert said[0].about.startswith(page[0].about.rstrip("."))
    assert page[-1].about == next_steps(report, typed, None)[0].about
    assert _code(page[-1].about) == 0


def _code(about: str) -> int:
    found = re.search(r"exits with (\d)", about)
    assert (found is None) == ("passes" in about)
    return int(found[1]) if found else 0


def test_rules_of_the_config_decide_on_both() -> None:
    rules = {"gate": {"require": ["results[vif.mean] <= 1e9", "verdict != collapsed"]}}
    report, typed = asked(make_report(), DiagnoseOptions.make(), config=rules)
    assert recorded_steps(report)[-1].about == next_steps(report, typed, None)[-1].about
    kept, typed = asked(make_report(), DiagnoseOptions.make(), config={"gate": {"baseline": "b.json"}})
    assert recorded_steps(kept)[-1].about == next_steps(kept, typed, None)[-1].about == "the gate for CI:"


@pytest.mark.parametrize("missing", ["the model cannot be built afresh: give model.factory in the config", None])
def test_a_model_elsewhere_is_asked_more_on_both(missing: str | None) -> None:
    report = make_report() if missing is None else partly(make_report(), missing)
    subject = report.subject.model_copy(update={"engine": "jax"})
    report, typed = asked(
        report.model_copy(update={"subject": subject, "verdict": "inconclusive"}), DiagnoseOptions.make()
    )
    said, page = by_kind(next_steps(report, typed, None))["more"], by_kind(recorded_steps(report))["more"]
    assert page == said
    assert "plan again" in said.about
    assert ("`predictions`" in said.about) == (missing is not None)


@pytest.mark.parametrize(
    ("missing", "options", "more"),
    [
        (FEW, {}, TRAINED),
        (FEW, {"seed": 3, "options": {"prefix_gap": {"epochs": 60}}}, TRAINED),
        ("profile quick trains no encoders", {"profile": "quick", "limit": 200}, {}),
        ("over the budget of 120 s: raise it", {"split": "val"}, {}),
        ("few examples", {"limit": 100, "seed": 4}, {}),
        ("no raw inputs", {"profile": "full"}, {}),
        ("it did not run", {"probes": ("vif",), "skip": ("noise", "reliance")}, {"vif": {}}),
    ],
)
def test_what_would_judge_more_is_the_same_command(missing: str, options: dict[str, Any], more: dict[str, Any]) -> None:
    probes = more if "vif" in more else {**DECIDED, **more}
    report, typed = asked(partly(make_report(), missing), DiagnoseOptions.make(**options), probes=probes)
    said, page = by_kind(next_steps(report, typed, None))["more"], by_kind(recorded_steps(report))["more"]
    assert page == said
    assert bool(page.command) == ("no option" not in page.about)


def test_only_words_that_are_known_are_taken_from_a_reports_command() -> None:
    report = partly(make_report(), "over the budget of 120 s: raise it")
    line = "collapsekit diagnose 'a;b' --plugin evil.py --output /etc/x --set x.y=z --seed 5 --profile '$(id)' -c"
    report = report.model_copy(update={"settings": {"command": line, "profile": "standard", "probes": DECIDED}})
    step = by_kind(recorded_steps(report))["more"]
    assert shlex.join(step.command) == "collapsekit diagnose 'a;b' --seed 5 --profile full"


def test_without_a_command_only_the_reason_is_said() -> None:
    report, _ = asked(partly(make_report(), FEW), DiagnoseOptions.make(), command="torchrun x", probes=DECIDED)
    assert [step.command for step in recorded_steps(report)] == [(), (), ("collapsekit", "gate", "report.json")]


@settings(max_examples=4, deadline=None)
@given(st.lists(NAMES, min_size=2, max_size=4, unique=True), st.booleans())
def test_the_page_shows_each_step_and_its_command(names: list[str], open_: bool) -> None:
    report, _ = asked(make_report(tuple(names)), DiagnoseOptions.make(profile="quick"))
    report = partly(report, "profile quick trains no encoders") if open_ else report
    text = write(report, "html")
    part = re.search(r'<section id="next".*?</section>', text, re.DOTALL)
    assert part is not None
    shown = [unescape(re.sub("<[^>]+>", "", c)) for c in re.findall(r"<pre[^>]*>(.*?)</pre>", part[0], re.DOTALL)]
    assert shown == [shlex.join(step.command) for step in recorded_steps(report) if step.command]
    assert len(shown) == 2 + open_


def test_settings_that_are_words_of_a_command_are_those_that_reports_record() -> None:
    assert _next._SETTLED == RECORDED
