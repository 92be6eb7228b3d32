"""What may not stand side by side."""

from __future__ import annotations

from typing import Any

import pytest

import collapsekit
from collapsekit.comparison.compare import compare
from collapsekit.errors import ConfigError
from collapsekit.report.diagnosis import Reference, Report
from tests.comparison.making import make
from tests.factories import make_result


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"task": "regression"}, "has task 'classification', the second 'regression'"),
        ({"metric": "AUC"}, "has metric 'accuracy', the second 'AUC'"),
        ({"split": "val"}, "has split 'test', the second 'val'"),
        ({"n": 499}, "has examples 500, the second 499"),
        ({"names": ("audio", "text")}, "the first has a modality 'image', which the second lacks"),
        ({"names": ("audio", "image", "text")}, "the second has a modality 'text', which the first lacks"),
        ({"examples": "others"}, "as many, but different examples"),
    ],
)
def test_different_subjects_are_refused(change: dict[str, Any], said: str) -> None:
    count = {"subject_examples": change.pop("n")} if "n" in change else {}
    other = make(**change)
    if count:
        subject = other.subject.model_copy(update={"examples": count["subject_examples"]})
        other = other.model_copy(update={"subject": subject})
    with pytest.raises(ConfigError) as caught:
        compare({"x": make(), "y": make(), "z": other})
    text = str(caught.value)
    assert text.startswith("'x' and 'z' cannot be compared: ")
    assert said in text
    assert text.count(".") == text.endswith(".") == 1
    with pytest.raises(ConfigError, match=r"'x' \('x 1'\) and 'x' \('x 2'\) cannot be compared"):
        compare({"x": [make(), other], "y": make()})


def test_modalities_are_compared_as_sets() -> None:
    found = compare({"x": make(names=("a", "b")), "y": make(names=("b", "a"))})
    assert found.modalities == ("a", "b")


def test_examples_that_are_not_named_are_said_and_not_refused() -> None:
    silent = make(examples=None)
    one = compare({"x": make(), "y": silent})
    assert any("could not be checked: 'y' does not say of which" in n for n in one.notes)
    both = compare({"x": silent, "y": silent})
    assert any("could not be checked: 'x', 'y' do not say" in n for n in both.notes)
    assert not any("could not be checked" in n for n in compare({"x": make(), "y": make()}).notes)
    with pytest.raises(ConfigError, match=r"'x' and 'z' cannot be compared: .* different examples"):
        compare({"x": make(), "y": silent, "z": make(examples="others")})


def test_different_definitions_are_refused() -> None:
    one = make(results=[make_result("own.rank", 3.0, "audio", definition="entropy of σ/Σσ")])
    other = make(results=[make_result("own.rank", 3.0, "audio", definition="entropy of σ²/Σσ²")])
    with pytest.raises(ConfigError) as caught:
        compare({"x": one, "y": other})
    text = str(caught.value)
    assert text.startswith("'x' and 'y' cannot be compared: 'own.rank' of 'audio' is defined otherwise in the first")
    assert "'entropy of σ/Σσ' and 'entropy of σ²/Σσ²'" in text
    assert "--only" in text
    assert compare({"x": one, "y": other}, only=["vif.*"]).rows  # what is not shown may differ
    with pytest.raises(ConfigError, match=r"own\.rank"):
        compare({"x": one, "y": other}, only=["own.*"])


def test_a_definition_that_differs_far_from_its_start_is_shown_there() -> None:
    start = "the same for a long while " * 10
    pair = [make(results=[make_result("own.rank", 3.0, definition=start + end)]) for end in ("in the end", "after all")]
    with pytest.raises(ConfigError, match=r"in the end' and '.*after all'"):
        compare({"x": pair[0], "y": pair[1]})


