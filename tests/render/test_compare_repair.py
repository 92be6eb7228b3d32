"""A repair as columns of a comparison: before, with plain fine-tuning, after; and what the page draws of it."""

from __future__ import annotations

from pathlib import Path

from sample_repairs import make_repair

from collapsekit.comparison.compare import compare, compare_groups
from collapsekit.comparison.inputs import read_groups
from collapsekit.render import write as render
from collapsekit.report.comparison import Comparison, Row
from collapsekit.report.repair import RepairReport


def row_of(found: Comparison, name: str, modality: str | None = None) -> Row:
    return next(r for r in found.rows if (r.name, r.modality, r.versus) == (name, modality, None))


def save(folder: Path, repair: RepairReport) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "repair.json").write_text(repair.to_json(), encoding="utf-8")
    return folder / "repair.json"


def test_a_repair_is_three_columns(tmp_path: Path) -> None:
    repair = make_repair(("image", "audio"))
    path = save(tmp_path / "r", repair)
    found = compare(repair)
    assert [c.name for c in found.columns] == ["before", "control", "after"]
    assert found.base == "before"
    assert len(found.finding) == 2
    for given in (str(path), str(tmp_path / "r"), [path], [repair]):
        assert compare(given).rows == found.rows
    for name, part in (("before", repair.before), ("control", repair.control), ("after", repair.after)):
        assert part is not None
        wanted = part.find("reliance.full_metric")
        at = [c.name for c in found.columns].index(name)
        assert wanted is not None
        assert row_of(found, "reliance.full_metric").cells[at].value == wanted.value
    names = [g.name for g in read_groups([str(path), f"mine={path}", str(save(tmp_path / "s", repair))])]
    assert names == ["r before", "r control", "r after", "mine", "s before", "s control", "s after"]
    named = compare_groups(read_groups([str(path), f"mine={path}"]))
    cells = row_of(named, "reliance.full_metric").cells
    assert cells[3].value == cells[2].value


def test_a_repair_without_control_is_two_columns(tmp_path: Path) -> None:
    found = compare(make_repair(("image", "audio")).model_copy(update={"control": None}))
    assert [c.name for c in found.columns] == ["before", "after"]


def test_the_page_draws_it_and_says_the_finding() -> None:
    found = compare(make_repair(("image", "audio")))
    page = render(found, "html")
    assert page.count("<svg") >= 1
    assert "What changed" in page
    assert render(found, "html") == page
    for text in (page, render(found, "terminal"), render(found, "markdown")):
        assert "Finding" in text
        assert "Change from" in text
