"""What users import: the five functions, the names of ``collapsekit`` and ``collapsekit.ext``, and nothing else."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import collapsekit
from collapsekit import ext
from collapsekit.config.options import BaselineOptions, CommandOptions, CompareOptions, GateOptions
from tests.gating.making import make_report
from tests.gating.test_baseline import write

ROOT = Path(__file__).parents[2]
FUNCTIONS = ("baseline", "compare", "diagnose", "gate", "repair")
SURFACES = [collapsekit, ext]
# A paper's study that is an example too: its network and training are the package's own, which `reproduce` runs.
STUDY, STUDIES = "examples/r3d/", "collapsekit.reproduce."

# Every module is imported, and then each function is called.
PROGRAM = """
import importlib, pkgutil, types
import torch, collapsekit

for module in pkgutil.walk_packages(collapsekit.__path__, "collapsekit."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
assert all(isinstance(getattr(collapsekit, name), types.FunctionType) for name in {functions})

model = torch.nn.ModuleDict({{"a": torch.nn.Linear(2, 3), "b": torch.nn.Linear(2, 3), "fusion": torch.nn.Linear(6, 3)}})
model.forward = lambda a, b: model["fusion"](torch.cat([model["a"](a), model["b"](b)], 1))
config = {{"modalities": {{"a": "a", "b": "b"}}, "fusion": "fusion"}}
split = {{"a": torch.randn(40, 2), "b": torch.randn(40, 2), "label": torch.arange(40) % 3}}
how = dict(config=config, profile="quick", probes=["gradient_rank"])
print(collapsekit.diagnose(model=model, data={{"train": split, "test": split}}, **how).verdict)
print(collapsekit.gate("a/report.json").outcome)
print(len(collapsekit.baseline(["a/report.json"]).runs))
print(len(collapsekit.compare(["a", "b"]).columns))
try:
    collapsekit.repair("no.pt", config=config, output="out")
except collapsekit.CollapsekitError as e:
    print(type(e).__name__)
"""


@pytest.mark.slow
def test_with_every_module_imported_the_five_are_functions(tmp_path: Path) -> None:
    write(tmp_path / "a", make_report())
    write(tmp_path / "b", make_report(sha="b"))
    program = PROGRAM.format(functions=FUNCTIONS)
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:collapsekit", "-c", program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["inconclusive", "passed", "1", "2", "ConfigError"]


def test_no_module_bears_the_name_of_a_function() -> None:
    there = {path.stem for path in (ROOT / "collapsekit").iterdir()}
    assert not there & set(collapsekit.__all__)
    assert set(FUNCTIONS) <= set(collapsekit.__all__)


@pytest.mark.parametrize("surface", SURFACES, ids=lambda s: s.__name__)
def test_dir_shows_every_name_and_each_is_there(surface: ModuleType) -> None:
    assert set(surface.__all__) <= set(dir(surface))
    for name in surface.__all__:
        getattr(surface, name)
    with pytest.raises(AttributeError, match="no attribute 'diagnos'"):
        surface.diagnos  # noqa: B018


def test_dir_in_a_fresh_process_has_all_names_and_each_is_there() -> None:
    program = """
import sys, collapsekit
names = dir(collapsekit)
assert not [n for n in names if n not in ("ext", *collapsekit.__all__) and not n.startswith("__")], names
assert {"ext", *collapsekit.__all__} <= set(names)
assert "torch" not in sys.modules
assert collapsekit.ext.Report is collapsekit.Report
print(all(hasattr(collapsekit, n) for n in names))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("True\n", "")


@pytest.mark.parametrize("surface", SURFACES, ids=lambda s: s.__name__)
def test_a_type_checker_sees_the_names_that_are_there(surface: ModuleType) -> None:
    seen = {}
    for node in ast.walk(_parsed(surface)):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            for line in node.body:
                assert isinstance(line, ast.ImportFrom)
                seen |= {alias.asname or alias.name: (line.module, alias.name) for alias in line.names}
            assert "__getattr__" not in "".join(map(ast.unparse, node.body)), "it would let every name pass"
    assert set(seen) == set(surface.__all__)
    for name, (module, there) in seen.items():
        assert getattr(surface, name) is getattr(importlib.import_module(str(module)), there), name


def test_importing_the_surface_imports_nothing_heavy() -> None:
    program = "import sys, collapsekit.ext; print(*{m.split('.')[0] for m in sys.modules})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert not set(done.stdout.split()) & {"torch", "numpy", "pydantic", "scipy"}


@pytest.mark.parametrize("name", sorted({*ext.__all__, *collapsekit.__all__}))
def test_every_name_is_explained_where_it_is_defined(name: str) -> None:
    found = getattr(ext if name in ext.__all__ else collapsekit, name)
    if inspect.isclass(found) or inspect.isfunction(found):
        assert found.__doc__ is not None
        assert found.__doc__.strip()
        if inspect.isclass(found):
            assert found.__doc__ not in [base.__doc__ for base in found.__mro__[1:]]
        return
    module, there = ext.places()[name]  # a constant, or a name for a type
    lines = inspect.getsource(importlib.import_module(module)).splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith(f"{there} = "))
    assert "  # " in lines[at] or lines[at - 1].startswith("# ") or lines[at].endswith("("), f"{module}.{there}"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_functions_say_what_they_take_give_and_raise(name: str) -> None:
    function = getattr(collapsekit, name)
    text = inspect.getdoc(function) or ""
    parameters = inspect.signature(function).parameters
    for part in ("Args:", "Returns:", "Raises:", "Example:"):
        assert f"\n{part}\n" in text, part
    groups = re.findall(r"^    (\w+(?:, \w+)*): ", text[text.index("Args:") : text.index("Returns:")], re.M)
    explained = [name for group in groups for name in group.split(", ")]
    assert sorted(explained) == sorted(parameters)


