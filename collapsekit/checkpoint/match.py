"""match_state_dict: the file's names onto the model's, across wrapper prefixes, exactly or not at all."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

from torch import Tensor

from collapsekit.errors import ConfigError

# Prefixes that DataParallel/DDP, torch.compile and Lightning-style wrappers put before every name.
WRAPPERS = ("module.", "_orig_mod.", "model.")
_LISTED = 6
_MAX_STACK = 8
_PREFIXES_TRIED = 40  # shortest first; a real file has a handful


def match_state_dict(expected: Mapping[str, tuple[int, ...]], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return ``tensors`` under the names of ``expected`` (name -> shape), in its order.

    Tries every stack of ``module.``, ``_orig_mod.`` and ``model.``, and one further component common to all
    names, off either side, and keeps the pair under which most names meet (the shortest prefixes, where several
    do). Dtypes may differ. Raises ConfigError listing missing, unexpected and mis-shaped names where the fit is
    not exact.
    """
    file_views = [view for p in _prefixes(tensors) if (view := _view(tensors, p)) is not None]
    model_views = [view for p in _prefixes(expected) if (view := _view(expected, p)) is not None]
    wanted, had = max(itertools.product(model_views, file_views), key=lambda pair: len(pair[0].keys() & pair[1]))
    pairs = {wanted[s]: had[s] for s in wanted if s in had}
    wrong = {e: g for e, g in pairs.items() if tuple(tensors[g].shape) != tuple(expected[e])}
    if len(pairs) < max(len(wanted), len(had)) or wrong:
        raise ConfigError(_misfit(expected, tensors, pairs, wrong))
    return {name: tensors[pairs[name]] for name in expected}


def _view(names: Mapping[str, object], prefix: str) -> dict[str, str] | None:
    """Shortened name -> name; None where two names would fall together."""
    # torch.compile on a submodule leaves its marker in the middle of a name.
    view = {name.removeprefix(prefix).replace("._orig_mod.", "."): name for name in names}
    if len(view) == len(names):
        return view
    return None if prefix else {name: name for name in names}


def _prefixes(names: Mapping[str, object]) -> list[str]:
    """What may be a wrapper's: each stack of WRAPPERS on any name, each followed by a component of all names."""
    found = {""} | {prefix for name in names for prefix in _stacks(name)}
    for prefix in sorted(found):
        rests = [n.removeprefix(prefix) for n in names if n.startswith(prefix)]
        first = rests[0].partition(".")[0] + "." if rests else ""
        if rests and len(rests) == len(names) and all(r.startswith(first) for r in rests):
            found |= {prefix + first} | {prefix + first + stack for stack in _stacks(rests[0].removeprefix(first))}
    return sorted(found, key=lambda p: (len(p), p))[:_PREFIXES_TRIED]


def _stacks(name: str) -> list[str]:
    """The wrapper prefixes of a name: "module._orig_mod.x" has "module." and "module._orig_mod."."""
    stacks: list[str] = []
    rest = name
    while wrapper := next((w for w in WRAPPERS if rest.startswith(w) and rest != w), None):
        rest = rest.removeprefix(wrapper)
        stacks.append(name.removesuffix(rest))
        if len(stacks) == _MAX_STACK:
            break
    return stacks


def _misfit(
    expected: Mapping[str, tuple[int, ...]],
    tensors: Mapping[str, Tensor],
    pairs: Mapping[str, str],
    wrong: Mapping[str, str],
) -> str:
    used = set(pairs.values())
    lists = {
        "missing from the checkpoint": [f"{n!r} {tuple(s)}" for n, s in expected.items() if n not in pairs],
        "unexpected in the checkpoint": [f"{n!r} {tuple(t.shape)}" for n, t in tensors.items() if n not in used],
        "of another shape": [
            f"{e!r} is {tuple(tensors[g].shape)}, the model has {tuple(expected[e])}" for e, g in wrong.items()
        ],
    }
    what = "; ".join(f"{len(names)} {title}: {_some(names)}" for title, names in lists.items() if names)
    if not pairs:
        remedy = "no name fits, so this is another model's checkpoint, or model.factory builds another model"
    elif wrong and len(pairs) == len(expected) == len(tensors):
        remedy = "check model.kwargs (widths, classes) against how the checkpoint was trained"
    else:
        remedy = "check model.factory and model.kwargs, and that this is that model's checkpoint"
    return f"the checkpoint does not fit the model ({what}): {remedy}."


def _some(names: list[str]) -> str:
    more = f", and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(n if len(n) <= 200 else n[:199] + "…" for n in names[:_LISTED]) + more
