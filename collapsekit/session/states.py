"""What a submodule gives for each example, where it is no encoder that the config names: packed, say, for a whole batch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from collapsekit.errors import NumericsError
from collapsekit.interventions.replay import predict
from collapsekit.session.session import Session

TOKENS = 4  # parts of a sequence of states whose means are read side by side


def states_of(
    session: Session,
    module: nn.Module,
    rows: Iterable[int],
    swap: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """Run the whole model on each example by itself, and take what one submodule gives for it.

    By itself, as the rows of a packed output are nobody's in a batch.

    Args:
        session: the model on recorded examples.
        module: the submodule.
        rows: which examples.
        swap: by modality, the examples (n,) that it is taken from instead.

    Returns:
        (rows, TOKENS * d): the states of each example in TOKENS equal parts of their sequence, each averaged.

    Raises:
        NumericsError: where the submodule gives no floating tensor, or is not called for an example.
    """
    return torch.stack([given for _, given in calls_of(session, module, rows, swap)])


def calls_of(
    session: Session,
    module: nn.Module,
    rows: Iterable[int],
    swap: Mapping[str, Tensor] | None = None,
) -> list[tuple[Tensor, Tensor]]:
    """Take what one submodule is given and what it gives, as :func:`states_of`.

    Args:
        session: the model on recorded examples.
        module: the submodule.
        rows: which examples.
        swap: by modality, the examples (n,) that it is taken from instead.

    Returns:
        For each example what the submodule is given, (TOKENS * d',), empty where that is no floating tensor, and what it
        gives, (TOKENS * d,).

    Raises:
        NumericsError: where the submodule gives no floating tensor, or is not called for an example.
    """
    seen: list[tuple[Tensor, Tensor]] = []

    def listen(_module: nn.Module, inputs: Any, output: Any) -> None:
        given = _tensor_in(output)
        if given is not None:
            taken = _tensor_in(inputs)
            seen.append((torch.empty(0) if taken is None else _in_parts(taken), _in_parts(given)))

    handle = module.register_forward_hook(listen)
    made = []
    try:
        for row in rows:
            seen.clear()
            here = torch.tensor([row])
            predict(
                session.adapter, session.features, swap={m: other[here] for m, other in (swap or {}).items()}, rows=here
            )
            if not seen:
                raise NumericsError("the submodule whose states are read gives no tensor when an example is run")
            made.append(seen[-1])
    finally:
        handle.remove()
    return made


def _tensor_in(output: Any) -> Tensor | None:
    """The first floating tensor of an output, which may be a tuple or one of transformers' outputs."""
    if isinstance(output, Tensor):
        return output if output.is_floating_point() else None
    parts = output.values() if hasattr(output, "values") else output if isinstance(output, tuple | list) else ()
    return next((found for part in parts if (found := _tensor_in(part)) is not None), None)


def _in_parts(states: Tensor) -> Tensor:
    """States (..., d) of one example to the means of TOKENS equal parts of their sequence, side by side."""
    tokens = states.detach().float().cpu().reshape(-1, states.shape[-1])
    return torch.nn.functional.adaptive_avg_pool1d(tokens.T[None], TOKENS)[0].T.flatten()
