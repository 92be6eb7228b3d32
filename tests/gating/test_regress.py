"""One report against a baseline: which comparison is made, when it fails, when it decides nothing."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collapsekit.errors import ConfigError, RefusedError
from collapsekit.gating.baseline import make_baseline, make_run
from collapsekit.gating.criteria import COLLAPSED, EFFECTS, MARGINS, Limits
from collapsekit.gating.decide import gate as decide
from collapsekit.report.baseline import Baseline
from collapsekit.report.diagnosis import Report
from collapsekit.report.gate import EXIT_CODES, GateReport, outcome_of
from collapsekit.stats.inference.holm import holm
from tests.factories import make_result
from tests.gating.making import make_records, make_report

HEALTHY = {"audio": 0.9, "image": 0.9}


def run_of(
    uses: dict[str, float], accuracy: float = 0.9, *, noise: float = 0.3, draw: int = 0, **more: object
) -> Report:
    return make_report(uses, accuracy, records=make_records(uses, accuracy, noise=noise, seed=draw), **more)  # type: ignore[arg-type]


def against(*reports: Report) -> Baseline:
    return make_baseline([make_run(r, r.records) for r in reports])


def seeds(count: int, spread: float = 0.02, accuracy: float = 0.9) -> Baseline:
    """Runs of several seeds whose uses vary by about ``spread``."""
    rng = np.random.default_rng(0)
    return against(
        *(
            make_report(
                {m: v + spread * rng.normal() for m, v in HEALTHY.items()},
                accuracy + 0.005 * rng.normal(),
                sha=f"run {i}",
                training_seed=i,
            )
            for i in range(count)
        )
    )


def gate(report: Report, **how: Any) -> GateReport:
    """The gate's comparisons alone: whether the report was fully judged has its own tests."""
    return decide(report, allow_partial=True, **how)


def states(found: GateReport) -> dict[str, str]:
    return {c.name: c.state for c in found.checks}


BASE = run_of(HEALTHY, training_seed=3)


def test_same_weights_are_paired_and_pass() -> None:
    found = gate(BASE, baseline=against(BASE))
    assert found.against is not None
    assert found.against.situation == "paired"
    assert found.outcome == "passed"
    assert {c.p for c in found.checks} == {1.0}
    assert {c.difference for c in found.checks} == {0.0}


def test_same_training_seed_is_paired_and_a_collapse_fails_by_name() -> None:
    new = run_of({"audio": 0.1, "image": 1.2}, sha="new", training_seed=3)
    found = gate(new, baseline=against(BASE))
    assert found.against is not None
    assert "trained with seed 3" in found.against.because
    assert states(found) == {"accuracy": "passed", "use of audio": "failed", "use of image": "passed"}
    audio = next(c for c in found.checks if c.modality == "audio")
    assert audio.difference == pytest.approx(0.8, abs=1e-6)
    assert "audio" in found.summary
    assert found.exit_code == 1


def test_swapping_modalities_swaps_what_fails() -> None:
    new = run_of({"audio": 1.2, "image": 0.1}, sha="new", training_seed=3)
    assert states(gate(new, baseline=against(BASE)))["use of image"] == "failed"


def test_a_metric_that_falls_fails() -> None:
    new = run_of(HEALTHY, 0.7, sha="new", training_seed=3)
    found = next(c for c in gate(new, baseline=against(BASE)).checks if c.name == "accuracy")
    assert found.state == "failed"
    assert found.difference == pytest.approx(0.2, abs=1e-6)


def test_significant_but_small_passes_and_large_but_unsure_decides_nothing() -> None:
    little = run_of({"audio": 0.85, "image": 0.9}, sha="new", training_seed=3, noise=0.001)
    found = gate(little, baseline=against(run_of(HEALTHY, training_seed=3, noise=0.001)))
    audio = next(c for c in found.checks if c.modality == "audio")
    assert audio.p_holm is not None
    assert audio.p_holm < 0.001
    assert audio.state == "passed"  # 0.05 is under the margin
    unsure = run_of({"audio": 0.7, "image": 0.9}, sha="new", training_seed=3, noise=4.0)
    found = gate(unsure, baseline=against(run_of(HEALTHY, training_seed=3, noise=4.0, draw=1)))
    audio = next(c for c in found.checks if c.modality == "audio")
    assert audio.state == "inconclusive"
    assert audio.needed is not None
    assert audio.needed > 200
    assert f"{audio.needed:,} examples" in audio.sentence
    assert found.exit_code == 5


