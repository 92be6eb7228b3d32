"""What every task promises, whatever it scores: each test runs over all registered ones and a user's loss, so a new one is
covered."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from collapsekit import registry
from collapsekit.errors import ConfigError, DataError, NumericsError
from collapsekit.tasks.base import Task
from collapsekit.tasks.make import make_task
from collapsekit.tasks.scoring import leave_out_metric, parts_of_metric

LOSS = (
    "import torch\ndef huber(o, y): return torch.nn.functional.huber_loss(o, y.to(o.dtype), reduction='none').mean(1)\n"
)
OWN = "taskc_loss:huber"  # a user's function
N, WIDTH = 60, 4  # one block of a task that compares embeddings; an even width makes two of them

each_task = pytest.mark.parametrize("name", [*registry.task_names(), OWN])
each_labelled = pytest.mark.parametrize("name", [n for n in registry.task_names() if registry.TASKS[n].kind.has_labels])


@pytest.fixture
def base(tmp_path: Path) -> Path:
    (tmp_path / "taskc_loss.py").write_text(LOSS)
    return tmp_path


def made(name: str, base: Path = Path(), metric: str | None = None) -> Task:
    task = make_task(name, metric=metric, temperature=0.5, base=base)
    if task.learns:
        task.learn({"train": labels_for(task, 2000).clamp_max(1)})  # so that other splits have labels that train lacks
    return task


def prediction_for(task: Task, n: int = N, seed: int = 0) -> Tensor:
    """What a model returns for the task."""
    g = torch.Generator().manual_seed(seed)
    case = CASES.get(task.name)
    return torch.randn(n, WIDTH, generator=g) if case is None else case.prediction(n, g)


def outputs_for(task: Task, n: int = N, seed: int = 0) -> Tensor:
    return read(task, prediction_for(task, n, seed))


def read(task: Task, prediction: Tensor) -> Tensor:
    return task.read(prediction, labels_for(task, len(prediction)) if task.needs_targets else None)


def labels_for(task: Task, n: int, seed: int = 1) -> Tensor:
    """Labels of the kind that a task of ``CASES`` takes."""
    return CASES[task.name].labels(n, torch.Generator().manual_seed(seed))


def targets_for(task: Task, n: int = N) -> Tensor:
    """Labels of the first kind that the task takes: its own, class numbers, values, 0/1 labels."""
    if task.name in CASES:
        return task.check(labels_for(task, n), outputs_for(task, n), "test")
    g = torch.Generator().manual_seed(1)
    kinds = (
        torch.randint(0, WIDTH, (n,), generator=g),
        torch.randn(n, WIDTH, generator=g),
        torch.randint(0, 2, (n, WIDTH), generator=g),
    )
    for labels in kinds if task.name != OWN else kinds[1:]:
        try:
            return task.check(labels, outputs_for(task, n), "test")
        except DataError:
            continue
    raise AssertionError(f"task {task.name!r} takes no kind of label that is tried here: add it to CASES")


def width_of(task: Task) -> int:
    return task.expect(outputs_for(task, 2))[0].numel()


@dataclass(frozen=True)
class Case:
    """What a model of a task returns, (n, ...), and labels (n, ...), by a generator."""

    prediction: Callable[[int, torch.Generator], Tensor]
    labels: Callable[[int, torch.Generator], Tensor]


def _token_labels(n: int, g: torch.Generator) -> Tensor:
    """Of four positions the third, and of most examples the last as well."""
    labels = torch.randint(0, 3, (n, 4), generator=g)
    labels[:, :2], labels[::4, 3] = -100, -100
    return labels


def _dense_labels(n: int, g: torch.Generator) -> Tensor:
    """Of three classes at two by two positions, some of which do not count."""
    labels = torch.randint(0, 3, (n, 2, 2), generator=g)
    labels[::3, 0, 0], labels[1::3, 1, 0] = 255, -1
    return labels


def _survival_labels(n: int, g: torch.Generator) -> Tensor:
    """Times, some of them equal, and events, of which the first was seen."""
    time, event = (torch.rand(n, generator=g) * 40).ceil(), torch.rand(n, generator=g) < 0.7
    return torch.stack([time, (event | (time == time.min())).float()], 1)


def _relevances(n: int, g: torch.Generator) -> Tensor:
    """Of four items one is relevant, and to some examples another as well."""
    labels = torch.nn.functional.one_hot(torch.randint(0, WIDTH, (n,), generator=g), WIDTH) * 2
    labels[::5, 1] += 1
    return labels


CASES = {
    "ranking": Case(lambda n, g: torch.randn(n, WIDTH, generator=g), _relevances),
    "survival": Case(lambda n, g: torch.randn(n, 1, generator=g), _survival_labels),
    "tokens": Case(lambda n, g: torch.randn(n, 4, 5, generator=g), _token_labels),
    "dense": Case(lambda n, g: torch.randn(n, 3, 2, 2, generator=g), _dense_labels),
    "generative": Case(lambda n, g: torch.randn(n, 2, 3, generator=g), lambda n, g: torch.randn(n, 3, generator=g)),
    "own_loss": Case(lambda n, g: torch.randn(n, generator=g), lambda n, g: torch.zeros(n)),
}


def best_constant(task: Task, targets: Tensor) -> Tensor:
    """The constant answer of least loss, (1, C), by a search that knows nothing of the task."""

    def loss(natural: object) -> float:
        constant = task.from_natural(torch.tensor(natural, dtype=torch.float64)[None])
        return float(task.loss(constant.expand(len(targets), -1), targets).mean())

    found = minimize(loss, torch.full((width_of(task),), 0.1).double().numpy(), method="BFGS", options={"gtol": 1e-7})
    return task.from_natural(torch.tensor(found.x)[None])


@each_task
def test_losses_and_metrics_are_finite_float64_and_leave_their_arguments_alone(name: str, base: Path) -> None:
    task = made(name, base)
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        outputs, y = outputs_for(task).to(dtype), targets_for(task)
        before = outputs.clone(), y.clone()
        expected = task.expect(outputs)
        loss, metric = task.loss(expected, y), task.metric(expected, y)
        assert expected.dtype == loss.dtype == torch.float64
        assert loss.shape == (N,)
        assert bool(torch.isfinite(loss).all())
        assert isinstance(metric, float)
        assert metric == metric
        assert torch.equal(outputs, before[0])
        assert torch.equal(y, before[1])


@each_task
def test_what_training_improves_has_a_lower_loss_and_a_higher_metric(name: str, base: Path) -> None:
    task = made(name, base)
    y, prediction = targets_for(task), prediction_for(task).requires_grad_()
    before = task.expect(read(task, prediction.detach()))
    optimizer = torch.optim.Adam([prediction], lr=0.05)
    for _ in range(60):
        optimizer.zero_grad()
        task.training_loss(read(task, prediction), y).backward()
        optimizer.step()
    after = task.expect(read(task, prediction.detach()))
    assert float(task.loss(after, y).mean()) < float(task.loss(before, y).mean()) - 0.05
    assert task.metric(after, y) > task.metric(before, y)


@each_task
def test_the_training_loss_is_the_mean_loss(name: str, base: Path) -> None:
    task = made(name, base)
    y, outputs = targets_for(task), outputs_for(task).requires_grad_()
    trained = task.training_loss(outputs, y)
    assert trained.ndim == 0
    assert float(trained.detach()) == pytest.approx(float(task.loss(task.expect(outputs.detach()), y).mean()), rel=1e-5)
    (gradient,) = torch.autograd.grad(trained, [outputs])
    assert bool(gradient.abs().sum(1).gt(0).all())  # each example counts
    if task.mean_over_examples:
        halves = [float(task.training_loss(o, t).detach()) for o, t in zip(outputs.chunk(2), y.chunk(2), strict=True)]
        assert float(trained.detach()) == pytest.approx(sum(halves) / 2, rel=1e-5)


@each_task
def test_expectations_may_be_averaged(name: str, base: Path) -> None:
    """A mean of expectations is one: it has a loss and a place in natural space, and that of equal ones is their own."""
    task = made(name, base)
    y, drawn = targets_for(task), torch.stack([task.expect(outputs_for(task, seed=s)) for s in range(5)])
    mean = drawn.mean(0)
    assert bool(torch.isfinite(task.loss(mean, y)).all())
    assert torch.allclose(task.from_natural(task.to_natural(mean)), mean, atol=1e-9)
    same = drawn[:1].expand(5, -1, -1).mean(0)
    assert torch.allclose(task.loss(same, y), task.loss(drawn[0], y), atol=1e-12)


@each_task
def test_rows_in_another_order_give_the_same(name: str, base: Path) -> None:
    task = made(name, base)
    y, outputs, order = (
        targets_for(task),
        outputs_for(task),
        torch.randperm(N, generator=torch.Generator().manual_seed(2)),
    )
    expected, moved = task.expect(outputs), task.expect(outputs[order])
    assert task.expects_sets or torch.equal(moved, expected[order])
    assert torch.allclose(task.loss(moved, y[order]), task.loss(expected, y)[order], atol=1e-12)
    assert task.metric(moved, y[order]) == pytest.approx(task.metric(expected, y), abs=1e-12)


def metrics_of(name: str) -> Iterator[str | None]:
    """The metrics that a task can be asked for, as its refusal of another lists them."""
    yield None
    try:
        registry.get_task(name).kind.create(metric="none of them", temperature=0.5)
    except ConfigError as e:
        listed = str(e).partition("is not one of ")[2].partition(" for this task")[0]
        yield from (m for m in listed.split(", ") if m)


EACH_METRIC = [(name, metric) for name in registry.task_names() for metric in metrics_of(name)] + [(OWN, None)]


def test_the_page_of_tasks_has_every_metric() -> None:
    page = (Path(__file__).parents[2] / "docs/tasks.md").read_text()
    listed = re.findall(r"^\| (\w+) \| `(\w+)` \|", page, re.M)
    assert listed == [(name, metric) for name, metric in EACH_METRIC if metric is not None and name != OWN]


@pytest.mark.parametrize(("name", "metric"), EACH_METRIC)
def test_leaving_groups_out_is_computing_anew(name: str, metric: str | None, base: Path) -> None:
    task = made(name, base, metric)
    y, expected, groups = targets_for(task), task.expect(outputs_for(task)), torch.arange(N) % 5
    found = leave_out_metric(task, expected, y, groups)
    truth = [task.metric(expected, y), *(task.metric(expected[groups != g], y[groups != g]) for g in range(5))]
    assert found.dtype == torch.float64
    assert found.tolist() == pytest.approx(truth, abs=1e-12)


@pytest.mark.parametrize(("name", "metric"), EACH_METRIC)
def test_parts_of_a_metric_have_it_as_their_mean(name: str, metric: str | None, base: Path) -> None:
    task = made(name, base, metric)
    y, expected = targets_for(task), task.expect(outputs_for(task))
    parts, right = task.metric_parts(expected, y), task.hits(expected, y)
    if parts is not None:
        assert parts.shape == (N,)
        assert float(parts.mean()) == pytest.approx(task.metric(expected, y), abs=1e-12)
        assert torch.equal(parts_of_metric(task, expected, y), parts)  # type: ignore[arg-type]
    if right is not None:  # in any set of examples
        assert float(right[7:30].double().mean()) == pytest.approx(task.metric(expected[7:30], y[7:30]), abs=1e-12)


@each_task
def test_the_prior_is_the_best_constant_answer(name: str, base: Path) -> None:
    """But for one pseudo-count a class, which 2,000 examples outweigh; a task without a prior says so."""
    task = made(name, base)
    y = targets_for(task, 2000)
    if not task.has_prior():
        with pytest.raises(NumericsError, match="does not say what the best constant"):
            task.prior(y, WIDTH)
        return
    width = width_of(task)
    prior, best = task.prior(y, width), best_constant(task, y)
    assert prior.shape == (1, width)
    losses = [float(task.loss(c.expand(len(y), -1), y).mean()) for c in (prior, best)]
    assert losses[0] <= losses[1] + 1e-5


@each_task
def test_a_linear_readout_beats_the_prior_on_features_that_say_the_label(name: str, base: Path) -> None:
    task = made(name, base)
    y = targets_for(task, 200)
    if not task.has_prior():
        with pytest.raises(NumericsError):
            task.fit_linear(outputs_for(task, 200), y, WIDTH, 0.01)
        return
    says = y.double() if y.is_floating_point() else torch.nn.functional.one_hot(y + 1).flatten(1).double()
    x = says + 0.1 * torch.randn(says.shape, generator=torch.Generator().manual_seed(3)).double()
    width = width_of(task)
    natural = task.fit_linear(x, y, width, 0.01).predict(x)
    if task.grid is not None:  # whose readout of the whole example cannot tell its places apart
        natural = task.fit_at_places(x.reshape(200, y.shape[1], -1), y, 0.01).predict(x)
    losses = [float(task.loss(e, y).mean()) for e in (task.from_natural(natural), task.prior(y, width).expand(200, -1))]
    assert losses[0] < 0.5 * losses[1]


@each_labelled
def test_labels_that_do_not_fit_are_refused_and_unvarying_ones_named(name: str) -> None:
    task = made(name)
    y = targets_for(task)
    with pytest.raises(DataError, match="split 'val'"):
        task.check(y[:-1], outputs_for(task), "val")
    assert task.unvarying(y) is None
    assert task.unvarying(y[:1].expand(5, *y.shape[1:])) is not None


@pytest.mark.parametrize("name", registry.task_names())
def test_a_task_is_told_in_lists_and_in_the_config(name: str) -> None:
    spec = registry.get_task(name)
    assert issubclass(spec.kind, Task)
    assert spec.kind.name == spec.name == name == made(name).name
    assert 10 < len(spec.summary) < 100
    assert not spec.summary.endswith(".")  # as the others in a list
    assert made(name).loss_name
    assert made(name).metric_name
    with pytest.raises(ConfigError, match="metric 'none of them'"):
        made(name, metric="none of them")
