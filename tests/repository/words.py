"""Counts, for each file of the package, names that say nothing and public things that are not described.

``python -m tests.repository.words`` writes what is left to ``words_left.json``, where that is less than before.
"""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

from tests.repository.house import MODULES, ROOT, tree_of

USERS_MODEL = "demo/model.py"  # stands for a user's own file, and is copied into their folder
LEFT = Path(__file__).with_name("words_left.json")
# A participle or pronoun alone: of what, or whose, a reader has to find out.
EMPTY_WORDS = frozenset(["said", "told", "had", "given", "made", "found", "asked", "own", "held", "known", "noted"])
_SHAPE = re.compile(r"\((?:(?:[\w*+/-]{1,12}|\.\.\.), ?)+(?:[\w*+/-]{1,12}|\.\.\.)?\)|\bshapes?\b|\bscalars?\b")
Function = ast.FunctionDef | ast.AsyncFunctionDef


def empty_names(tree: ast.Module) -> Iterator[str]:
    """Functions, classes, parameters and module-level names that are an empty word, whatever underscores are around it."""
    names = [n.name for n in ast.walk(tree) if isinstance(n, Function | ast.ClassDef)]
    names += [n.arg for n in ast.walk(tree) if isinstance(n, ast.arg)]
    for node in tree.body:
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        names += [x.id for target in targets for x in ast.walk(target) if isinstance(x, ast.Name)]
    return (name for name in names if name.strip("_").lower() in EMPTY_WORDS)


def undescribed(tree: ast.Module) -> Iterator[str]:
    """Public functions, methods and classes without a docstring, overrides aside."""
    return (name for name, node in _public(tree) if not ast.get_docstring(node))


def without_shape(tree: ast.Module) -> Iterator[str]:
    """Public functions with a tensor in their signature that name no shape: neither in it nor in the docstring."""
    for name, node in _public(tree):
        if not isinstance(node, Function):
            continue
        signature = ast.unparse(node.args) + (ast.unparse(node.returns) if node.returns else "")
        annotated = re.search(r"\[Tensor, ['\"]", signature)
        if "Tensor" in signature and not annotated and not _SHAPE.search(ast.get_docstring(node) or ""):
            yield name


def without_arguments(tree: ast.Module) -> Iterator[str]:
    """Public functions of more than two parameters whose docstring lists none of them, or not what is returned.

    A command's docstring is its ``--help``, in which each option is explained beside it.
    """
    for name, node in _public(tree):
        if not isinstance(node, Function) or any("guarded" in ast.unparse(d) for d in node.decorator_list):
            continue
        parameters = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        count = sum(a.arg not in ("self", "cls") for a in parameters)
        text = ast.get_docstring(node) or ""
        returns = node.returns is not None and ast.unparse(node.returns) not in ("None", "NoReturn")
        if count > 2 and ("Args:\n" not in text or (returns and "Returns:\n" not in text and "Yields:\n" not in text)):
            yield name


def without_verb(tree: ast.Module) -> Iterator[str]:
    """Public functions whose docstring does not begin with a verb to the reader, as far as its first word shows."""
    for name, node in _public(tree):
        text = ast.get_docstring(node)
        if not isinstance(node, Function) or not text or any("property" in ast.unparse(d) for d in node.decorator_list):
            continue
        first = text.split()[0].rstrip(",:;.").replace("-", "")
        plural_or_third_person = first.endswith("s") and not first.endswith("ss")
        if not first.isalpha() or not first[0].isupper() or plural_or_third_person or first.lower() in _NO_VERBS:
            yield name


_NO_VERBS = {
    "a",
    "after",
    "all",
    "an",
    "another",
    "any",
    "around",
    "as",
    "at",
    "before",
    "by",
    "during",
    "each",
    "either",
}
_NO_VERBS |= {
    "every",
    "for",
    "from",
    "how",
    "in",
    "it",
    "no",
    "of",
    "on",
    "one",
    "other",
    "part",
    "some",
    "such",
    "that",
}
_NO_VERBS |= {
    "the",
    "these",
    "what",
    "when",
    "where",
    "whether",
    "which",
    "who",
    "whom",
    "whose",
    "why",
    "with",
    "without",
}


RULES: dict[str, Callable[[ast.Module], Iterator[str]]] = {
    "names": empty_names,
    "docstrings": undescribed,
    "shapes": without_shape,
    "arguments": without_arguments,
    "verbs": without_verb,
}


def _public(tree: ast.Module) -> Iterator[tuple[str, Function | ast.ClassDef]]:
    for node in tree.body:
        if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_"):
            yield node.name, node
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for inner in node.body:
                if isinstance(inner, Function) and not inner.name.startswith("_") and not _is_override(inner, node):
                    yield f"{node.name}.{inner.name}", inner


def _is_override(method: Function, of: ast.ClassDef) -> bool:
    """Whether a class above defines it, or may, as it is not the package's."""
    if any("setter" in ast.unparse(d) or "overload" in ast.unparse(d) for d in method.decorator_list):
        return True
    for base in of.bases:
        above = _classes().get(ast.unparse(base).rpartition(".")[2])
        if above is None and method.name in _FOREIGN:
            return True
        inherited = () if above is None else (n for n in above.body if isinstance(n, Function))
        if above is not None and (any(n.name == method.name for n in inherited) or _is_override(method, above)):
            return True
    return False


_FOREIGN = ("forward", "extra_repr", "state_dict", "load_state_dict")  # methods of torch's classes


@cache
def _classes() -> dict[str, ast.ClassDef]:
    return {n.name: n for path in MODULES for n in ast.walk(tree_of(path)) if isinstance(n, ast.ClassDef)}


def count(rule: str) -> dict[str, int]:
    """Path within the package -> how often the rule is broken there, where it is."""
    ours = [p for p in MODULES if p.relative_to(ROOT).as_posix() != USERS_MODEL]
    broken = {p.relative_to(ROOT).as_posix(): Counter(RULES[rule](tree_of(p))).total() for p in ours}
    return {path: n for path, n in broken.items() if n}


def left() -> dict[str, dict[str, int]]:
    """What is still allowed: rule -> path -> count."""
    read: dict[str, dict[str, int]] = json.loads(LEFT.read_text())
    return read


def main() -> None:
    """Lower what is allowed to what there is."""
    allowed = left()
    for rule in RULES:
        now = count(rule)
        allowed[rule] = {path: min(n, now[path]) for path, n in sorted(allowed[rule].items()) if path in now}
        for path, n in now.items():
            if n > allowed[rule].get(path, 0):
                print(f"{rule}: {path} has {n}, allowed are {allowed[rule].get(path, 0)}: {_listed(rule, path)}")
        print(f"{rule}: {sum(allowed[rule].values())} left")
    LEFT.write_text(json.dumps(allowed, indent=1) + "\n")


def _listed(rule: str, path: str) -> str:
    return ", ".join(RULES[rule](tree_of(ROOT / path)))


if __name__ == "__main__":
    main()
