"""Verdicts by category: scored by hand on the examples of one, and the same as those of all where there is one category."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import collapsekit
from collapsekit import Report
from collapsekit.errors import DataError
from collapsekit.features.categories import FEWEST, MOST
from collapsekit.interventions.marginal import marginal_samples
from collapsekit.stats import shapley

SIZES = {"train": 300, "val": 150, "test": 240}
PROBES = ["reliance", "utilisation"]
DRAWS = 6


class Asked(nn.Module):
    """Says by a what is asked with q = 0, and answers the other questions by nothing: b would say what they ask."""

    encoders: tuple[str, ...] = ()

    def forward(self, a: Tensor, b: Tensor, q: Tensor) -> Tensor:
        score = 4 * torch.where(q[:, 0] > 0, 0.1 * b[:, 1], a[:, 0])
        return torch.stack([-score, score], 1)


def data(kinds: Any = None, **extra: Any) -> dict[str, dict[str, Any]]:
    """A third of the questions is of the other kind; ``kinds``: what their categories are called."""
    g, made = torch.Generator().manual_seed(0), {}
    for split, n in SIZES.items():
        kind = (torch.rand(n, generator=g) < 0.34).long()
        a, b = torch.randn(n, 3, generator=g), torch.randn(n, 3, generator=g)
        label = torch.where(kind == 1, b[:, 0] > 0, a[:, 0] > 0).long()
        named = kind if kinds is None else [kinds[k] for k in kind.tolist()]
        made[split] = {"a": a, "b": b, "q": kind[:, None].float(), "label": label, "kind": named}
        made[split] |= {key: value(n, kind) for key, value in extra.items()}
    return made


def diagnose(arrays: Any, category: str | None = "kind", *, options: Any = None, **config: Any) -> Report:
    if any(isinstance(value, list) for value in arrays["test"].values()):  # text goes in lists of batches
        arrays = {split: [x] for split, x in arrays.items()}
    settings = {"modalities": {m: {"input": m} for m in "abq"}, "data": {"category": category}, **config}
    return collapsekit.diagnose(
        model=Asked(),
        data=arrays,
        config=settings,
        profile="quick",
        probes=PROBES,
        options=options or {"reliance": {"draws": DRAWS}},
    )


@pytest.fixture(scope="module")
def report() -> Report:
    return diagnose(data())


def of(report: Report, name: str) -> Any:
    assert report.categories is not None
    return next(c for c in report.categories.each if c.name == name)


def values(category: Any) -> dict[Any, Any]:
    return {(r.name, r.modality, r.versus): r for r in category.results}


def test_a_collapse_is_found_where_it_is(report: Report) -> None:
    assert [(c.name, c.examples) for c in report.categories.each] == [("kind 0", 158), ("kind 1", 82)]
    one, other = of(report, "kind 0"), of(report, "kind 1")
    assert one.modalities["a"].verdict == "used"
    assert other.modalities["b"].verdict == "collapsed"
    assert one.verdict != "collapsed" == other.verdict
    flips = {(c.name, m): values(c)["reliance.flips", m, None].value for c in (one, other) for m in "ab"}
    assert flips["kind 0", "a"] > 0.4
    assert flips["kind 0", "b"] == 0


def test_numbers_are_those_of_its_examples_beside_lenders_of_all(report: Report) -> None:
    from tests.probes.planted import study

    arrays = {s: {k: v for k, v in x.items() if k != "kind"} for s, x in data().items()}
    s = study(Asked(), arrays, modalities={m: {"input": m} for m in "abq"}, fusion=None)
    x, y, names = s.features.inputs, s.features.targets, "abq"
    losses, flips = [], {}
    others = marginal_samples(len(y), DRAWS, 0)
    for mask in range(8):
        with torch.no_grad():
            p = [
                Asked()(**{m: x[m] if mask >> i & 1 else x[m][other] for i, m in enumerate(names)}).double().softmax(1)
                for other in (others if mask < 7 else others[:1])
            ]
        losses.append(-torch.stack(p).mean(0).clamp_min(1e-12).gather(1, y[:, None])[:, 0].log())
        flips[mask] = torch.stack([one.argmax(1) for one in p])
    for kind in (0, 1):
        rows = x["q"][:, 0] == kind
        found = values(of(report, f"kind {kind}"))
        credit = shapley.exact(torch.stack([-loss[rows].mean() for loss in losses])[:, None])
        for i, m in enumerate(names):
            assert found["reliance.shapley", m, None].value == pytest.approx(float(credit[i]), abs=1e-6)
            changed = (flips[7 & ~(1 << i)] != flips[7]).double().mean(0)[rows].mean()
            assert found["reliance.flips", m, None].value == pytest.approx(float(changed), abs=1e-9)
        assert found["reliance.full_loss", None, None].value == pytest.approx(float(losses[7][rows].mean()), abs=1e-6)


def test_a_category_of_all_examples_has_the_results_of_all() -> None:
    whole = diagnose(data({0: "one", 1: "one"}))
    category = of(whole, "one")
    known = {(r.name, r.modality, r.versus): (r.value, r.interval) for r in whole.results}
    assert len(category.results) > 40
    for r in category.results:
        assert (r.value, r.interval) == known[r.name, r.modality, r.versus], r.name
    for m, v in whole.modalities.items():
        assert category.modalities[m] == v.model_copy(update={"reference": None})
    assert (category.verdict, category.summary, category.judged) == (whole.verdict, whole.summary, whole.judged)


def test_nothing_else_of_a_report_changes(report: Report) -> None:
    without = diagnose(data(), None, options={"reliance": {"draws": DRAWS, "flips": True}})
    assert without.categories is None
    assert "categories" not in without.to_json()
    assert report.results == without.results
    assert report.modalities == without.modalities
    assert report.records == without.records


def test_texts_name_categories_and_few_examples_are_not_judged() -> None:
    def kinds(n: int, kind: Tensor) -> list[str | None]:
        return [("where", "what colour")[k] if i % 25 else (None if i % 50 else "how many") for i, k in enumerate(kind)]

    found = diagnose(data(question=kinds), "question").categories
    assert [c.name for c in found.each] == ["(none)", "how many", "what colour", "where"]
    few = found.each[1]
    assert (few.verdict, few.modalities, few.results) == (None, {}, ())
    assert few.why_not == f"it has {few.examples} examples, and {FEWEST} are needed"
    assert sum(c.examples for c in found.each) == SIZES["test"]
    assert found.each[3].modalities["a"].verdict == "used"


def test_few_independent_groups_are_not_judged() -> None:
    def patients(n: int, kind: Tensor) -> Tensor:
        return torch.where(kind == 1, torch.arange(n) % 3, 10 + torch.arange(n) % 30)

    found = diagnose(data(patient=patients), data={"category": "kind", "group": "patient"}).categories
    assert found.each[0].verdict is not None
    assert "data.group" in str(found.each[1].why_not)


@pytest.mark.parametrize(
    ("kinds", "says"),
    [
        (lambda n, kind: torch.arange(n), f"240 different values in split 'test', expected {MOST} at most"),
        (lambda n, kind: torch.zeros(n, 2), "has 2 numbers an example, expected one"),
        (lambda n, kind: [["x"]] * n, "value of type list, expected a text or a number"),
    ],
)
def test_what_is_no_category_is_refused(kinds: Any, says: str) -> None:
    with pytest.raises(DataError, match=says):
        diagnose(data(odd=kinds), "odd")


def test_a_metric_that_a_category_lacks_says_so() -> None:
    def one_class(n: int, kind: Tensor) -> list[str]:
        return ["only", "rest"] * (n // 2)

    arrays = data(half=one_class)
    for x in arrays.values():
        x["label"][::2] = 1
    found = diagnose(arrays, "half", metric="auroc").categories
    only = next(c for c in found.each if c.name == "only")
    assert only.verdict == "inconclusive"
    assert any("auroc" in str(r.skipped).lower() for r in only.results)


def test_a_category_key_that_is_not_there_is_named() -> None:
    with pytest.raises(DataError, match="kimd"):
        diagnose(data(), "kimd")
