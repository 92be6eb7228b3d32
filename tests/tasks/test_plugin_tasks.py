"""A task of a plugin: by file, by entry point, in the config, and what is said where it does not work."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from collapsekit import registry
from collapsekit.cli import app
from collapsekit.config.load import check_config
from collapsekit.config.options import RepairOptions
from collapsekit.errors import ConfigError
from collapsekit.repairs.request import make_request
from collapsekit.tasks.make import make_task
from tests.problems import Problem, make_problem

PAGE = (Path(__file__).parents[2] / "docs" / "tasks.md").read_text()
# The example of the page, with a name that each test sets.
EXAMPLE = next(part for part in PAGE.split("```python\n")[1:] if "@task(" in part)
TASK = EXAMPLE.split("```")[0].replace('"absolute"', '"{name}"')


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    registry.load_builtins()
    monkeypatch.setattr(registry, "TASKS", dict(registry.TASKS))
    return


def plugin(folder: Path, name: str, text: str = TASK) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}_plugin.py"
    path.write_text(text.replace("{name}", name))
    return path


def regression(folder: Path, **config: Any) -> Problem:
    problem = make_problem(folder, task="regression", outputs=1, ignored=["audio"])
    problem.config |= config
    return problem


def test_the_page_has_every_built_in_task() -> None:
    rows = re.findall(r"^\| `(\S+)` \| (.*) \|$", PAGE, re.M)
    builtin = [(n, registry.TASKS[n].summary) for n in registry.task_names() if _is_ours(n)]
    assert rows[:-1] == builtin


def _is_ours(name: str) -> bool:
    return registry.TASKS[name].kind.__module__.startswith("collapsekit.tasks.")


def of(name: str) -> Any:
    return make_task(name, metric=None, temperature=1.0, base=Path())


def test_a_plugin_s_task_is_diagnosed_like_a_built_in_one(tmp_path: Path) -> None:
    path = plugin(tmp_path / "p", "absolute1")
    problem = regression(tmp_path, task="absolute1")
    report = problem.diagnose(plugins=[path], probes=["reliance", "utilisation"])
    assert (report.subject.task, report.subject.metric) == ("absolute1", "explained")
    assert {m: v.verdict for m, v in report.modalities.items()} == {"image": "used", "audio": "collapsed"}
    prior, full = (report.find(n).value for n in ("utilisation.prior_loss", "reliance.full_loss"))  # type: ignore[union-attr]
    train, test = (problem.arrays[f"{s}/label"].double() for s in ("train", "test"))
    assert prior == pytest.approx(float((test - train.median()).abs().mean()), rel=1e-6)
    with torch.no_grad():
        out = problem.model(**{m: problem.arrays[f"test/{m}"] for m in ("image", "audio")})
    assert full == pytest.approx(float((out[:, 0] - test).abs().mean()), rel=1e-5)


def test_the_config_s_plugins_are_loaded_before_its_task_is_looked_for(tmp_path: Path) -> None:
    path = plugin(tmp_path, "absolute2")
    problem = regression(tmp_path, task="absolute2", plugins=[str(path)])
    assert problem.diagnose(probes=["vif"]).subject.task == "absolute2"
    config = check_config(problem.config, base=tmp_path)
    assert make_request(None, config, RepairOptions()).config.task == "absolute2"
    with pytest.raises(
        ConfigError, match=r"task 'absolutely' is not one of .*classification, .*did you mean 'absolute2'"
    ):
        problem.diagnose(config={**problem.config, "task": "absolutely"}, probes=["vif"])


def test_an_entry_point_is_loaded_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin(tmp_path, "absolute3")
    monkeypatch.syspath_prepend(str(tmp_path))
    points = [EntryPoint("absolute3", "absolute3_plugin", registry.GROUP)]
    monkeypatch.setattr(registry, "entry_points", lambda group: points)
    assert "absolute3" not in registry.TASKS
    with pytest.raises(ConfigError, match="did you mean 'absolute3'"):
        of("absolute")
    assert of("absolute3").name == "absolute3"


def test_lists_have_it_among_the_others(tmp_path: Path) -> None:
    path = plugin(tmp_path, "absolute4")
    found = CliRunner().invoke(app, ["list", "tasks", "--plugin", str(path)])
    assert found.exit_code == 0
    names = [line.split()[0] for line in found.output.splitlines() if line[:1].strip()]
    assert names == [*registry.task_names(), "module:callable"]
    labelled = [n for n in names[:-1] if registry.TASKS[n].kind.has_labels]
    assert names[: len(labelled)] == sorted(labelled)
    assert "absolute4" in labelled
    assert "contrastive" not in labelled


NO_NUMBERS = """
from torch import nan, ones, zeros
from collapsekit.stats.linear import Linear