def test_a_modality_used_beyond_its_due_may_fall_to_it() -> None:
    """Where a neglected modality comes back, the one that did its work is used less: that is no regression."""
    before = run_of({"audio": 0.2, "image": 2.0}, training_seed=3)
    after = run_of({"audio": 0.9, "image": 1.05}, sha="new", training_seed=3)
    assert gate(after, baseline=against(before)).outcome == "passed"
    worse = run_of({"audio": 0.9, "image": 0.7}, sha="new", training_seed=3)
    assert states(gate(worse, baseline=against(before)))["use of image"] == "failed"


def test_pairing_needs_records_and_the_same_examples() -> None:
    bare = make_report(HEALTHY, training_seed=3, sha="new")
    found = gate(bare, baseline=against(BASE))
    assert found.outcome == "inconclusive"
    assert "records.safetensors" in found.checks[0].sentence
    assert gate(BASE, baseline=make_baseline([make_run(BASE, None)])).outcome == "inconclusive"
    records = make_records(HEALTHY, 0.9)
    other = make_report(HEALTHY, records=dataclasses.replace(records, ids=records.ids + 1), sha="new", training_seed=3)
    with pytest.raises(ConfigError, match="other examples"):
        gate(other, baseline=against(BASE))


def test_damaged_records_of_a_baseline_are_refused() -> None:
    run = make_run(BASE, BASE.records)
    with pytest.raises(RefusedError, match="base64"):
        gate(BASE, baseline=make_baseline([run.model_copy(update={"records": "!!!"})]))
    with pytest.raises(RefusedError, match="not those of its report"):
        gate(BASE, baseline=make_baseline([run.model_copy(update={"records": "AAAA"})]))


def test_another_seed_is_held_against_how_runs_vary() -> None:
    found = gate(make_report({"audio": 0.88, "image": 0.93}, sha="new", training_seed=77), baseline=seeds(5))
    assert found.against is not None
    assert (found.against.situation, found.against.runs) == ("retrained", 5)
    assert found.outcome == "passed"
    found = gate(make_report({"audio": 0.1, "image": 1.3}, sha="new"), baseline=seeds(5))
    assert states(found) == {"accuracy": "passed", "use of audio": "failed", "use of image": "passed"}


def test_p_values_are_corrected_over_all_that_is_watched() -> None:
    found = gate(make_report({"audio": 0.8, "image": 0.85}, 0.89, sha="new"), baseline=seeds(6))
    p = [c.p for c in found.checks if c.p is not None]
    assert [c.p_holm for c in found.checks] == holm(p)
    more = gate(make_report({"audio": 0.8, "image": 0.85}, 0.89, sha="new"), baseline=seeds(6), watch=("use",))
    assert len(more.checks) == 2


@pytest.mark.parametrize("count", [1, 2])
def test_too_few_runs_decide_nothing_and_say_how_many_more(count: int) -> None:
    found = gate(make_report({"audio": 0.1, "image": 0.9}, sha="new"), baseline=seeds(count))
    assert found.outcome == "inconclusive"
    assert f"add {3 - count} more" in found.checks[0].sentence


def test_runs_that_vary_too_much_say_how_many_more_would_do() -> None:
    found = gate(make_report({"audio": 0.85, "image": 0.9}, sha="new"), baseline=seeds(3, spread=0.15))
    audio = next(c for c in found.checks if c.modality == "audio")
    assert audio.state == "inconclusive"
    assert audio.needed is not None
    assert f"{audio.needed} more baseline runs would do" in audio.sentence
    hopeless = gate(make_report({"audio": 0.85, "image": 0.9}, sha="new"), baseline=seeds(4, spread=1.0))
    audio = next(c for c in hopeless.checks if c.modality == "audio")
    assert (audio.state, audio.needed) == ("inconclusive", None)
    assert "even 100 runs would not do" in audio.sentence


