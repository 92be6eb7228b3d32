"""A file that bears the name of a package we use does not take its place: beside a model, or in the working directory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from collapsekit.config.imports import import_object, needed_names
from collapsekit.errors import ConfigError
from tests.gating.making import make_report
from tests.gating.test_baseline import write

ROOT = Path(__file__).parents[2]
# What is imported when it is first needed: none of it has been when the user's folder comes on the path.
LATE = ("typer", "rich", "yaml", "scipy", "safetensors", "pydantic", "jinja2", "filelock", "matplotlib")
IMPORTED = f"""
import sys
from pathlib import Path
from collapsekit.config.imports import import_object, importable_from
late = {LATE!r}
assert not set(late) & set(sys.modules), set(late) & set(sys.modules)
build = import_object("shadt_model:build", Path(sys.argv[1]), "model.factory")
with importable_from(Path(sys.argv[1])):
    assert build() == "helper"
    for name in late:
        found = __import__(name)
        assert sys.argv[1] not in (found.__file__ or ""), name
"""


def shadows(folder: Path) -> Path:
    """A folder in which every package of ours has a namesake that ends the process in success."""
    folder.mkdir()
    for i, name in enumerate(sorted(needed_names() - {"__pycache__"})):
        file = folder / f"{name}.py" if i % 2 else folder / name / "__init__.py"
        file.parent.mkdir(exist_ok=True)
        file.write_text("import os\nos._exit(0)\n")
    return folder


def test_what_is_needed_is_all_that_is_installed_for_us() -> None:
    assert needed_names() >= {"collapsekit", "torch", "PIL", "markupsafe", "pydantic_core", "mpl_toolkits", *LATE}
    assert not needed_names() & {"pytest", "transformers", "sklearn", "model", "utils"}  # of extras, or the user's own


def test_beside_a_model_namesakes_are_not_imported(tmp_path: Path) -> None:
    folder = shadows(tmp_path / "project")
    (folder / "shadt_model.py").write_text(
        "import shadt_helper\ndef build():\n    import typer, yaml, scipy.stats\n    return shadt_helper.NAME\n"
    )
    (folder / "shadt_helper.py").write_text("NAME = 'helper'\n")
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED + "print('reached')", str(folder)],
        **{"cwd": ROOT, "capture_output": True, "text": True, "check": False},  # type: ignore[call-overload]
    )
    assert (done.returncode, done.stdout) == (0, "reached\n"), done.stderr


@pytest.mark.parametrize("name", ["typer", "torch", "collapsekit"])
def test_a_factory_that_would_take_their_place_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / f"{name}.py").write_text("def build(): ...\n")
    before = sys.modules.get(name)
    with pytest.raises(ConfigError, match=rf"{name}\.py has the name of a package that collapsekit itself uses"):
        import_object(f"{name}:build", tmp_path, "model.factory")
    assert sys.modules.get(name) is before
    assert callable(import_object("torch.nn:Linear", tmp_path / "elsewhere", "model.factory"))


def test_python_m_does_not_import_from_the_working_directory(tmp_path: Path) -> None:
    folder = shadows(tmp_path / "checkout")
    for file in (folder / "collapsekit.py", folder / "collapsekit" / "__init__.py"):
        file.unlink(missing_ok=True)  # found before our first line runs: -P is for that
    write(folder / "deaf", make_report({"audio": 0.05, "image": 0.9}))
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    for options in ([], ["-P"]):
        command = [sys.executable, *options, "-m", "collapsekit", "gate", "deaf"]
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 1, done.stderr
        assert done.stdout.startswith("✗ FAILED")