class Nothing(Absolute):
    def prior(self, targets, width): return ones(1, width) * nan if width == 1 else ones(width)
    def expect(self, outputs): return outputs.reshape(len(outputs), -1) * nan if len(outputs) > 1 else ones(7)
    def training_loss(self, outputs, targets): return outputs - targets
    def fit_linear(self, x, targets, width, l2): return Linear(zeros(1, 1), ones(1) * nan, zeros(1), ones(1))

task("nothing", summary="s")(Nothing)
"""


def test_what_is_no_number_or_has_another_shape_names_the_method_and_its_place(tmp_path: Path) -> None:
    registry.load_plugin_file(plugin(tmp_path, "absolute9", TASK + NO_NUMBERS))
    made, x = of("nothing"), torch.zeros(3, 1)
    for call, says in (
        (lambda: made.prior(x, 1), "gave NaN or an infinite number in `prior`"),
        (lambda: made.prior(x, 2), r"gave a tensor \(2,\) as `prior` of 3 examples, expected \(1, 2\)"),
        (lambda: made.expect(x), "gave NaN or an infinite number in `expect`"),
        (lambda: made.expect(x[:1]), r"gave a tensor \(7,\) as `expect` of 1 examples"),
        (lambda: made.training_loss(x, x), r"gave a tensor \(3, 1\) as `training_loss`, expected one number"),
        (lambda: made.fit_linear(x, x, 1, 0.1), "gave NaN or an infinite number in `fit_linear`"),
    ):
        with pytest.raises(ConfigError, match=rf"task 'nothing' \(absolute9_plugin\.py:\d+\) {says}"):
            call()


def test_an_error_of_its_own_code_is_a_sentence(tmp_path: Path) -> None:
    registry.load_plugin_file(
        plugin(tmp_path, "absolute5", TASK.replace("(expected - targets).abs()", "expected.no()"))
    )
    task = of("absolute5")
    with pytest.raises(ConfigError, match=r"task 'absolute5' failed in `loss`: AttributeError: .*'no'"):
        task.loss(torch.zeros(3, 1), torch.zeros(3, 1))
    assert task.has_prior()
    assert task.expect(torch.ones(2)).shape == (2, 1)
    made = TASK.replace(
        "    def expect", "    def __init__(self):\n        raise OSError('no licence')\n\n    def expect", 1
    )
    registry.load_plugin_file(plugin(tmp_path, "absolute6", made))
    with pytest.raises(ConfigError, match="task 'absolute6' failed in `create`: OSError: no licence"):
        of("absolute6")


@pytest.mark.parametrize(
    ("found", "instead", "says"),
    [
        (
            'loss_name, metric_name = "absolute error", "explained"',
            'loss_name = "absolute error"',
            "has no `metric_name`",
        ),
        (".abs().mean(1)\n", ".abs().mean()\n", r"gave a tensor \(\) as `loss` of \d+ examples, expected \(\d+,\)"),
        ("return 1 - float(", "return 1 - (", "gave a Tensor as `metric`, expected a float"),
        (
            '"explained"',
            '"explained"\n    loss_bounds = Bounds(-2, -1)',
            r"gave \S+ in `loss`, but its loss_bounds are -2 to -1",
        ),
        (
            '"explained"',
            '"explained"\n    metric_bounds = Bounds(-2, -1)',
            r"gave \S+ in `metric`, but its metric_bounds are -2 to -1",
        ),
        ("return 1 - float(", "return float('nan') * float(", "gave NaN or an infinite number in `metric`"),
        (".abs().mean(1)\n", ".abs().mean(1) / 0\n", "gave NaN or an infinite number in `loss`"),
    ],
    ids=["no name", "one loss", "no float", "loss beyond", "metric beyond", "metric of NaN", "infinite loss"],
)
def test_what_a_task_gives_is_checked(found: str, instead: str, says: str, tmp_path: Path) -> None:
    assert found in TASK
    text = TASK.replace(found, instead).replace("import DataError", "import Bounds, DataError")
    problem = regression(tmp_path, task="absolute8")
    with pytest.raises(ConfigError, match=rf"task 'absolute8' (\(\S+\.py:\d+\) )?{says}"):
        problem.diagnose(plugins=[plugin(tmp_path, "absolute8", text)], probes=["reliance"])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            TASK.replace("{name}", "regression"),
            r"'regression' is registered twice, by .*regression\.py and .*plugin\.py",
        ),
        (TASK.replace("{name}", "a:b"), "'a:b' has a colon in its name"),
    ],
)
def test_names_that_a_task_cannot_have(text: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=says):
        registry.load_plugin_file(plugin(tmp_path, "absolute7", text))
    assert registry.get_task("regression").kind.__module__ == "collapsekit.tasks.regression"


def test_what_is_no_task_is_refused(tmp_path: Path) -> None:
    text = "from collapsekit.registry import task\n@task('{name}', summary='s')\nclass NoTask: ...\n"
    registry.load_plugin_file(plugin(tmp_path, "absolute8", text))
    with pytest.raises(ConfigError, match=r"'absolute8' is <class .*NoTask'>, expected a subclass of .*Task"):
        of("absolute8")