def test_verdicts_read_from_other_definitions_are_refused() -> None:
    def report(definition: str) -> Any:
        base = make()
        changed = [
            r.model_copy(update={"definition": definition}) if r.name == "utilisation.ratio" else r
            for r in base.results
        ]
        return base.model_copy(update={"results": tuple(changed)})

    with pytest.raises(ConfigError, match=r"utilisation\.ratio"):
        compare({"x": report("one"), "y": report("other")}, only=["score"])
    assert compare({"x": report("one"), "y": report("other")}, only=["vif.*"]).rows


def test_another_unit_is_another_definition() -> None:
    pair = [make(results=[make_result("own.rank", 3.0, unit=unit)]) for unit in ("nats", "bits")]
    with pytest.raises(ConfigError, match=r"'own\.rank' has another unit in the first \('nats' and 'bits'\)"):
        compare({"x": pair[0], "y": pair[1]})


def test_a_number_that_one_could_not_have_is_no_other_definition() -> None:
    skipped = make(results=[make_result("own.rank", None, definition="", unit=None)])
    found = compare({"x": make(results=[make_result("own.rank", 3.0, unit="nats")]), "y": skipped}, every=True)
    assert [r.cells[1].missing for r in found.rows if r.name == "own.rank"] == ["it could not be had"]


def test_other_versions_profiles_and_equal_weights_are_said() -> None:
    newer = make(settings={"profile": "quick"}).model_copy(update={"collapsekit": "0.2.0"})
    notes = " ".join(compare({"x": make(settings={"profile": "full"}), "y": newer}).notes)
    assert "different versions of collapsekit: '0.1.0', '0.2.0'" in notes
    assert "different profiles: 'full', 'quick'" in notes
    same = compare({"x": [make(), make(), make(seed=1)], "y": make()})
    assert any("'x' has 1 run of the same weights" in n for n in same.notes)


OWN, ALONE = "the checkpoint's own encoder", "the encoder trained alone"


def with_due_of(used: str, *tried: str) -> Report:
    """A report whose due of audio is read from a family, chosen among several."""
    report = make()
    reference = Reference(family=used, strength=1.0, gains=dict.fromkeys(tried, 0.5))
    audio = report.modalities["audio"].model_copy(update={"reference": reference})
    return report.model_copy(update={"modalities": {**report.modalities, "audio": audio}})


def test_dues_chosen_among_other_families_are_refused() -> None:
    quick, standard = with_due_of(OWN, OWN, "raw numbers"), with_due_of(ALONE, OWN, ALONE, "raw numbers")
    with pytest.raises(ConfigError) as caught:
        compare({"x": quick, "y": standard})
    text = str(caught.value)
    assert "'x' and 'y' cannot be compared: only one of them tried 'the encoder trained alone'" in text
    assert "due to 'audio'" in text
    compare({"x": quick, "y": quick})
    compare({"x": quick, "y": make()})  # an earlier report does not say
    numbers = {"x": quick, "y": standard}
    only = [r.name for r in quick.results if r.value is not None and not r.name.startswith("utilisation.")]
    assert compare(numbers, only=[only[0]]).rows  # what does not rest on it


def test_another_best_family_of_the_same_is_said_and_not_refused() -> None:
    one, other = with_due_of(OWN, OWN, ALONE), with_due_of(ALONE, OWN, ALONE)
    found = compare({"x": one, "y": other})
    assert any("due to 'audio' is read from different families" in n for n in found.notes)
    assert not any("different families" in n for n in compare({"x": one, "y": one}).notes)


def test_the_gate_refuses_dues_chosen_among_other_families() -> None:
    baseline = collapsekit.baseline(with_due_of(OWN, OWN, "raw numbers"), records=False)
    with pytest.raises(ConfigError, match="only one of them tried 'the encoder trained alone'"):
        collapsekit.gate(with_due_of(OWN, OWN, ALONE, "raw numbers"), baseline=baseline)
    collapsekit.gate(with_due_of("raw numbers", OWN, "raw numbers"), baseline=baseline)
