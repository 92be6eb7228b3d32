"""Categories as people read them: the table, the line on the first screen, and names from files."""

from __future__ import annotations

import pytest
from sample_reports import make_report

from collapsekit.render import document as doc
from collapsekit.render.document import Detail
from collapsekit.render.views._categories import NOT_JUDGED, section_by_category
from collapsekit.render.views._screen import Screen, list_folds, view_screen
from collapsekit.report.parts import Categories, CategoryVerdict
from collapsekit.report.verdicts import judge


def categorised(count: int = 2):
    report = make_report(("image", "audio", "text"))
    found = judge(report.results, report.subject.modalities, report.subject.metric)
    each = [
        CategoryVerdict(
            name=f"type {i}",
            examples=100,
            verdict=found.overall,
            summary=found.summary,
            judged=found.judged,
            modalities=found.each,
            results=report.results,
        )
        for i in range(count)
    ]
    rest = report.subject.examples - 100 * count
    each.append(CategoryVerdict(name="rare", examples=rest, why_not="it has few"))
    return report.model_copy(update={"categories": Categories(key="question", each=tuple(each))})


def tables(report, detail: Detail) -> list[list[str]]:
    (section,) = section_by_category(report, {m: m for m in report.modalities}, detail)
    table = next(b for b in section.blocks if isinstance(b, doc.Table))
    return [[doc.plain(c.runs) for c in row] for row in table.rows]


def test_every_modality_of_a_category_has_a_row_with_its_numbers() -> None:
    report = categorised()
    rows = tables(report, Detail.FULL)
    assert [row[0] for row in rows] == ["type 0", "", "", "type 1", "", "", "rare"]
    assert rows[0][3] == next(m for m, v in report.modalities.items() if v.verdict == "collapsed")
    assert rows[-1][4] == NOT_JUDGED
    ratio = report.find("utilisation.ratio", rows[0][3])
    assert float(rows[0][5]) == pytest.approx(ratio.value, abs=0.006)


def test_many_are_cut_at_a_glance_and_said_to_be() -> None:
    report = categorised(9)
    assert len(tables(report, Detail.FULL)) == 28
    (section,) = section_by_category(report, {}, Detail.GLANCE)
    text = " ".join(doc.plain(b.runs) for b in section.blocks if isinstance(b, doc.Paragraph))
    assert "4 more rows in the JSON and HTML reports." in text
    assert "rare is not judged: it has few." in text


def test_the_first_screen_says_it_in_a_line() -> None:
    report = categorised()
    fold = next(list_folds(report))
    shown = view_screen(Screen(report), fold, 80)
    lines = [doc.plain(b.runs) for s in shown.sections for b in s.blocks if isinstance(b, doc.Paragraph)]
    (line,) = [text for text in lines if text.startswith("By question, 2 of 3 judged: type 0 collapsed")]
    assert len(line) <= 80
    plain = make_report(("image", "audio", "text"))
    assert list(section_by_category(plain, {}, Detail.FULL)) == []
