"""Whether a model answers in probabilities, where its task takes logits: by its answers, and its last function."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

from collapsekit.adapters.base import Adapter, ForwardPass
from collapsekit.adapters.build import seed_everything
from collapsekit.adapters.hooks import attribute_set
from collapsekit.data.base import Batch
from collapsekit.errors import CollapsekitError, ConfigError, DataError
from collapsekit.report.diagnosis import ReportWarning
from collapsekit.tasks.base import Task
from collapsekit.tasks.probabilities import LOGITS, PROBABILITIES, TaskOfLogits, are_shares

SIGMOIDS = frozenset({"sigmoid", "sigmoid_", "expit", "special_expit", "hardsigmoid"})
# What hands its tensors on as they are: copies, and parts put together.
HANDED_ON = frozenset(
    {"to", "float", "double", "half", "bfloat16", "cpu", "clone", "contiguous", "reshape", "flatten", "index_select"}
    | {"__getitem__", "cat", "concat", "stack", "type", "type_as", "clamp", "nan_to_num"}
)


class _Follow(TorchFunctionMode):
    """Follows what a sigmoid gives, as long as nothing else is made of it."""

    def __init__(self) -> None:
        super().__init__()
        self.made: dict[int, Tensor] = {}  # by id; the tensors as well, so that no other gets the id of one of them

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if isinstance(out, Tensor) and (name in SIGMOIDS or self._hands_on(name, args, out)):
            self.made[id(out)] = out
        else:
            self.made.pop(id(out), None)  # something else was made of it in its own place
        return out

    def _hands_on(self, name: str, args: tuple[Any, ...], out: Tensor) -> bool:
        first = args[0] if args else None
        parts = list(first) if isinstance(first, list | tuple) else [first]
        if not parts or not all(id(part) in self.made for part in parts):
            return False
        return name in HANDED_ON or (out._base is not None and not name.endswith("_"))


def read_as_probabilities(adapter: Adapter, result: ForwardPass, few: Batch, seed: int) -> ReportWarning | None:
    """Let the adapter's task read probabilities, where the model's answers are some and the config does not say what they
    are.

    Args:
        adapter: the model, whose task is exchanged where they are: what it answered before was misread.
        result: a pass over the first batch.
        few: some examples, all columns.
        seed: of what the model draws.

    Returns:
        What is to be said of the answers; None where they are logits.

    Raises:
        ConfigError: where the config says that they are probabilities, and they are none.
    """
    task, outputs = adapter.task, result.prediction.outputs
    if not isinstance(task, TaskOfLogits) or task.outputs == LOGITS:
        return None
    if task.told:  # of another split
        return _probabilities()
    if task.outputs == PROBABILITIES:
        _need_shares(adapter, few, seed)
    if task.outputs is not None or not are_shares(outputs):
        return None
    if not task.are_distributions(outputs):
        predictions, follow = _predictions(adapter, few, seed)
        if not predictions or not all(id(p) in follow.made for p in predictions):
            return _between_0_and_1()
    adapter.task = task.reading_probabilities()
    return _probabilities()


def warn_of_answers(task: Task, outputs: Tensor) -> ReportWarning | None:
    """Warn of answers of a model that is elsewhere which may be probabilities, given as scores.

    Args:
        task: that reads them.
        outputs: some of them, (n, ...), as logits.

    Returns:
        What is to be said of them; None where they are no probabilities.

    Raises:
        DataError: where they are distributions.
    """
    if not isinstance(task, TaskOfLogits) or task.outputs == LOGITS or not are_shares(outputs):
        return None
    if task.are_distributions(outputs):
        raise DataError(
            "the answers' scores lie within 0 and 1 and sum to 1 for each example, so they are probabilities, and scores "
            "are logits: give them as `probs`, or, where they are logits all the same, write "
            f"`task_options: {{outputs: {LOGITS}}}`."
        )
    sentence = (
        "All scores of the first answers lie within 0 and 1, and were read as logits. If they are probabilities, every loss "
        "here is too flat: give them as `probs`."
    )
    return _between_0_and_1().model_copy(update={"sentence": sentence})


def _need_shares(adapter: Adapter, few: Batch, seed: int) -> None:
    for p in _predictions(adapter, few, seed)[0]:
        if not are_shares(p):
            raise ConfigError(
                f"task_options says that outputs are probabilities, and the model's go from {float(p.min()):.4g} to "
                f"{float(p.max()):.4g}: write `outputs: {LOGITS}`."
            )


def _predictions(adapter: Adapter, batch: Batch, seed: int) -> tuple[list[Tensor], _Follow]:
    """What the model answers, as the task is given it, and what sigmoids gave; nothing where the model cannot be run so."""
    predictions: list[Tensor] = []
    task, seeing, follow = adapter.task, copy(adapter.task), _Follow()

    def read(prediction: Tensor, targets: Tensor | None) -> Tensor:
        predictions.append(prediction)
        return task.read(prediction, targets)

    vars(seeing)["read"] = read
    seed_everything(seed)
    try:
        with attribute_set(adapter, "task", seeing), follow:
            adapter.run(batch)
    except CollapsekitError:  # a model that wants batches of one size, say
        return [], follow
    return predictions, follow


def _probabilities() -> ReportWarning:
    return ReportWarning(
        name="probabilities_read",
        sentence="The model answers in probabilities (they lie within 0 and 1, and sum to 1 or come out of a sigmoid), and "
        f"was read so. If they are logits all the same, write `task_options: {{outputs: {LOGITS}}}`.",
    )


def _between_0_and_1() -> ReportWarning:
    return ReportWarning(
        name="outputs_within_0_and_1",
        sentence="All outputs of the first batch lie within 0 and 1, and were read as logits. If they are probabilities, "
        f"every loss here is too flat: write `task_options: {{outputs: {PROBABILITIES}}}`.",
    )
