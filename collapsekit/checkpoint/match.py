"""fit_names: the file's names beside the model's, across the marks that wrappers leave."""

from __future__ import annotations

import glob
import itertools
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from collapsekit.checkpoint.formats.state_dict import AVERAGES
from collapsekit.errors import ConfigError
from collapsekit.io.safe_text import quote

# Submodules in which torch.compile, FSDP, checkpoint_wrapper and DataParallel keep what they wrap, anywhere in a name.
_MARKS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
_ALL_MARKS = (*_MARKS, "module")
MARK_SETS: tuple[tuple[str, ...], ...] = (_ALL_MARKS, _MARKS, ())  # of which the first is taken that keeps names apart
WRAPPERS = ("module.", "model.", *(f"{mark}." for mark in _MARKS))
_LISTED = 6
_LONGEST_PATTERN = 200  # characters
_MAX_STACK = 8
_PREFIXES_TRIED = 40  # shortest first; a real file has a handful

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class NameFit:
    """The file's names under which the model's stand, by one way of leaving out wrappers' marks and prefixes."""

    pairs: Mapping[str, str]  # the model's name -> the file's
    wrong: Mapping[str, str]  # those of them whose shapes differ
    missing: tuple[str, ...]  # the model's names that have no pair
    spare: tuple[str, ...]  # the file's names that have none
    marks: tuple[str, ...] = ()
    model_prefix: str = ""
    file_prefix: str = ""

    def here(self, name: str) -> str:
        """Return a name of the file as it would be in the model."""
        return self.model_prefix + self.inner(name)

    def inner(self, name: str) -> str:
        """Return a name of the file without marks and prefix."""
        return without_marks(name, self.marks).removeprefix(self.file_prefix)

    def is_beside(self, name: str) -> bool:
        """Tell whether a name of the file lies outside of the prefix that the model's names have there."""
        return not without_marks(name, self.marks).startswith(self.file_prefix)

    def module_path(self, path: str) -> str:
        """Return the path of a module in the file as it would be in the model, without its wrappers' marks."""
        return self.here(f"{path}.").removesuffix(".") if path else ""


def fit_names(expected: Shapes, tensors: Mapping[str, Tensor]) -> NameFit:
    """Fit the names of ``tensors`` to those of ``expected`` (name -> shape) so that most of them meet.

    Marks of wrappers are left out anywhere in a name, on either side. Then every stack of ``module.``, ``model.`` and
    marks, and one further component, is tried as a prefix of either side: the model's is common to all of its names, the
    file's to enough names for a model. The shortest prefixes win where several do equally well. Where two names of one
    side would fall together, fewer marks are left out.

    Raises ConfigError where the file holds the model several times over.
    """
    best = NameFit({}, {}, tuple(expected), tuple(tensors))
    for marks in MARK_SETS:
        found = _fit(expected, tensors, marks)
        if found is not None and len(found.pairs) > len(best.pairs):
            best = found
        if not best.missing:
            break
    return best


def other_fits(expected: Shapes, tensors: Mapping[str, Tensor], first: NameFit, most: int) -> list[NameFit]:
    """List further ways to read the file's names, for a model that renames them itself: as they stand in the file, and
    under each prefix that many of them have.

    Args:
        expected: the model's names and shapes.
        tensors: the file's, of any shape.
        first: the way that was tried.
        most: how many there may be.

    Returns:
        Fits of other names than those of ``first``.
    """
    tried = {tuple(first.here(n) for n in tensors)}
    found = []
    plain = NameFit({}, {}, tuple(expected), tuple(tensors))
    prefixes = _prefixes({without_marks(n, _ALL_MARKS): n for n in tensors}, len(tensors))
    for fit in (plain, *(NameFit({}, {}, tuple(expected), tuple(tensors), _ALL_MARKS, "", p) for p in prefixes)):
        names = tuple(fit.here(n) for n in tensors)
        if names not in tried and len(set(names)) == len(names):
            tried.add(names)
            found.append(fit)
    return found[:most]


