"""Which task a model's answers and the labels beside them look like; where that is open, what was seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from collapsekit.adapters.pytree import flatten
from collapsekit.autoconfig.running.fields import is_label
from collapsekit.data.base import Batch
from collapsekit.tasks.shapes import squeezed

_MANY = 1000  # classes from which on they may be items of a catalogue
_IGNORED = 255
_SAME = 0.9  # of the labels' tokens: so many alike are no chance
Part = str | int


@dataclass(frozen=True)
class Outcome:
    """The task, which part of the model's output it reads, and the label; ``seen`` says why, or what there is to decide."""

    task: str | None
    label: str | None
    seen: str
    output: Part | tuple[Part, ...] | None = None
    options: dict[str, Any] = field(default_factory=dict)
    others: tuple[str, ...] = ()  # further fields that may be labels
    inside: tuple[str, ...] = ()  # inputs that hold the labels' tokens, as with teacher forcing


def find_outcome(output: Any, rows: int, columns: Batch, candidates: Sequence[str], inputs: Sequence[str]) -> Outcome:
    """Find task, output and label.

    Args:
        output: what the model returned for some rows.
        rows: how many.
        columns: fields (n, ...) by key, of more rows.
        candidates: fields that the model is not given, or that move nothing in it.
        inputs: fields that it is given.

    Returns:
        What fits.
    """
    parts = output_parts(output, rows)
    candidates = _distinct(candidates, columns)
    named = [k for k in candidates if is_label(k)]
    labels = named or [k for k in candidates if columns[k].is_floating_point() or len(candidates) == 1]
    for label in labels:
        for part, tensor in parts.items():
            fit = fit_task(tensor, columns[label], [columns[k] for k in inputs if k in columns])
            if fit is not None:
                task, seen, options = fit
                others = tuple(k for k in labels if k != label)
                inside = tuple(k for k in inputs if task == "tokens" and _holds_answers(columns[k], columns[label]))
                return Outcome(task, label, seen, _usual(part), options, others, inside)
        whole = _side_by_side(parts, columns[label])
        if whole is not None:
            seen = f"its parts {', '.join(map(str, whole))} side by side are as wide as the labels"
            return Outcome("regression", label, seen, whole)
    if (pair := _two_embeddings(parts)) is not None and not named:
        return Outcome("retrieval", None, "two embeddings of one size come out, and there is no label", pair)
    return Outcome(None, labels[0] if labels else None, _describe(parts, output, columns, labels), None, {}, ())


def _distinct(keys: Sequence[str], columns: Batch) -> list[str]:
    """Keys without those that hold what one before them holds: two Datasets of (input, target) have one target."""
    found: list[str] = []
    for key in keys:
        if not any(columns[key].shape == columns[k].shape and bool((columns[key] == columns[k]).all()) for k in found):
            found.append(key)
    return found


def output_parts(output: Any, rows: int) -> dict[Part | None, Tensor]:
    """List the floating tensors (rows, ...) that a model returns, by what `output` would call them; None: it is one tensor,
    or the part that is read where nothing is named."""
    if isinstance(output, Tensor):
        return {None: output} if output.ndim and len(output) == rows else {}
    if isinstance(output, Mapping):
        held = list(output.items())
    elif isinstance(output, tuple | list) and not hasattr(output, "_fields"):
        held = list(enumerate(output))
    else:
        held = [(k, v) for k, v in vars(output).items()] if hasattr(output, "__dict__") else []
    fitting = {k: v for k, v in held if isinstance(v, Tensor) and v.is_floating_point() and v.ndim and len(v) == rows}
    return dict(sorted(fitting.items(), key=lambda pair: pair[0] != "logits"))


def fit_task(answer: Tensor, label: Tensor, inputs: Sequence[Tensor] = ()) -> tuple[str, str, dict[str, Any]] | None:
    """Tell which task an answer (r, ...) and labels (n, ...) look like.

    Args:
        answer: of some rows.
        label: of more.
        inputs: what the model is given, (n, ...) each, among which there may be the labels' own tokens.

    Returns:
        The task, what was seen, and its options; None where it is open.
    """
    if not answer.is_floating_point() or not label.numel():
        return None
    out, marks = tuple(squeezed(answer).shape[1:]), squeezed(label)
    shape = tuple(marks.shape[1:])
    values = marks[~marks.isnan()] if marks.is_floating_point() else marks
    if not values.numel():
        return None
    whole = bool((values == values.round()).all()) if values.is_floating_point() else True
    low, high = float(values.min()), float(values.max())
    if shape == out:
        return _of_one_shape(label, out, low, high, whole=whole)
    if shape == () and len(out) == 1:
        return _of_classes(label, out[0], low, high, whole=whole)
    if shape == (2,) and out == ():
        return _of_times(marks)
    if label.is_floating_point():
        return None
    return _of_places(out, marks, inputs)


