"""propose: modalities, then the fusion and the head among the modules that belong to none of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from collapsekit.autoconfig.modalities import find_encoders
from collapsekit.autoconfig.modules import Module, Shape, module_tree, unwrapped
from collapsekit.autoconfig.vocabulary import FUSION, HEAD, PROJECTION, SENSE_WORDS

_MOST_LISTED = 12
_STACKS = frozenset(("blocks", "layers", "layer", "resblocks"))
_CONCATENATES = (
    "Nothing learned seems to lie between the encoders and the head, so the fusion is what enters the head; "
    "if that is a mere concatenation, rank and β probes are skipped."
)


@dataclass(frozen=True)
class Proposal:
    """What the names suggest; every guess that deserves a look is a sentence in ``unsure``."""

    modalities: dict[str, str]  # name -> path of its encoder
    fusion: str | None  # a path, or "path:input" for what enters that module
    head: str | None
    unsure: tuple[str, ...]


def propose(shapes: Mapping[str, Shape]) -> Proposal:
    """Propose modalities, fusion and head from tensor names and shapes (name -> shape), by words and by structure.

    Wrapper prefixes (``module.``, ``_orig_mod.``, and ``model.`` where all names have it) are taken off first.
    Never fails: what cannot be told is None or absent, with a sentence in ``unsure``.
    """
    plain, model_gone = unwrapped(shapes)
    unsure: list[str] = []
    if model_gone:
        unsure.append("A leading 'model.' was taken off all paths: put it back if your model has that submodule.")
    root = module_tree(plain)
    encoders = find_encoders(root, unsure)
    units = list(_units(root, list(encoders.values())))
    fusion, head = _fusion_and_head(units, [m.width() for m in encoders.values()], unsure)
    if len(encoders) < 2:
        rest = ", ".join(repr(u.path[:80]) for u in units[:_MOST_LISTED]) or "none"
        found = "Only one modality" if encoders else "No modality"
        unsure.append(f"{found} could be told by name; the modules that belong to none are: {rest}.")
    if any(len(name) == 1 for name in encoders):
        unsure.append("Some modalities are named by one letter: rename them to what your data calls them.")
    return Proposal({name: m.path for name, m in encoders.items()}, fusion, head, tuple(unsure))


def _units(node: Module, encoders: Sequence[Module]) -> Iterator[Module]:
    """The largest modules that hold no encoder, in file order."""
    for child in node.children.values():
        if any(e.path == child.path for e in encoders):
            continue
        if any(child.holds(e.path) for e in encoders):
            yield from _units(child, encoders)
        else:
            yield child


def _fusion_and_head(units: list[Module], widths: list[int | None], unsure: list[str]) -> tuple[str | None, str | None]:
    """Their paths, from the modules outside encoders and the widths of what the encoders put out."""
    joint = [u for u in units if u.named(FUSION) or (u.matrices and not u.named(SENSE_WORDS))]
    fused = next((u for u in joint if u.named(FUSION)), None)
    heads = [u for u in joint if u.named(HEAD) and not u.named(FUSION)]
    head = heads[-1] if heads else _last(joint, fused) if len(widths) > 1 else None
    fusion = fused or _by_width([u for u in joint if u is not head], widths, unsure)
    if fusion is None and head is None:
        unsure.append("No fusion or head could be told: a model of separate towers has neither.")
        return None, None
    if head is None:
        assert fusion is not None
        return _head_inside(fusion, unsure)
    if fusion is None:
        return _fusion_inside(head, unsure)
    if not heads:
        unsure.append(f"The head {head.path[:80]!r} was taken for being last: check it, or leave it out.")
    return fusion.path, head.path


def _last(joint: list[Module], fused: Module | None) -> Module | None:
    start = joint.index(fused) + 1 if fused else 0
    after = [u for u in joint[start:] if u.matrices and not u.named(PROJECTION | FUSION)]
    return after[-1] if after else None


def _by_width(units: list[Module], widths: list[int | None], unsure: list[str]) -> Module | None:
    """The module that takes in all encoders' features side by side; failing that, the largest one."""
    if len(widths) < 2:
        return None
    total = sum(w or 0 for w in widths)
    for unit in units:
        if unit.matrices[0][1][1] == total:
            return unit
    large = [u for u in units if not u.named(PROJECTION)]
    if not large:
        return None
    chosen = max(large, key=lambda u: sum(rows * columns for _, (rows, columns) in _two_d(u)))
    if chosen.named(_STACKS) and all(name.isdecimal() for name in chosen.children):
        chosen = list(chosen.children.values())[-1]  # a ModuleList is never called itself, its items are
    unsure.append(f"The fusion {chosen.path[:80]!r} was taken for being the largest shared module: check it.")
    return chosen


def _two_d(unit: Module) -> list[tuple[str, tuple[int, int]]]:
    return [(name, (shape[0], shape[1])) for name, shape in unit.matrices]


def _head_inside(fusion: Module, unsure: list[str]) -> tuple[str, str | None]:
    """A fusion module that ends in the prediction: what enters that last layer is the representation."""
    inside = [c.path for c in fusion.children.values() if c.named(HEAD) and c.matrices and "proj" not in c.words]
    if not inside and len(fusion.matrices) == 1 and len(fusion.tensors) <= 2:
        inside = [fusion.matrices[0][0]]
    if not inside:
        unsure.append("No head could be told: leave it out, or name the module that gives the prediction.")
        return fusion.path, None
    if len(fusion.matrices) == 1:
        unsure.append(_CONCATENATES)
    return f"{inside[-1]}:input", inside[-1]


def _fusion_inside(head: Module, unsure: list[str]) -> tuple[str, str]:
    """A head that mixes the encoders' features itself, in its first layer."""
    first, last = head.matrices[0][0], head.matrices[-1][0]
    if first == last:
        unsure.append(_CONCATENATES)
        return f"{head.path}:input", head.path
    unsure.append(f"The first layer of {head.path[:80]!r} was taken for the fusion, its last for the head: check both.")
    return first, last
