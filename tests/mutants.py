"""Show which small faults the tests would miss: mutants of a package, drawn by a seed, each under its tests.

``python -m tests.mutants PACKAGE TESTS... --count 200 --seed 0 --out FILE``, for example ``collapsekit/stats tests/stats``.
Each mutant changes one operator, comparison, number or condition of one module. It is killed where a test fails. One line
of JSON a mutant is added to FILE; what FILE holds already is not run again, so that a run can be stopped and gone on with.
Prints how many were killed, and each that survived.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import hashlib
import importlib.abc
import importlib.machinery
import importlib.util
import io
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import CodeType, ModuleType

SECONDS = 180  # of CPU; a mutant that takes longer is stuck, which a test run would show
_COMPARE = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq}
_COMPARE |= {ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is}
_ARITHMETIC = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult}
_ARITHMETIC |= {ast.Mod: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.LShift: ast.RShift}
_LOGIC = {ast.And: ast.Or, ast.Or: ast.And}


def sites(tree: ast.Module) -> list[tuple[int, str]]:
    """Where the module can be changed: the node's place in ``ast.walk``, and the kind of change."""
    passed_over = _annotations_and_texts(tree)
    out: list[tuple[int, str]] = []
    for at, node in enumerate(ast.walk(tree)):
        if id(node) in passed_over:
            continue
        if isinstance(node, ast.Compare) and type(node.ops[0]) in _COMPARE:
            out.append((at, "compare"))
        elif isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
            out.append((at, "arithmetic"))
        elif isinstance(node, ast.BoolOp):
            out.append((at, "logic"))
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub):
            out.append((at, "sign"))
        elif isinstance(node, ast.Constant) and type(node.value) in (int, float, bool):
            out.append((at, "number"))
        elif isinstance(node, ast.If | ast.IfExp | ast.While):
            out.append((at, "condition"))
    return out


def _annotations_and_texts(tree: ast.Module) -> set[int]:
    """Nodes whose change is no fault: annotations, and what is under ``TYPE_CHECKING``."""
    roots: list[ast.AST] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.arg | ast.AnnAssign) and node.annotation is not None:
            roots.append(node.annotation)
        elif isinstance(node, ast.FunctionDef) and node.returns is not None:
            roots.append(node.returns)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            roots.append(node)
    return {id(n) for root in roots for n in ast.walk(root)}


def mutated(tree: ast.Module, at: int, kind: str) -> tuple[ast.Module, str]:
    """A copy with one change, and what it is, for a person."""
    changed = copy.deepcopy(tree)
    node = list(ast.walk(changed))[at]
    before = ast.unparse(node)
    if isinstance(node, ast.Compare):
        node.ops[0] = _COMPARE[type(node.ops[0])]()
    elif isinstance(node, ast.BinOp):
        node.op = _ARITHMETIC[type(node.op)]()
    elif isinstance(node, ast.BoolOp):
        node.op = _LOGIC[type(node.op)]()
    elif isinstance(node, ast.UnaryOp):
        node.op = ast.UAdd() if isinstance(node.op, ast.USub) else ast.Not()
        if isinstance(node.op, ast.Not):
            node.operand = ast.UnaryOp(ast.Not(), node.operand)
    elif isinstance(node, ast.Constant):
        node.value = (not node.value) if isinstance(node.value, bool) else node.value + 1
    elif isinstance(node, ast.If | ast.IfExp | ast.While):
        node.test = ast.UnaryOp(ast.Not(), node.test)
    first = ast.unparse(node).splitlines()[0]
    return ast.fix_missing_locations(changed), f"{kind}: {before.splitlines()[0][:80]} -> {first[:80]}"