@pytest.mark.parametrize(
    ("name", "model", "rest"),
    [
        ("gate", GateOptions, {"report"}),
        ("compare", CompareOptions, {"reports"}),
        ("baseline", BaselineOptions, {"reports", "earlier"}),
    ],
)
def test_the_functions_take_what_the_commands_take(name: str, model: type[CommandOptions], rest: set[str]) -> None:
    parameters = inspect.signature(getattr(collapsekit, name)).parameters
    assert set(parameters) == set(model.model_fields) | rest


def _sources() -> Iterator[tuple[str, str]]:
    """The Python that users see: files of plugins and examples, and blocks of code in pages."""
    for folder in ("plugins", "examples"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            if not {"build", "dist"} & set(path.parts):
                yield str(path.relative_to(ROOT)), path.read_text()
    pages = [
        *(p for p in ROOT.glob("*.md") if p.name != "CONTRIBUTING.md"),  # that is about files of the package
        *(ROOT / "docs").rglob("*.md"),
    ]
    pages += [p for folder in ("plugins", "examples") for p in (ROOT / folder).rglob("*.md")]
    for page in sorted(pages):
        for i, block in enumerate(re.findall(r"```(?:python|py)\b[^\n]*\n(.*?)```", page.read_text(), re.S), 1):
            yield f"{page.relative_to(ROOT)} #{i}", textwrap.dedent(block)


SOURCES = dict(_sources())


def test_there_are_sources_to_look_at() -> None:
    for start in ("README.md", "plugins/callbacks/README.md", "plugins/transformers/src", "examples/own_model"):
        assert any(name.startswith(start) for name in SOURCES), start


@pytest.mark.parametrize("where", SOURCES)
def test_what_users_see_imports_the_surface_only(where: str) -> None:
    tree = ast.parse(SOURCES[where])
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            inside = [a.name for a in node.names if a.name.startswith("collapsekit.") and a.name != "collapsekit.ext"]
            assert not inside
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "collapsekit":
            if where.startswith(STUDY) and str(node.module).startswith(STUDIES):
                continue
            assert node.module in ("collapsekit", "collapsekit.ext", "collapsekit.answers"), node.module
            surface = importlib.import_module(node.module)
            assert {a.name for a in node.names} <= {*surface.__all__, "ext"}
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "collapsekit":
            assert node.attr in (*collapsekit.__all__, "ext"), ast.unparse(node)


@pytest.mark.parametrize("page", ["README.md", *sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("docs/*.md"))])
def test_what_pages_name_in_prose_is_there(page: str) -> None:
    for said in re.findall(r"\b(collapsekit(?:\.\w+)+)\(", (ROOT / page).read_text()):
        surface = "collapsekit.ext" if said.startswith("collapsekit.ext.") else "collapsekit"
        name, *methods = said.removeprefix(f"{surface}.").split(".")
        assert name in importlib.import_module(surface).__all__, said
        found = getattr(importlib.import_module(surface), name)
        for method in methods:
            found = getattr(found, method)


def _parsed(module: ModuleType) -> ast.Module:
    return ast.parse(inspect.getsource(module))
