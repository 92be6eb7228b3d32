"""Records: what a diagnosis keeps of each example, that it adds up to the report, and that damaged files are refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from collapsekit.errors import RefusedError
from collapsekit.report.diagnosis import Report
from collapsekit.report.per_example import NAME, PerExample, digest, load_records
from collapsekit.tasks.make import make_task
from collapsekit.tasks.scoring import parts_of_metric
from tests.gating.making import make_records
from tests.problems import make_problem

PROBES = ["reliance", "utilisation"]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory, brief_joint: None) -> Report:
    problem = make_problem(tmp_path_factory.mktemp("problem"), ignored=["audio"])
    return problem.diagnose(probes=PROBES)


def read(report: Report) -> PerExample:
    assert report.records is not None
    return PerExample.from_bytes(report.records, "records")


def test_columns_add_up_to_the_report(report: Report) -> None:
    records = read(report)
    mean = {k: v.astype(np.float64).mean() for k, v in records.columns.items()}
    full = report.find("reliance.full_metric")
    assert full is not None
    assert full.value is not None
    assert mean["metric"] == pytest.approx(full.value, abs=1e-6)
    assert mean["loss"] == pytest.approx(report.find("reliance.full_loss").value, rel=1e-5)  # type: ignore[union-attr]
    for m in report.subject.modalities:
        credit = report.find("utilisation.credit", m)
        drop = report.find("reliance.leave_one_out_metric", m)
        assert credit is not None
        assert drop is not None
        assert mean[f"credit.{m}"] == pytest.approx(credit.value, abs=1e-5)
        assert full.value - mean[f"metric_without.{m}"] == pytest.approx(drop.value, abs=1e-6)
        loss = report.find("reliance.leave_one_out", m)
        assert mean[f"loss_without.{m}"] - mean["loss"] == pytest.approx(loss.value, abs=1e-5)  # type: ignore[union-attr]
    assert report.settings["records"] == digest(report.records or b"")
    assert len(records.ids) == report.subject.examples


def test_the_report_names_its_examples_and_training_seed(tmp_path: Path) -> None:
    problem = make_problem(tmp_path, ignored=["audio"])
    made = [problem.diagnose(probes=["vif"], **more) for more in ({}, {"seed": 1, "training_seed": 7}, {"limit": 50})]
    assert made[0].settings["examples"] == made[1].settings["examples"] != made[2].settings["examples"]
    assert [r.settings.get("training_seed") for r in made] == [None, 7, None]
    assert set(read(made[0]).columns) == {"loss", "metric"}  # no probe asked for subsets
    again = Report.from_json(made[0].to_json())  # records are no part of the JSON
    assert (again, again.records) == (made[0], None)
    assert again != made[1]


@pytest.mark.parametrize("name", ["accuracy", "balanced_accuracy", "r2", "macro_auroc"])
def test_parts_of_a_metric_have_it_as_their_mean(name: str) -> None:
    g = torch.Generator().manual_seed(0)
    kind = {"r2": "regression", "macro_auroc": "multilabel"}.get(name, "classification")
    task = make_task(kind, metric=name, temperature=1.0, base=Path())
    outputs = torch.randn(60, 3, generator=g)
    targets = (
        torch.randint(0, 3, (60,), generator=g)
        if kind == "classification"
        else torch.randn(60, 3, generator=g).double()
    )
    if kind == "multilabel":
        targets = (targets > 0).double()
    if name == "r2":
        targets[:, 1] = 2.0  # an output that does not vary counts for nothing
    expected = task.expect(outputs)
    parts = parts_of_metric(task, expected, targets)
    if name == "macro_auroc":
        assert parts is None
    else:
        assert parts is not None
        assert float(parts.mean()) == pytest.approx(task.metric(expected, targets), abs=1e-12)


def test_same_records_same_bytes_and_back() -> None:
    made = dataclasses.replace(make_records({"audio": 0.5}, 0.9), units=np.arange(200, dtype=np.int64) // 10)
    assert made.to_bytes() == make_again(made).to_bytes()
    again = make_again(made)
    assert np.array_equal(again.ids, made.ids)
    assert again.units is not None
    assert made.units is not None
    assert np.array_equal(again.units, made.units)
    assert again.columns.keys() == made.columns.keys()
    assert all(np.array_equal(again.columns[k], v) for k, v in made.columns.items())


def make_again(records: PerExample) -> PerExample:
    return PerExample.from_bytes(records.to_bytes(), "x")


IDS = np.arange(4, dtype=np.int64)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "not a file of records"),
        (b"PK\x03\x04", "not a file of records"),
        (save({"column.loss": np.zeros(4, np.float32)}), "no ids"),
        (save({"id": IDS, "weights": np.zeros(4, np.float32)}), "which records have not"),
        (save({"id": IDS, "column.loss": np.zeros(5, np.float32)}), "does not fit"),
        (save({"id": IDS, "column.loss": np.zeros(4, np.float64)}), "does not fit"),
        (save({"id": IDS.astype(np.float32)}), "does not fit"),
        (save({"id": IDS[:0]}), "does not fit"),
        (save({"id": IDS, "column.loss": np.array([0, 1, np.nan, 2], np.float32)}), "NaN or infinity"),
    ],
)
def test_what_is_no_file_of_records_is_refused(data: bytes, said: str) -> None:
    with pytest.raises(RefusedError, match=said):
        PerExample.from_bytes(data, "records.safetensors")


@settings(max_examples=150)
@given(st.integers(0, 400), st.binary(min_size=1, max_size=6))
def test_damaged_bytes_are_refused_or_read(at: int, patch: bytes) -> None:
    data = make_records({"audio": 0.5}, 0.9, n=8).to_bytes()
    damaged = data[:at] + patch + data[at + len(patch) :]
    try:
        PerExample.from_bytes(damaged, "records")
    except RefusedError as e:
        said = str(e)
        assert "make the report again" in said


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.booleans(), st.booleans())
def test_only_the_file_that_was_written_with_the_report_is_read(
    report: Report, tmp_path: Path, there: bool, changed: bool
) -> None:
    path, file = tmp_path / "report.json", tmp_path / NAME
    file.unlink(missing_ok=True)
    data = report.records or b""
    if there:
        file.write_bytes(data + b"\0" if changed else data)
    if there and changed:
        with pytest.raises(RefusedError, match="another SHA-256"):
            load_records(report, path)
    else:
        assert load_records(report, path) == (data if there else None)