def _fit(expected: Shapes, tensors: Mapping[str, Tensor], marks: tuple[str, ...]) -> NameFit | None:
    model, file = _view(expected, marks), _view(tensors, marks)
    if model is None or file is None:
        return None
    model_views = _views(model, len(model))
    file_views = _views(file, -(-len(model) // 2))
    pairs = list(itertools.product(model_views, file_views))
    counts = [len(m.keys() & f.keys()) for (_, m), (_, f) in pairs]
    alike = [pair for pair, count in zip(pairs, counts, strict=True) if count == max(counts)]
    fits = [_joined(expected, tensors, marks, *pair) for pair in alike]
    best = min(fits, key=lambda fit: len(fit.wrong))
    _refuse_several(best, fits)
    return best


def _joined(
    expected: Shapes,
    tensors: Mapping[str, Tensor],
    marks: tuple[str, ...],
    model: tuple[str, Mapping[str, str]],
    file: tuple[str, Mapping[str, str]],
) -> NameFit:
    pairs = {wanted: file[1][short] for short, wanted in model[1].items() if short in file[1]}
    used = set(pairs.values())
    wrong = {m: f for m, f in pairs.items() if tuple(tensors[f].shape) != tuple(expected[m])}
    missing = tuple(n for n in expected if n not in pairs)
    return NameFit(pairs, wrong, missing, tuple(n for n in tensors if n not in used), marks, model[0], file[0])


def _refuse_several(best: NameFit, fits: Iterable[NameFit]) -> None:
    """Raises ConfigError for a file in which other tensors fit as well, under a prefix that is no twin's."""
    if best.missing or best.wrong or not best.pairs:
        return
    used = set(best.pairs.values())
    rivals = [f for f in fits if not f.missing and not f.wrong and used.isdisjoint(f.pairs.values())]
    rival = next((f for f in rivals if not is_twin(f.file_prefix)), None)
    if rival is not None and not is_twin(best.file_prefix):
        raise ConfigError(
            f"the checkpoint holds this model several times, under {quote(best.file_prefix, 100)} and "
            f"{quote(rival.file_prefix, 100)}: name what is not meant in the config, e.g. `model: {{ignore: "
            f"[{glob.escape(rival.file_prefix[:_LONGEST_PATTERN]) + '*'!r}]}}`."
        )


def is_twin(prefix: str) -> bool:
    """Tell whether a prefix is that of an averaged copy of the model."""
    return not set(prefix.lower().split(".")).isdisjoint(AVERAGES)


def without_marks(name: str, marks: Collection[str]) -> str:
    """Return a name less the components that are wrappers' ``marks``; its last one is a tensor's own."""
    if not any(mark in name for mark in marks):
        return name
    *path, last = name.split(".")
    return ".".join([*(part for part in path if part not in marks), last])


def _view(names: Iterable[str], marks: tuple[str, ...]) -> dict[str, str] | None:
    """Name without marks -> name; None where two names would fall together."""
    every = list(names)
    view = {without_marks(name, marks): name for name in every}
    return view if len(view) == len(every) else None


def _views(names: Mapping[str, str], least: int) -> list[tuple[str, dict[str, str]]]:
    """Each prefix with the names less it; those left out under which two names would fall together."""
    views = []
    for prefix in _prefixes(names, least):
        view = {short.removeprefix(prefix): name for short, name in names.items()}
        if len(view) == len(names):
            views.append((prefix, view))
    return views


def _prefixes(names: Mapping[str, object], least: int) -> list[str]:
    """What may be a wrapper's: each stack of WRAPPERS on any name, each followed by a component of all names, or of
    ``least`` of them."""
    found = {""} | {prefix for name in names for prefix in wrapper_prefixes(name)}
    for prefix in sorted(found, key=lambda p: (len(p), p))[:_PREFIXES_TRIED]:
        rests = [n.removeprefix(prefix) for n in names if n.startswith(prefix)]
        first_of = {rest.partition(".")[0] + ".": rest for rest in reversed(rests) if "." in rest}
        for first, count in Counter(rest.partition(".")[0] + "." for rest in rests if "." in rest).items():
            if count >= min(max(least, 1), len(names)):
                found |= {prefix + first} | {
                    prefix + first + s for s in wrapper_prefixes(first_of[first].removeprefix(first))
                }
    return sorted(found, key=lambda p: (is_twin(p), len(p), p))[:_PREFIXES_TRIED]


def wrapper_prefixes(name: str) -> list[str]:
    """List the prefixes of a name that wrappers put there: "module._orig_mod.x" has "module." and "module._orig_mod."."""
    stacks: list[str] = []
    rest = name
    while wrapper := next((w for w in WRAPPERS if rest.startswith(w) and rest != w), None):
        rest = rest.removeprefix(wrapper)
        stacks.append(name.removesuffix(rest))
        if len(stacks) == _MAX_STACK:
            break
    return stacks


def misfit(expected: Shapes, tensors: Mapping[str, Tensor], fit: NameFit, can_go: Callable[[str], bool]) -> str:
    """Say in one sentence what does not fit, and what to do.

    Args:
        expected: the model's names and shapes.
        tensors: the file's, of any shape.
        fit: how far they meet.
        can_go: whether a name of the file that has no pair may be left out.

    Returns:
        The sentence.
    """
    spare = [n for n in fit.spare if not can_go(n)]
    lists = {
        "missing from the checkpoint": [f"{n!r} {tuple(expected[n])}" for n in fit.missing],
        "unexpected in the checkpoint": [f"{n!r} {tuple(tensors[n].shape)}" for n in spare],
        "of another shape": [
            f"{m!r} is {tuple(tensors[f].shape)}, the model has {tuple(expected[m])}" for m, f in fit.wrong.items()
        ],
    }
    what = "; ".join(f"{len(names)} {title}: {_some(names)}" for title, names in lists.items() if names)
    return f"the checkpoint does not fit the model ({what}): {_remedy(tensors, fit, spare)}."


_SIGNS = (
    ("_flat_param", "FSDP laid its weights out flat: save it with StateDictType.FULL_STATE_DICT"),
    ("flat_param_", "FSDP laid its weights out flat: save it with StateDictType.FULL_STATE_DICT"),
    (".lora_A.", "it holds LoRA's weights: save the merged model with `model.merge_and_unload().save_pretrained(DIR)`"),
    (
        "base_model.model.",
        "it is an adapter of PEFT: save the merged model with `model.merge_and_unload().save_pretrained(DIR)`",
    ),
    (".absmax", "bitsandbytes quantised its weights: load it where it was made, call `model.dequantize()` and save it"),
    (".SCB", "bitsandbytes quantised its weights: load it where it was made, call `model.dequantize()` and save it"),
    (
        ".weight_scale",
        "its weights are quantised to 8 or 4 bits, with scales beside them: give the weights from before that",
    ),
    (
        ".weight_packed",
        "its weights are quantised to 8 or 4 bits, with scales beside them: give the weights from before that",
    ),
    (".qweight", "GPTQ or AWQ quantised its weights: give the weights from before that"),
)


def _remedy(tensors: Mapping[str, Tensor], fit: NameFit, spare: list[str]) -> str:
    sign = next((say for mark, say in _SIGNS if any(mark in name for name in spare)), None)
    if sign is not None:
        return sign
    if not fit.pairs:
        return "no name fits, so this is another model's checkpoint, or model.factory builds another model"
    if fit.wrong and not fit.missing and not spare:
        return "check model.kwargs (widths, classes) against how the checkpoint was trained"
    if spare and not fit.missing and not fit.wrong:
        patterns = ", ".join(repr(p) for p in list(dict.fromkeys(_pattern(n, fit.inner(n)) for n in spare))[:3])
        return (
            "check that model.factory and model.kwargs build that model; where it does not need them, leave them out with "
            f"`model: {{ignore: [{patterns}]}}` in the config"
        )
    return "check model.factory and model.kwargs, and that this is that model's checkpoint"


def _pattern(name: str, inner: str) -> str:
    """What a name and those beside it match: up to its first component behind the prefix."""
    begin = name.removesuffix(inner) + inner.partition(".")[0] if name.endswith(inner) else name
    return glob.escape(begin[:_LONGEST_PATTERN]) + "*"


def _some(names: list[str]) -> str:
    more = f", and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(n if len(n) <= 200 else n[:199] + "…" for n in names[:_LISTED]) + more