def test_without_a_number_nothing_is_decided() -> None:
    skipped = make_report(HEALTHY, sha="new")
    kept = tuple(r for r in skipped.results if not r.name.startswith("utilisation"))
    bare = skipped.model_copy(update={"results": (*kept, make_result("utilisation", None, skipped="no train split"))})
    found = gate(bare, baseline=seeds(5))
    assert states(found) == {"accuracy": "passed", "use of audio": "inconclusive", "use of image": "inconclusive"}
    assert "no train split" in found.checks[1].sentence


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"examples": 300}, "examples 200, the other 300"),
        ({"content": "others"}, "different examples"),
        ({"uses": {"audio": 0.9, "depth": 0.9}}, "modalities"),
    ],
)
def test_what_cannot_be_compared_is_refused(change: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        gate(make_report(**{"sha": "new", **change}), baseline=seeds(3))  # type: ignore[arg-type]


def test_other_definitions_are_refused() -> None:
    new = make_report(sha="new")
    odd = new.results[0].model_copy(update={"definition": "another"})
    with pytest.raises(ConfigError, match="differently"):
        gate(new.model_copy(update={"results": (odd, *new.results[1:])}), baseline=seeds(3))


def test_the_situation_can_be_said() -> None:
    assert gate(BASE, baseline=seeds(5), situation="retrained").against.situation == "retrained"  # type: ignore[union-attr]
    with pytest.raises(ConfigError, match="nothing can be paired"):
        gate(make_report(sha="new"), baseline=seeds(5), situation="paired")
    with pytest.raises(ConfigError, match="needs a baseline"):
        gate(BASE, situation="paired")


def test_missing_modalities_are_watched_where_asked() -> None:
    before = run_of(HEALTHY, training_seed=3)
    base = make_records(HEALTHY, 0.9)
    rarely = {f"metric_without.{m}": (np.arange(200) < 60).astype(np.float32) for m in HEALTHY}
    records = dataclasses.replace(base, columns={**base.columns, **rarely})
    new = make_report(HEALTHY, records=records, sha="new", training_seed=3)
    assert new.records is not None
    found = gate(new, baseline=against(before), watch=("missing",))
    assert [c.name for c in found.checks] == ["accuracy without audio", "accuracy without image"]
    assert [c.found for c in found.checks] == pytest.approx([0.3, 0.3])


@pytest.mark.parametrize(("worse", "expected"), [(0.3, "failed"), (0.0, "passed"), (-0.3, "passed")])
def test_a_metric_that_is_no_mean_is_tested_by_the_loss(worse: float, expected: str) -> None:
    """As an AUROC: how far it fell is the reports' own, whether that is chance the losses say."""
    base = make_records(HEALTHY, 0.9)
    columns = {k: v for k, v in base.columns.items() if not k.startswith("metric")}
    before = dataclasses.replace(base, columns=columns)
    after = dataclasses.replace(base, columns={**columns, "loss": columns["loss"] + np.float32(worse)})
    old = make_report(HEALTHY, records=before, training_seed=3)
    new = make_report(HEALTHY, 0.9 - worse, records=after, training_seed=3, sha="new")
    found = next(c for c in gate(new, baseline=against(old), effects={"metric": 0.2}).checks if c.name == "accuracy")
    assert found.state == expected
    assert found.difference == pytest.approx(worse)
    assert found.interval == pytest.approx((worse - 0.05 * 2**0.5, worse + 0.05 * 2**0.5))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"alpha": 0.7}, "alpha"),
        ({"watch": ("uses",)}, "did you mean 'use'"),
        ({"margins": {"use": -1.0}}, "margin of use"),
        ({"effects": {"use": float("inf")}}, "effect of use"),
        ({"effects": {"rank": 0.1}}, "cannot watch"),
        ({"effects": {"use": 0.1}}, "no more than its margin"),
    ],
)
def test_limits_that_make_no_sense(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Limits(**wrong)  # type: ignore[arg-type]


def test_a_collapse_is_what_has_to_be_seen() -> None:
    """A use that was 0.9 may vary so that a fall of 0.4 is not seen for sure, but its collapse is."""
    found = gate(make_report(HEALTHY, sha="new"), baseline=seeds(10, spread=0.1))
    audio = next(c for c in found.checks if c.modality == "audio")
    assert audio.detectable is not None
    assert 0.4 < audio.detectable < 0.9 - COLLAPSED
    assert audio.state == "passed"
    found = gate(make_report(HEALTHY, sha="new"), baseline=seeds(10, spread=0.1), effects={"use": 0.4})
    assert states(found)["use of audio"] == "inconclusive"
    from collapsekit.report import verdicts as verdict

    assert verdict.COLLAPSED == COLLAPSED


def test_the_use_of_what_says_nothing_is_not_watched() -> None:
    def quiet(report: Report) -> Report:
        verdict = report.modalities["audio"].model_copy(update={"verdict": "uninformative"})
        return report.model_copy(update={"modalities": {**report.modalities, "audio": verdict}})

    base = [quiet(run_of({"audio": 1 + i, "image": 0.9 + 0.01 * i}, sha=f"{i}", training_seed=i)) for i in range(4)]
    new = run_of({"audio": -3.0, "image": 0.9}, sha="new", training_seed=0)
    for found in (gate(new, baseline=against(*base)), gate(new, baseline=against(*base), situation="retrained")):
        assert states(found) == {"accuracy": "passed", "use of image": "passed"}
        assert any("use of audio is not watched" in note for note in found.notes)
    loud = run_of({"audio": 1.0, "image": 0.9}, sha="loud", training_seed=9)  # one that says something is enough
    assert "use of audio" in states(gate(new, baseline=against(*base, loud), situation="retrained"))


def test_nothing_to_check_is_no_pass() -> None:
    found = gate(make_report(), require=[])
    assert (found.outcome, found.exit_code) == ("inconclusive", 5)


@settings(max_examples=40)
@given(
    st.floats(-0.2, 1.5),
    st.floats(-0.2, 1.5),
    st.floats(0.3, 1.0),
    st.sampled_from([0, 2, 5]),
    st.booleans(),
    st.lists(
        st.sampled_from(["verdict != collapsed", "modalities.*.score <= 0.5", "results[nothing] < 1"]), max_size=2
    ),
)
def test_verdict_and_exit_code_never_disagree(
    audio: float, image: float, accuracy: float, runs: int, paired: bool, rules: list[str]
) -> None:
    new = run_of({"audio": audio, "image": image}, accuracy, sha="new", training_seed=3)
    baseline = against(BASE) if paired else (seeds(runs) if runs else None)
    found = gate(new, require=rules, baseline=baseline)
    assert found.outcome == outcome_of([c.state for c in found.checks])
    assert found.exit_code == EXIT_CODES[found.outcome]
    assert GateReport.model_validate_json(found.to_json()) == found
    for check in found.checks:  # each state follows from the numbers beside it
        if check.kind == "rule" or check.p_holm is None:
            continue
        assert check.difference is not None
        assert check.margin is not None
        worse = check.p_holm <= 0.05 and check.difference >= check.margin and check.difference > 0
        assert (check.state == "failed") == worse
        surplus = check.margin - MARGINS["metric" if check.modality is None else "use"]
        effect = EFFECTS["metric" if check.modality is None else "use"] + surplus
        if check.modality is not None:
            assert check.baseline is not None
            effect = max(effect, check.baseline - COLLAPSED)
        if not worse:
            seen = check.detectable is not None and check.detectable <= effect + 1e-9
            assert (check.state == "passed") == seen
