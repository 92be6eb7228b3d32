"""The probe of docs/probes/README.md, as it stands there: it runs, and its figure is drawn."""

from __future__ import annotations

from pathlib import Path

import pytest

from collapsekit import registry
from collapsekit.render.figures.diagnosis import pictures_of, state
from tests.problems import make_problem

PAGE = Path(__file__).parents[2] / "docs" / "probes" / "README.md"


def test_the_probe_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry.load_builtins()
    monkeypatch.setattr(registry, "PROBES", dict(registry.PROBES))
    plugin = tmp_path / "flips.py"
    plugin.write_text(PAGE.read_text(encoding="utf-8").split("```python\n")[1].split("```")[0])
    report = make_problem(tmp_path / "p", ignored=["audio"]).diagnose(plugins=[plugin], probes=["flips"])
    shares = {m: report.find("flips.share", modality=m).value for m in report.subject.modalities}  # type: ignore[union-attr]
    assert shares["audio"] < 0.05 < shares["image"]  # type: ignore[operator]
    (picture,) = pictures_of(report)
    assert picture.name == "flips"
    assert "image changes the most answers" in str(state(report, picture))
