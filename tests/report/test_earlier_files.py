"""Files that earlier code wrote still load: of both schema versions, the folder of a repair, and a repair half done."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from collapsekit import RepairReport, load_repaired
from collapsekit.repairs.training import loop
from collapsekit.repairs.training.snapshots import Snapshots
from collapsekit.report.base import Contract
from collapsekit.report.baseline import Baseline
from collapsekit.report.comparison import Comparison
from collapsekit.report.diagnosis import Report
from collapsekit.report.gate import GateReport
from collapsekit.report.per_example import NAME, PerExample, load_records, load_report
from tests.problems import Late
from tests.repairs.making import WIDTHS, chain

FIXTURES = Path(__file__).parents[1] / "fixtures"
KINDS: dict[str, type[Contract]] = {
    "report": Report,
    "repair": RepairReport,
    "gate": GateReport,
    "regress": GateReport,
    "comparison": Comparison,
    "baseline": Baseline,
}
FIRST = ("report", "repair", "gate", "baseline")
SECOND = ("report", "gate", "regress", "comparison", "baseline", "repaired/repair")


def unpacked(version: int, name: str) -> str:
    """The text of a file as it was written."""
    file = FIXTURES / f"version{version}" / f"{name}.json"
    packed = file.with_name(f"{file.name}.gz")
    return gzip.decompress(packed.read_bytes()).decode() if packed.exists() else file.read_text()


@pytest.mark.parametrize("name", SECOND)
def test_version_2_is_read_and_nothing_of_it_is_lost(tmp_path: Path, name: str) -> None:
    """Files from before verdicts said by which rules they follow: they follow from the first."""
    kind, text = KINDS[Path(name).name], unpacked(2, name)
    file = tmp_path / "file.json"
    file.write_text(text)
    written = kind.load(file).to_json()
    assert kind.from_json(written).to_json() == written
    assert json.loads(text)["schema_version"] == 2
    assert within(json.loads(text), json.loads(written))


@pytest.mark.parametrize("name", FIRST)
def test_version_1_is_read_and_what_is_written_of_it_stays_the_same(tmp_path: Path, name: str) -> None:
    """It becomes a file of this version that says no more and no other than it did."""
    text = unpacked(1, name)
    file = tmp_path / "file.json"
    file.write_text(text)
    written = KINDS[name].load(file).to_json()
    assert KINDS[name].from_json(written).to_json() == written
    before, now = json.loads(text), json.loads(written)
    assert before["schema_version"] == 1
    assert now["schema_version"] == 2
    assert within(before, now)


def within(before: object, now: object) -> bool:
    """Whether everything of ``before``, versions aside, is in ``now``."""
    if isinstance(before, dict) and isinstance(now, dict):
        marks = ("schema_version", "sha256" if "schema_version" in before else "")
        return all(k in marks or (k in now and within(v, now[k])) for k, v in before.items())
    if isinstance(before, list) and isinstance(now, list):
        return len(before) == len(now) and all(map(within, before, now))
    return before == now


@pytest.mark.parametrize("version", [1, 2])
def test_records_beside_a_report_are_those_it_was_written_with(tmp_path: Path, version: int) -> None:
    file = tmp_path / "report.json"
    file.write_text(unpacked(version, "report"))
    shutil.copy(FIXTURES / f"version{version}" / NAME, tmp_path)
    data = load_records(load_report(file), file)
    assert data is not None
    assert PerExample.from_bytes(data, NAME).to_bytes() == (tmp_path / NAME).read_bytes()


def test_the_folder_of_a_repair_gives_the_model_that_was_trained(tmp_path: Path) -> None:
    """Inserts and all: it answers what it answered when it was written."""
    earlier = FIXTURES / "version2" / "repaired"
    shutil.copy(earlier / "model.safetensors", tmp_path)
    (tmp_path / "repair.json").write_text(unpacked(2, "repaired/repair"))
    assert RepairReport.load(tmp_path / "repair.json").structure
    x = {m: torch.randn(11, d, generator=torch.Generator().manual_seed(d)) for m, d in WIDTHS.items()}
    with torch.no_grad():
        outputs = load_repaired(tmp_path, Late(WIDTHS))(**x)
    torch.testing.assert_close(outputs, load_file(earlier / "outputs.safetensors")["outputs"])


def test_a_repair_half_done_goes_on_from_its_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the weights that the code which kept the snapshot reached; the five rounds before it are not run again."""
    earlier = FIXTURES / "version2" / "snapshot"
    rounds: list[Path] = []
    save = Snapshots.save

    def counted(self: Snapshots, *args: Any, **kwargs: Any) -> None:
        rounds.append(self.folder)
        save(self, *args, **kwargs)

    monkeypatch.setattr(Snapshots, "save", counted)
    monkeypatch.setattr(loop, "ROUND", 2)
    (tmp_path / "resumed" / "kd").mkdir(parents=True)
    shutil.copy(earlier / "stage0.safetensors", tmp_path / "resumed" / "kd")
    resumed, _ = chain(tmp_path / "resumed"), chain(tmp_path / "anew")
    for name, value in resumed.items():
        torch.testing.assert_close(value, load_file(earlier / "trained.safetensors")[name], rtol=1e-4, atol=1e-5)
    assert (
        len([f for f in rounds if f.parent.name == "anew"]) - len([f for f in rounds if f.parent.name == "resumed"])
        == 5
    )