class _Instead(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Gives one module other code than its file holds."""

    def __init__(self, name: str, file: Path, code: CodeType) -> None:
        self.name, self.file, self.code = name, file, code

    def find_spec(self, name: str, path: object = None, target: object = None) -> importlib.machinery.ModuleSpec | None:
        """The spec of the changed module, None for every other."""
        if name != self.name:
            return None
        places = [str(self.file.parent)] if self.file.name == "__init__.py" else None
        return importlib.util.spec_from_file_location(name, self.file, loader=self, submodule_search_locations=places)

    def exec_module(self, module: ModuleType) -> None:
        """Run the changed code."""
        exec(self.code, module.__dict__)


def draw(package: Path, count: int, seed: int) -> list[tuple[str, int, str, str]]:
    """``count`` mutants of the package, as (file, place, kind, id).

    Which they are follows from the seed and from the code that is changed, not from where it stands: so the same faults are
    tried before and after files were moved.
    """
    every = []
    for file in sorted(package.rglob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        nodes, within = list(ast.walk(tree)), _definitions(tree)
        counts: Counter[str] = Counter()
        for at, kind in sites(tree):
            what = f"{within.get(id(nodes[at]), '')} {kind} {ast.unparse(nodes[at])}"
            counts[what] += 1
            key = hashlib.sha256(f"{seed} {counts[what]} {what}".encode()).hexdigest()
            every.append((key, file.as_posix(), at, kind))
    return [(file, at, kind, key[:16]) for key, file, at, kind in sorted(every)[:count]]


def _definitions(tree: ast.Module) -> dict[int, str]:
    """The innermost function that each node is in."""
    found: dict[int, str] = {}
    for node in ast.walk(tree):  # outer ones come first
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.update((id(inner), node.name) for inner in ast.walk(node))
    return found


def outcome(file: Path, at: int, kind: str, tests: Sequence[str]) -> tuple[str, str]:
    """What becomes of one mutant (killed, survived, stuck), and what it is. Run in a process of its own."""
    tree, what = mutated(ast.parse(file.read_text(encoding="utf-8")), at, kind)
    name = ".".join(file.with_suffix("").parts).removesuffix(".__init__")
    code = compile(tree, str(file), "exec")
    pid = os.fork()
    if pid == 0:
        os._exit(_run(_Instead(name, file, code), tests))
    end = time.monotonic() + 4 * SECONDS
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            break
        if time.monotonic() > end:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
    if os.WIFSIGNALED(status):
        return "stuck", what
    return ("survived" if os.WEXITSTATUS(status) == 0 else "killed"), what


def _run(changed: _Instead, tests: Sequence[str]) -> int:
    import resource

    import pytest

    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    sys.meta_path.insert(0, changed)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        # Whatever keeps the tests from running through, a collection error too, has found the fault.
        return int(pytest.main(["-x", "-q", "-n", "0", "-p", "no:cacheprovider", "--no-header", *tests]))


def ordered(tests: Sequence[str], file: Path) -> list[str]:
    """The test files, that of the changed module first: most mutants are killed there."""
    found = [str(p) for t in tests for p in ([Path(t)] if t.endswith(".py") else sorted(Path(t).rglob("test_*.py")))]
    return sorted(found, key=lambda t: Path(t).stem != f"test_{file.stem}")


def run(package: Path, tests: Sequence[str], count: int, seed: int, out: Path) -> Iterator[dict[str, str]]:
    """Every mutant's line, those of before first."""
    known: dict[str, dict[str, str]] = {}
    if out.exists():
        known = {line["id"]: line for line in map(json.loads, out.read_text(encoding="utf-8").splitlines())}
    for path, at, kind, key in draw(package, count, seed):
        if key not in known:
            result, what = outcome(Path(path), at, kind, ordered(tests, Path(path)))
            known[key] = {"id": key, "file": path, "outcome": result, "what": what}
            with out.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(known[key]) + "\n")
        yield known[key]


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=Path)
    parser.add_argument("tests", nargs="+")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    sys.path.insert(0, str(Path.cwd()))
    import torch  # noqa: F401 - once, before the forks

    lines = list(run(given.package, given.tests, given.count, given.seed, given.out))
    for line in lines:
        if line["outcome"] == "survived":
            print(f"{line['id']}  {line['file']}  {line['what']}")
    killed = sum(line["outcome"] != "survived" for line in lines)
    print(f"{killed} of {len(lines)} killed")


if __name__ == "__main__":
    main()
