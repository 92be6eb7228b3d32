"""Modules that are called several times in a forward pass: which calls are whose, and answers to some of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from collapsekit.adapters.pytree import flatten
from collapsekit.errors import ConfigError


class CallAnswers:
    """Stands at a module's place in a forward pass, and answers those of its calls that it has answers for."""

    def __init__(self, forward: Callable[..., Any] | None) -> None:
        """``forward``: the module's own, for the calls it does not answer; None: it stands before the module."""
        self.forward, self.answers, self.count = forward, dict[int, Any](), 0
        self.last: Any = None  # the answer to the latest call; None: it had none

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.last = self.answers.get(self.count)
        self.count += 1
        if self.last is None and self.forward is not None:
            return self.forward(*args, **kwargs)
        return self.last


_THERE: dict[tuple[int, bool], CallAnswers] = {}  # by module and side, while a replay goes on


@contextmanager
def answer_calls(module: nn.Module, answers: Mapping[int, Any], *, entering: bool) -> Iterator[None]:
    """Answer some calls of a module within one forward pass; the others run.

    Args:
        module: that is called several times.
        answers: by number of the call, what it gives, or with ``entering`` the ``(args, kwargs)`` that enter it.
        entering: whether answers are what enters.

    Yields:
        Nothing. Within such a context another may answer other calls of the same module.
    """
    key = (id(module), entering)
    if key in _THERE:
        _THERE[key].answers.update(answers)
        yield
        return
    there = _THERE[key] = CallAnswers(None if entering else module.forward)
    there.answers.update(answers)
    handles, before = [], vars(module).get("forward")
    if entering:
        handles.append(module.register_forward_pre_hook(lambda *_: there(), with_kwargs=True))
    else:
        module.__dict__["forward"] = there
        # The user's own hooks still fire, but what they would make of it is in the recording already.
        handles.append(module.register_forward_hook(lambda *_: there.last))
    try:
        yield
    finally:
        del _THERE[key]
        for handle in handles:
            handle.remove()
        if not entering:
            module.__dict__.pop("forward", None)
            if before is not None:
                module.__dict__["forward"] = before


def assign_calls(
    what: Mapping[str, str], plain: Sequence[Any], moved: Mapping[str, Sequence[Any]]
) -> dict[str, tuple[int, ...]]:
    """Find which calls of one module are which modality's: those that give something else where its inputs are others.

    Args:
        what: the modalities that are recorded there, and what to call the place.
        plain: what each call gave.
        moved: by modality, what each call gave with other inputs of that modality.

    Returns:
        By modality, the numbers of its calls. Where no input makes a difference, as with examples that are all alike, the
        calls in the order of the modalities, one each.

    Raises:
        ConfigError: where calls cannot be told apart.
    """
    count, names = len(plain), list(what)
    if any(len(calls) != count for calls in moved.values()):
        raise ConfigError(
            f"{what[names[0]]} is called another number of times where inputs differ: leave `encoder` out, and the modality "
            "is edited at the model's input."
        )
    reached = {m: tuple(k for k in range(count) if _differ(plain[k], moved[m][k])) for m in names}
    if not any(reached.values()) and count == len(names):
        return {m: (k,) for k, m in enumerate(names)}
    for m in names:
        shared = [other for other in names if other != m and set(reached[other]) & set(reached[m])]
        if shared:
            raise ConfigError(
                f"{what[m]} is called with modality {m!r} and {' and '.join(map(repr, shared))} at once: leave `encoder` "
                "out for these modalities, and each is edited at the model's input."
            )
        if not reached[m]:
            raise ConfigError(
                f"{what[m]} is called {count} times, and no call changes with the inputs of modality {m!r}: check its "
                "`input`, and whether its values differ between examples; or leave `encoder` out, and it is edited at the "
                "model's input."
            )
    return reached


def _differ(one: Any, other: Any) -> bool:
    """Whether two structures hold other numbers."""
    mine, theirs = flatten(one)[0], flatten(other)[0]
    if len(mine) != len(theirs):
        return True
    pairs = [(a, b) for a, b in zip(mine, theirs, strict=True) if isinstance(a, Tensor) and isinstance(b, Tensor)]
    return any(a.shape != b.shape or not torch.equal(a, b) for a, b in pairs)
