"""A modality that has no encoder, by itself: what the whole model makes of it while nothing else varies."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from collapsekit.adapters.hooks import attribute_set
from collapsekit.adapters.live.state import same_bits
from collapsekit.adapters.pytree import flatten, rebuild
from collapsekit.data.base import EXAMPLE, Batch, is_stored
from collapsekit.errors import ConfigError
from collapsekit.tasks.reading import OutputReader

if TYPE_CHECKING:
    from collapsekit.adapters.base import Adapter

WIDE = 4096  # numbers of an answer up to which all are kept
FILLERS = (0.0, 1.0)  # what numbers of other modalities become: the first at which a model answers


def keep_alone(adapter: Adapter, modality: str, inputs: Batch, number: float = 0.0) -> Batch:
    """Put the same in the place of every modality but one, in all examples.

    Args:
        adapter: the model, which knows which inputs are whose.
        modality: that stays.
        inputs: (n, ...) by key, as the data has them.
        number: what numbers of the others become.

    Returns:
        The inputs; of the others ``number`` for numbers, 0 for ids, and of values that do not stack one of them for all.
    """
    own = set(adapter.input_keys(modality))
    others = {k for m in adapter.modalities for k in adapter.input_keys(m)} - own
    masks = {s.mask for s in adapter.config.modalities.values()}
    objects = adapter.source.objects
    out = dict(inputs)
    for key in others - masks - {EXAMPLE}:
        column = inputs[key]
        if is_stored(objects, key, column):
            out[key] = torch.full_like(column, objects[key].first)
        else:
            out[key] = torch.full_like(column, number if column.is_floating_point() else 0)
    return out


def answer_alone(adapter: Adapter, modality: str, inputs: Batch, answer: Callable[[Batch], Tensor]) -> Tensor:
    """Let a model answer one modality while the others are the same in all examples: 0, or where it fails at that, 1.

    Some models take an input that is 0 throughout for padding, and leave it out: Idefics3 does so with pictures, and then
    has none left to look at. What works once is taken for all batches, so that they are answered alike.

    Args:
        adapter: the model.
        modality: that stays.
        inputs: (n, ...) by key, as the data has them.
        answer: runs the model on inputs.

    Returns:
        The answer, (n, ...).

    Raises:
        ConfigError: where it fails at both; it is the first failure.
    """

    def first_that_works() -> Tensor:
        failures = []
        for number in [adapter.fillers[modality]] if modality in adapter.fillers else FILLERS:
            try:
                found = answer(keep_alone(adapter, modality, inputs, number))
            except ConfigError as e:
                failures.append(e)
            else:
                adapter.fillers[modality] = number
                return found
        raise failures[0] from failures[0].__cause__

    return in_some_mode(adapter.model, first_that_works)


def hide_answers(adapter: Adapter, arguments: Any, columns: Batch) -> Any:
    """Take the answers out of what a model is called with, as of a text that goes on with its answer.

    Args:
        adapter: the model, whose task knows them, and which says whether they are to be hidden.
        arguments: a mapping of names to parts, or a collated batch.
        columns: labels among them, (n, ...) by key.

    Returns:
        The same with one token for all in their places; ``arguments`` themselves, where nothing is to be hidden.
    """
    if not getattr(adapter, "hides_answers", False):
        return arguments
    labels = columns[adapter.config.data.label]
    leaves, tree = flatten(arguments)
    tensors = {str(i): x for i, x in enumerate(leaves) if isinstance(x, Tensor)}
    hidden = adapter.task.hide_answers(tensors, labels)
    return rebuild(tree, [hidden.get(str(i), x) for i, x in enumerate(leaves)])


def find_leaking(adapter: Adapter, batch: Batch) -> tuple[str, ...]:
    """Find modalities whose encoders read the answers: their features say more than the modality does.

    Args:
        adapter: the model.
        batch: some examples, all columns.

    Returns:
        Modalities whose features change where the answers are hidden in what the model is called with.
    """
    encoders = [m for m in adapter.modalities if m not in adapter.at_input]
    if type(adapter.task).hide_answers is OutputReader.hide_answers or not encoders:
        return ()
    with torch.no_grad():
        seen = adapter.run(batch).recorded
        with attribute_set(adapter, "hides_answers", True):
            blind = adapter.run(batch).recorded
    return tuple(m for m in encoders if not all(map(same_bits, seen[m], blind[m])))


def in_some_mode(model: nn.Module, answer: Callable[[], Tensor]) -> Tensor:
    """Let a model answer in the mode that it is in, and where that is training and fails, in eval mode, where it is left.

    In training form some models return losses, and ask for labels, which a modality alone has not.

    Args:
        model: the model.
        answer: runs it.

    Returns:
        The answer, (n, ...).

    Raises:
        ConfigError: where it fails in eval mode.
    """
    try:
        return answer()
    except ConfigError:
        if not model.training:
            raise
    model.eval()
    return answer()


def answer_features(answer: Tensor) -> Tensor:
    """Lay an answer (n, ...) out as features, (n, d): all its numbers, or where these are many, their mean over places."""
    flat = answer.flatten(1) if answer.ndim > 1 else answer[:, None]
    return flat if flat.shape[1] <= WIDE else answer.flatten(1, -2).mean(1)
