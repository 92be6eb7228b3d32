"""Reports saved to files and folders."""

from __future__ import annotations

from pathlib import Path

import pytest
from sample_reports import make_report
from test_views import sample

from collapsekit import Report, ext
from collapsekit.render import files, write
from collapsekit.render.saving import ENDINGS
from collapsekit.report.per_example import NAME, load_report
from tests.conftest import one_figure_drawn
from tests.gating.making import make_records
from tests.gating.making import make_report as gated_report

REPORT = make_report(("image", "audio"))
USES = {"audio": 0.9, "image": 0.9}


@pytest.mark.parametrize(("ending", "format_"), ENDINGS.items())
def test_the_ending_says_the_format(ending: str, format_: str, tmp_path: Path) -> None:
    with one_figure_drawn():
        for name in (f"r{ending}", f"R{ending.upper()}"):
            path = tmp_path / "new" / name
            assert REPORT.save(path) == [path]
            assert path.read_text() == write(REPORT, format_, width=80)


@pytest.mark.parametrize("kind", files("views"))
def test_every_kind_is_saved_to_a_folder_under_its_name(kind: str, tmp_path: Path) -> None:
    with one_figure_drawn():
        paths = sample(kind, "two").save(tmp_path / "new")
    stem = {"diagnosis": "report"}.get(kind, kind)
    assert [p.name for p in paths] == [f"{stem}.{ending}" for ending in ("json", "md", "html")]
    assert all(p.stat().st_size > 0 for p in paths)


def test_a_folder_of_a_diagnosis_is_read_with_its_records(tmp_path: Path) -> None:
    report = gated_report(USES, records=make_records(USES, 0.9))
    with one_figure_drawn():
        paths = report.save(str(tmp_path) + "/")
    assert paths[0].name == NAME
    assert paths[0].read_bytes() == report.records
    assert load_report(tmp_path / "report.json") == report  # which checks the records beside it


@pytest.mark.parametrize("name", ["v1.2/", "runs", "a/b"])
def test_what_has_no_ending_or_ends_as_folders_do_is_a_folder(name: str, tmp_path: Path) -> None:
    with one_figure_drawn():
        assert REPORT.save(f"{tmp_path}/{name}")[0] == tmp_path / name / "report.json"


def test_a_folder_that_is_there_may_be_called_anything(tmp_path: Path) -> None:
    (tmp_path / "v1.2").mkdir()
    with one_figure_drawn():
        assert REPORT.save(tmp_path / "v1.2")[0] == tmp_path / "v1.2" / "report.json"


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("r.pdf", "says no format: use .json, .html, .htm, .md, .txt, or name a folder."),
        ("folder.json", "not a regular file"),
        ("file/r.json", "cannot be written"),
        ("file", "cannot be written"),
        (3, "a path, not to int"),
        (b"r.json", "a path, not to bytes"),
        ("a\0.json", "cannot be written"),
        ("x" * 300 + ".json", "cannot be written"),
        ("x" * 300, "cannot be written"),
    ],
)
def test_what_cannot_be_is_said_in_one_sentence(
    path: object, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ext.ConfigError) as raised:
        REPORT.save(path)  # type: ignore[arg-type]
    assert words in str(raised.value)
    assert str(raised.value).endswith(".")
    assert "\n" not in str(raised.value)
    assert (tmp_path / "file").read_text() == "mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder.json"]


def test_what_is_saved_is_read_again(tmp_path: Path) -> None:
    REPORT.save(tmp_path / "r.json")
    assert Report.load(tmp_path / "r.json").to_json() == REPORT.to_json()
