"""Probes stand by themselves: none imports another, nothing else imports one, each is a function of the session."""

from __future__ import annotations

import ast
import inspect

import pytest

from collapsekit import registry
from collapsekit.session.session import Session
from tests.repository.house import MODULES, ROOT, dotted, imports_between_files, tree_of
from tests.repository.words import _NO_VERBS

registry.load_builtins()
PROBES = {name: spec for name, spec in registry.PROBES.items() if spec.run.__module__.startswith("collapsekit.probes.")}
MODULES_OF_PROBES = {spec.run.__module__ for spec in PROBES.values()}
SHARED = {"collapsekit.probes._shared", "collapsekit.probes.finished", "collapsekit.probes.runner"}
# Functions that take a model and its examples apart; below the session they have to.
MAX_PAIRS = 39


def _parameters() -> dict[str, set[str]]:
    """Every function of the package, by module and name, with the names of its parameters."""
    found = {}
    for path in MODULES:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                found[f"{path.relative_to(ROOT).as_posix()}:{node.lineno} {node.name}"] = {a.arg for a in every}
    return found


def test_no_probe_imports_another() -> None:
    imports = imports_between_files()
    inside = {name: imports[name] for name in imports if name.startswith("collapsekit.probes.")}
    assert inside.keys() >= MODULES_OF_PROBES
    crossing = {name: targets & MODULES_OF_PROBES for name, targets in inside.items() if targets & MODULES_OF_PROBES}
    assert not crossing


def test_nothing_else_imports_a_probe() -> None:
    """Probes are found through the registry: no module of the package names one."""
    for name, targets in imports_between_files().items():
        of_probes = {t for t in targets if t.startswith("collapsekit.probes.")}
        if not name.startswith("collapsekit.probes."):
            assert of_probes <= SHARED, name
    assert {dotted(path) for path in MODULES} >= SHARED


def test_a_model_its_examples_and_settings_travel_as_one_session() -> None:
    together = [name for name, names in _parameters().items() if {"adapter", "features", "settings"} <= names]
    assert [name.partition(":")[0] for name in together] == ["session/session.py"], (
        together
    )  # where one is found or begun
    pairs = [name for name, names in _parameters().items() if {"adapter", "features"} <= names]
    print(f"{len(pairs)} functions take adapter and features")
    assert len(pairs) <= MAX_PAIRS, pairs
    assert not [name for name in pairs if name.startswith("probes/")]


@pytest.mark.parametrize("name", sorted(PROBES))
def test_a_probe_is_a_function_of_the_session_and_says_what_it_yields(name: str) -> None:
    spec = PROBES[name]
    assert not spec.older
    assert [p.annotation for p in inspect.signature(spec.run, eval_str=True).parameters.values()] == [Session]
    text = inspect.getdoc(spec.run) or ""
    first = text.split()[0]
    assert first.lower() not in _NO_VERBS
    assert not first.endswith("s")
    assert "\nYields:\n" in text
