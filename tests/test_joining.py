"""What CONTRIBUTING walks through joins by one file of its own: the contract of its kind holds of it, untouched."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from collapsekit import registry
from collapsekit.measures import catalogue
from tests.probes import test_contract as of_probes
from tests.repairs import test_contract as of_repairs
from tests.tasks import test_contract as of_tasks

TEXT = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"^```python\n# (collapsekit/\S+)\n(.*?)^```$", TEXT, re.M | re.S))
variants = of_probes.variants  # the fixture


@pytest.fixture(scope="module", autouse=True)
def _joined(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A probe, a repair and a task of the walk-throughs, each loaded as a user's file; none stays."""
    registry.load_builtins()
    folder = tmp_path_factory.mktemp("joining")
    with pytest.MonkeyPatch.context() as patch:
        for kind in ("PROBES", "REPAIRS", "TASKS"):
            patch.setattr(registry, kind, dict(getattr(registry, kind)))
        patch.setattr(catalogue.DECLARED, "measures", dict(catalogue.DECLARED.measures))
        for place in ("probes/geometry/lengths.py", "repairs/methods/upper.py", "tasks/absolute.py"):
            (folder / Path(place).name).write_text(FILES[f"collapsekit/{place}"], encoding="utf-8")
            registry.load_plugin_file(folder / Path(place).name)
        patch.setattr(of_probes, "PROBES", {"lengths": registry.PROBES["lengths"]})
        patch.setattr(of_probes, "FEW", {})
        yield


def promises(contract: Any, *takes: str) -> list[Callable[..., None]]:
    """Tests of a contract that take these arguments and no other."""
    tests = [f for name, f in vars(contract).items() if name.startswith("test_")]
    found = [f for f in tests if inspect.signature(f).parameters.keys() == set(takes)]
    assert found
    return found


@pytest.mark.parametrize("promise", promises(of_probes, "probe", "variants"), ids=lambda f: f.__name__)
def test_a_probe_keeps_what_every_probe_promises(promise: Any, variants: of_probes.Variants) -> None:
    promise("lengths", variants)


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> of_repairs.Case:
    return of_repairs.Case("upper", tmp_path_factory.mktemp("upper"))


@pytest.mark.parametrize("promise", promises(of_repairs, "case"), ids=lambda f: f.__name__)
def test_a_repair_keeps_what_every_repair_promises(promise: Any, case: of_repairs.Case) -> None:
    promise(case)


@pytest.mark.parametrize("part", of_repairs.PARTS)
def test_a_repair_leaves_frozen_submodules_as_they_are(case: of_repairs.Case, part: str) -> None:
    of_repairs.test_a_frozen_submodule_stays_as_it_is(case, part)


@pytest.mark.parametrize("promise", promises(of_tasks, "name", "base"), ids=lambda f: f.__name__)
def test_a_task_keeps_what_every_task_promises(promise: Any, tmp_path: Path) -> None:
    promise("absolute", tmp_path)


@pytest.mark.parametrize("metric", list(of_tasks.metrics_of("regression")))
@pytest.mark.parametrize("promise", promises(of_tasks, "name", "metric", "base"), ids=lambda f: f.__name__)
def test_a_task_s_metrics_are_those_of_every_task(promise: Any, metric: str | None, tmp_path: Path) -> None:
    promise("absolute", metric, tmp_path)
