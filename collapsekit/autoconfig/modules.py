"""The module tree that tensor names imply."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from collapsekit.autoconfig.vocabulary import words

Shape = tuple[int, ...]
_MAX_DEPTH = 32  # components of a name; what lies deeper counts as one


@dataclass
class Module:
    """A module: its path, its children, and all tensors under it (name, shape) in file order."""

    path: str = ""
    children: dict[str, Module] = field(default_factory=dict)
    tensors: list[tuple[str, Shape]] = field(default_factory=list)

    @property
    def parent(self) -> str:
        """The path of the module that this one lies in; empty for the root and what lies right in it."""
        return self.path.rpartition(".")[0]

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition(".")[2]

    @cached_property
    def words(self) -> list[str]:
        """The words of the name, in lower case, as ``words`` splits them."""
        return words(self.name)

    @property
    def matrices(self) -> list[tuple[str, Shape]]:
        """Owner's path and shape of each 2-d weight."""
        return [(n.rpartition(".")[0], s) for n, s in self.tensors if len(s) == 2 and n.endswith(".weight")]

    def named(self, vocabulary: frozenset[str]) -> bool:
        """Tell whether a word of its name is one of these."""
        return not vocabulary.isdisjoint(self.words)

    def holds(self, path: str) -> bool:
        """Tell whether ``path`` is this module or lies in it."""
        return path == self.path or path.startswith(f"{self.path}.")

    def walk(self) -> Iterator[Module]:
        """Yield all modules below, breadth first."""
        level = [self]
        while level := [child for node in level for child in node.children.values()]:
            yield from level

    def width(self) -> int | None:
        """Return the number of features that leave it, by its last weight; None where it has no weight."""
        for name, shape in reversed(self.tensors):
            leaf = name.rpartition(".")[2]
            if leaf.startswith("weight_hh"):  # recurrent: (gates × width, width), twice where bidirectional
                return shape[-1] * (2 if any(n.endswith("_reverse") for n, _ in self.tensors) else 1)
            if leaf.endswith("weight") and shape:
                table = len(shape) == 2 and "embed" in name.split(".")[-2:][0]  # (entries, width)
                return shape[1] if table else shape[0]
        return None


def module_tree(shapes: Mapping[str, Shape]) -> Module:
    """Build the tree of modules that these tensors lie in; return its root."""
    root = Module()
    for name, shape in shapes.items():
        node = root
        node.tensors.append((name, shape))
        for part in name.split(".", _MAX_DEPTH)[:-1]:
            node = node.children.setdefault(part, Module(f"{node.path}.{part}" if node.path else part))
            node.tensors.append((name, shape))
    return root


def unwrapped(shapes: Mapping[str, Shape]) -> tuple[dict[str, Shape], bool]:
    """Strip ``module.``, ``_orig_mod.`` and, where all names have it, ``model.``; return too whether the last went."""
    names, model_gone = {n: n.replace("._orig_mod.", ".") for n in shapes}, False
    while True:
        before = dict(names)
        for wrapper in ("module.", "_orig_mod."):
            names = {n: s.removeprefix(wrapper) for n, s in names.items()}
        if names and all(s.startswith("model.") for s in names.values()):
            names, model_gone = {n: s.removeprefix("model.") for n, s in names.items()}, True
        if names == before:
            return {s: tuple(shapes[n]) for n, s in names.items()}, model_gone