def _of_one_shape(
    label: Tensor, out: tuple[int, ...], low: float, high: float, *, whole: bool
) -> tuple[str, str, dict[str, Any]]:
    binary = whole and low >= 0 and high <= 1
    if binary and not out and not label.is_floating_point():
        return "classification", "labels are 0 and 1, and one number comes out", {}
    if binary:
        return "multilabel", f"labels are 0 and 1, {_count(out)} as the answer", {}
    return "regression", f"labels are numbers from {low:g} to {high:g}, {_count(out)} as the answer", {}


def _of_classes(
    label: Tensor, count: int, low: float, high: float, *, whole: bool
) -> tuple[str, str, dict[str, Any]] | None:
    if not whole or low < 0 or high >= count or label.is_floating_point():
        return None
    items = "; or ranking, where these are items in an order" if count >= _MANY else ""
    return "classification", f"labels are whole numbers {low:g} to {high:g}, and {count} numbers come out{items}", {}


def _of_times(label: Tensor) -> tuple[str, str, dict[str, Any]] | None:
    time, event = label[:, 0].double(), label[:, 1].double()
    if (
        bool((time > 0).all())
        and bool(((event == 0) | (event == 1)).all())
        and bool((time != time.round()).any() | (time > 1).any())
    ):
        return "survival", "labels are a positive time and 0 or 1, and one number comes out", {}
    return None


def _of_places(out: tuple[int, ...], label: Tensor, inputs: Sequence[Tensor]) -> tuple[str, str, dict[str, Any]] | None:
    shape = tuple(label.shape[1:])
    real = label[(label >= 0) & (label != _IGNORED)]
    high = int(real.max()) if real.numel() else 0
    places = " × ".join(map(str, shape))
    if len(shape) == 1 and len(out) == 2 and out[0] == shape[0] and high < out[1]:
        if bool((label == -100).any()):
            return "tokens", f"labels are {places} token numbers, -100 where there is none", {}
        if any(x.shape == label.shape and bool((x == label).double().mean() > 0.5) for x in inputs):
            return "tokens", f"labels are the {places} tokens that go in", {}
        return None  # a token or a class for each place
    if len(out) == len(shape) + 1 and out[1:] == shape and high < out[0]:
        return "dense", f"labels are a class for each of {places} places, and {out[0]} numbers come out for each", {}
    if len(shape) > 1 and out[:-1] == shape and high < out[-1]:
        seen = f"labels are a class for each of {places} places, and {out[-1]} numbers come out for each, last"
        return "dense", seen, {"channels": "last"}
    return None


def _count(out: tuple[int, ...]) -> str:
    return f"of shape (n, {', '.join(map(str, out))})" if out else "one an example"


def _holds_answers(ids: Tensor, label: Tensor) -> bool:
    """Whether tokens that go in are those of the labels, in their places or one behind."""
    if ids.shape != label.shape or ids.ndim != 2:
        return False
    pairs = [(ids, label), (ids[:, 1:], label[:, :-1])]
    return any(bool((own == to)[to >= 0].double().mean() > _SAME) for own, to in pairs if bool((to >= 0).any()))


def _usual(part: Part | None) -> Part | None:
    """What `output` has to say: nothing where the part is read anyhow."""
    return None if part in (None, 0, "logits") else part


def _side_by_side(parts: Mapping[Part | None, Tensor], label: Tensor) -> tuple[Part, ...] | None:
    """The first parts whose width together is the labels'."""
    if not label.is_floating_point() or label.ndim < 2:
        return None
    names: list[Part] = []
    width = 0
    for part, tensor in parts.items():
        if part is None or tensor.ndim != label.ndim or tensor.shape[1:-1] != label.shape[1:-1]:
            return None
        names.append(part)
        width += tensor.shape[-1]
        if width == label.shape[-1] and len(names) > 1:
            return tuple(names)
    return None


def _two_embeddings(parts: Mapping[Part | None, Tensor]) -> tuple[Part, ...] | None:
    flat = [
        (k, v) for k, v in parts.items() if k is not None and v.ndim == 2 and v.shape[1] > 1 and len(v) != v.shape[1]
    ]  # (n, n) are similarities
    named = [(k, v) for k, v in flat if "embed" in str(k)]
    flat = named if len(named) > 1 else flat
    if len(flat) < 2 or flat[0][1].shape != flat[1][1].shape:
        return None
    return flat[0][0], flat[1][0]


def _describe(parts: Mapping[Part | None, Tensor], output: Any, columns: Batch, labels: Sequence[str]) -> str:
    """What there is, where no task is sure."""
    shapes = [f"{'' if k is None else f'{k} '}{_shape(v)}" for k, v in parts.items()]
    kinds = ", ".join(shapes) or type(output).__name__
    if not flatten(output)[0]:
        kinds = "nothing"
    named = "; ".join(f"{k} {_shape(columns[k])} {str(columns[k].dtype).removeprefix('torch.')}" for k in labels)
    return f"the model returns {kinds}, and what may be labels is {named or 'nothing'}"


def _shape(value: Tensor) -> str:
    return "(" + ", ".join(["n", *map(str, value.shape[1:])]) + ")"
