"""Finished probes: a diagnosis that was killed goes on to the same bytes, and takes up nothing that may be another's."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from collapsekit import diagnosis
from collapsekit.context import Progress
from collapsekit.report.diagnosis import Report
from tests.problems import Problem, make_problem

PROBES = ["missing", "reliance", "utilisation", "vif"]
COALITIONS = "coalitions.safetensors"


class Killed(BaseException):
    """In the place of a signal."""


class Heard(Progress):
    """Notes, and the probes that ran."""

    def __init__(self) -> None:
        self.notes = list[str]()

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture
def problem(tmp_path: Path) -> Problem:
    return make_problem(tmp_path / "problem", steps=5)


def diagnose(problem: Problem, folder: Path | None, *, resume: bool = False, **options: Any) -> tuple[Report, Heard]:
    heard = Heard()
    options.setdefault("probes", PROBES)
    return problem.diagnose(unfinished=folder, resume=resume, progress=heard, **options), heard


def kill(problem: Problem, folder: Path, after: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Diagnose until so many probes are finished; their names."""
    run, ran = diagnosis.run_probe, list[str]()

    def some(spec: Any, session: Any) -> Any:
        if len(ran) == after:
            raise Killed
        ran.append(spec.name)
        return run(spec, session)

    with monkeypatch.context() as patch:
        patch.setattr(diagnosis, "run_probe", some)
        with pytest.raises(Killed):
            diagnose(problem, folder)
    return ran


def ran_again(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the probes that run from now on."""
    run, ran = diagnosis.run_probe, list[str]()

    def note(spec: Any, session: Any) -> Any:
        ran.append(spec.name)
        return run(spec, session)

    monkeypatch.setattr(diagnosis, "run_probe", note)
    return ran


@pytest.mark.parametrize("after", range(1, len(PROBES) + 1))
def test_a_diagnosis_that_goes_on_has_the_bytes_of_one_that_was_never_killed(
    problem: Problem, tmp_path: Path, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = diagnose(problem, None)
    folder = tmp_path / "unfinished"
    finished = kill(problem, folder, after, monkeypatch) if after < len(PROBES) else _kill_at_the_end(problem, folder)
    assert {p.stem for p in folder.glob("*.json")} == set(finished)
    ran = ran_again(monkeypatch)
    again, heard = diagnose(problem, folder, resume=True)
    assert set(ran) == set(PROBES) - set(finished)
    assert again.to_json() == whole.to_json()
    assert again.records == whole.records
    assert any(f"{after} of 4 probes were finished before" in note for note in heard.notes)
    assert not folder.exists()


def _kill_at_the_end(problem: Problem, folder: Path) -> list[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(diagnosis, "_records", _raise)
        with pytest.raises(Killed):
            diagnose(problem, folder)
    return PROBES


def _raise(*_: object) -> None:
    raise Killed


def test_coalitions_are_not_asked_again(problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from collapsekit.games.coalitions import CoalitionGame

    folder = tmp_path / "unfinished"
    _kill_at_the_end(problem, folder)
    assert (folder / COALITIONS).exists()
    monkeypatch.setattr(CoalitionGame, "_learn", _raise)
    assert diagnose(problem, folder, resume=True)[0].records is not None
    _kill_at_the_end_without_values(problem, folder)


def _kill_at_the_end_without_values(problem: Problem, folder: Path) -> None:
    """Without them the records ask for coalitions, so that the patch above would be met."""
    with pytest.raises(Killed):
        diagnose(problem, folder)


def _other_seed(problem: Problem, _: Path) -> dict[str, Any]:
    return {"seed": 1}


def _other_weights(problem: Problem, _: Path) -> dict[str, Any]:
    next(iter(problem.model.parameters())).data.add_(0.01)
    return {}


def _other_data(problem: Problem, _: Path) -> dict[str, Any]:
    arrays = dict(problem.arrays)
    arrays["train/image"] = arrays["train/image"] + 1  # of a split that only some probes read
    problem.saved(arrays)
    return {}


def _other_config(problem: Problem, _: Path) -> dict[str, Any]:
    return {"config": {**problem.config, "call": "kwargs", "fusion": None, "head": None}, "probes": ["reliance"]}


def _other_options(problem: Problem, _: Path) -> dict[str, Any]:
    return {"options": {"reliance": {"draws": 3}}}


def _damaged(problem: Problem, folder: Path) -> dict[str, Any]:
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes()[:-40] + b"}")
    return {}


def _forged(problem: Problem, folder: Path) -> dict[str, Any]:
    for path in folder.glob("*.json"):
        entry = json.loads(path.read_text())
        path.write_text(json.dumps({**entry, "results": entry["results"].replace("0.", "1.")}))
    (folder / COALITIONS).unlink()
    return {}


def _swapped(problem: Problem, folder: Path) -> dict[str, Any]:
    shutil.copy(folder / "missing.json", folder / "reliance.json")
    shutil.copy(folder / "reliance.json", folder / "utilisation.json")
    (folder / "missing.json").unlink()
    return {}


def _no_json(problem: Problem, folder: Path) -> dict[str, Any]:
    for path in folder.iterdir():
        path.unlink()
        path.mkdir() if path.name == "missing.json" else path.write_bytes(b"\xff[" * 1000)
    return {}


def _open_to_others(problem: Problem, folder: Path) -> dict[str, Any]:
    folder.chmod(0o777)
    return {}


CHANGES = (
    *(_other_seed, _other_weights, _other_data, _other_config, _other_options),
    *(_damaged, _forged, _swapped, _no_json, _open_to_others),
)


@pytest.mark.parametrize("change", CHANGES, ids=lambda f: f.__name__.strip("_"))
def test_what_may_be_of_another_diagnosis_is_measured_again(
    problem: Problem, tmp_path: Path, change: Callable[[Problem, Path], dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "unfinished"
    kill(problem, folder, 3, monkeypatch)
    options = change(problem, folder)
    ran = ran_again(monkeypatch)
    again, heard = diagnose(problem, folder, resume=True, **options)
    assert set(ran) >= set(options.get("probes", PROBES)) - {"vif"}
    notes = [note for note in heard.notes if "is measured again, as" in note]
    assert notes
    monkeypatch.undo()
    whole, _ = diagnose(problem, None, **options)
    assert again.to_json() == whole.to_json()
    assert again.records == whole.records


def test_a_probe_that_failed_is_not_kept(problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "unfinished"
    monkeypatch.delenv("COLLAPSEKIT_RAISE", raising=False)
    with monkeypatch.context() as patch:
        patch.setattr("collapsekit.probes.runner.measure", lambda *_: 1 / 0)
        _kill_at_the_end(problem, folder)
    assert not list(folder.glob("*")) if folder.exists() else True


def test_without_resume_it_begins_anew_and_says_so(
    problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "unfinished"
    kill(problem, folder, 2, monkeypatch)
    (folder / "notes of mine.txt").write_text("kept")
    ran = ran_again(monkeypatch)
    _, heard = diagnose(problem, folder)
    assert set(ran) == set(PROBES)
    assert any("is not taken up unless it is resumed" in note for note in heard.notes)
    assert [p.name for p in folder.iterdir()] == ["notes of mine.txt"]


def test_a_full_disk_ends_nothing(problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    report, _ = diagnose(problem, tmp_path / "file" / "unfinished")
    assert report.results
