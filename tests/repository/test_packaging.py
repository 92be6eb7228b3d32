"""How collapsekit is published and installed: extras, the release, the container, the recipe all say the same."""

from __future__ import annotations

import fnmatch
import importlib.util
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml

ROOT = Path(__file__).parents[2]
PLUGINS = sorted(p.parent for p in ROOT.glob("plugins/*/pyproject.toml"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
RELEASE = ROOT / ".github" / "workflows" / "release.yml"
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
CONDA_NAMES = {"torch": "pytorch", "matplotlib": "matplotlib-base"}  # what conda-forge calls them


# --- extras


@pytest.mark.parametrize("folder", PLUGINS, ids=lambda p: p.name)
def test_each_plugin_is_an_extra_of_its_folders_name(folder: Path) -> None:
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["name"] == f"collapsekit-{folder.name}"
    assert EXTRAS[folder.name] == [project["name"]]
    assert project["version"] == PROJECT["version"]


def test_no_other_extra_asks_for_what_is_not_published() -> None:
    plugins = {folder.name for folder in PLUGINS}
    asked = {name for name, needs in EXTRAS.items() for need in needs if need.startswith("collapsekit")}
    assert asked == plugins


def test_every_extra_is_explained() -> None:
    table = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", (ROOT / "docs" / "install.md").read_text(encoding="utf-8"), re.M)
    assert {name for row in table for name in re.findall(r"`(\w+)`", row)} == set(EXTRAS)


def test_versions_of_what_builds_the_site_and_lints_are_pinned() -> None:
    pinned = set(re.findall(r"^([\w.-]+)==", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.M))
    needed = {need.split(";")[0] for extra in ("docs", "lint", "test") for need in EXTRAS[extra]}
    names = {re.split(r"[<>!=]", need)[0].strip().lower() for need in needed}
    assert names - {name.lower() for name in pinned} <= {"setuptools"}


# --- the release


def load_check() -> Callable[[Path, str], Any]:
    spec = importlib.util.spec_from_file_location("check_release", ROOT / ".ci" / "check_release.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.disagreements  # type: ignore[no-any-return]


@pytest.fixture
def released(tmp_path: Path) -> Path:
    """What a release reads, in order: an address, and a changelog that names the version."""
    for path in (ROOT / "pyproject.toml", *(p / "pyproject.toml" for p in PLUGINS)):
        there = tmp_path / path.relative_to(ROOT)
        there.parent.mkdir(parents=True, exist_ok=True)
        text = path.read_text(encoding="utf-8")
        if "[project.urls]" not in text:
            text += '\n[project.urls]\nRepository = "https://example.org/collapsekit"\n'
        there.write_text(text, encoding="utf-8")
    (tmp_path / "recipe").mkdir()
    shutil.copy(ROOT / "recipe" / "meta.yaml", tmp_path / "recipe")
    shutil.copy(ROOT / "CITATION.cff", tmp_path)
    (tmp_path / "CHANGELOG.md").write_text(f"# Changelog\n\n## {PROJECT['version']} (2026-01-31)\n", encoding="utf-8")
    return tmp_path


def test_a_tag_is_released_where_everything_agrees(released: Path) -> None:
    assert list(load_check()(released, f"v{PROJECT['version']}")) == []


@pytest.mark.parametrize(
    ("file", "before", "after", "said"),
    [
        ("pyproject.toml", 'version = "0', 'version = "7', "pyproject.toml has version 7"),
        ("plugins/pytest/pyproject.toml", 'version = "0', 'version = "7', "plugins/pytest/pyproject.toml has version"),
        ("plugins/callbacks/pyproject.toml", "Repository", "Elsewhere", "has no Repository"),
        ("CHANGELOG.md", " (2026-01-31)", " (unreleased)", "calls it unreleased"),
        ("CITATION.cff", "version: 0", "version: 7", "CITATION.cff"),
        ("recipe/meta.yaml", 'version = "0', 'version = "7', "recipe/meta.yaml"),
    ],
)
def test_what_does_not_agree_stops_a_release(released: Path, file: str, before: str, after: str, said: str) -> None:
    text = (released / file).read_text(encoding="utf-8")
    assert before in text
    (released / file).write_text(text.replace(before, after, 1), encoding="utf-8")
    (found,) = load_check()(released, f"v{PROJECT['version']}")
    assert said in found


def test_another_tag_is_not_this_version(released: Path) -> None:
    assert len(list(load_check()(released, "v9.9.9"))) == len(PLUGINS) + 4
    assert any("expected vX.Y.Z" in s for s in load_check()(released, "nightly"))


def test_the_release_has_no_password_and_each_job_only_what_it_needs() -> None:
    flow = yaml.safe_load(RELEASE.read_text(encoding="utf-8"))
    assert flow["permissions"] == {}
    assert flow["jobs"]["build"]["permissions"] == {"contents": "read"}
    publish = flow["jobs"]["publish"]
    assert publish["permissions"] == {"id-token": "write", "attestations": "write"}
    assert publish["environment"] == "release"
    assert "secrets." not in RELEASE.read_text(encoding="utf-8")
    assert not any("run" in step for step in publish["steps"])  # where a token can be had, nothing of ours runs
    assert all(
        re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", s["uses"])
        for j in flow["jobs"].values()
        for s in j["steps"]
        if "uses" in s
    )
    build = next(step["run"] for step in flow["jobs"]["build"]["steps"] if step.get("name") == "Build")
    assert set(re.findall(r"plugins/\w+", build)) == {f"plugins/{p.name}" for p in PLUGINS}


def test_zizmor_finds_nothing_in_workflows() -> None:
    tool = shutil.which("zizmor", path=str(Path(sys.executable).parent)) or shutil.which("zizmor")
    if tool is None:
        pytest.skip("zizmor is not installed")
    files = [*sorted((ROOT / ".github" / "workflows").glob("*.yml")), ROOT / "action.yml"]
    done = subprocess.run([tool, "--offline", "--no-progress", *map(str, files)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


# --- the container


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    tool = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if tool is None:
        pytest.skip("hadolint is not installed")
    done = subprocess.run([tool, str(ROOT / "Dockerfile")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_the_dockerfile_copies_is_there_and_reaches_it() -> None:
    kept = [line[1:] for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").split() if line.startswith("!")]
    copied = [m.split() for m in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.M)]
    sources = [source for words in copied for source in words[:-1]]
    assert len(sources) >= 5
    for source in sources:
        assert (ROOT / source).exists(), source
        assert any(fnmatch.fnmatch(source, pattern) for pattern in kept), source
    needed = {"collapsekit", PROJECT["readme"], "LICENSE", "pyproject.toml"}  # what a build of the package reads
    assert needed <= set(sources)


def test_the_container_runs_collapsekit_and_not_as_root() -> None:
    last = DOCKERFILE.rpartition("\nFROM ")[2]
    user = re.search(r"^USER (\S+)$", last, re.M)
    assert user is not None
    assert user[1] not in ("root", "0")
    assert 'ENTRYPOINT ["collapsekit"]' in last
    assert "--require-hashes" in DOCKERFILE


# --- the recipe


def test_the_recipe_needs_what_pyproject_needs() -> None:
    text = (ROOT / "recipe" / "meta.yaml").read_text(encoding="utf-8")
    recipe = yaml.safe_load(jinja2.Environment(autoescape=False).from_string(text).render())
    assert recipe["package"] == {"name": PROJECT["name"], "version": PROJECT["version"]}
    wanted = {CONDA_NAMES.get(name, name): bound for name, bound in map(split_need, PROJECT["dependencies"])}
    run = dict(map(split_need, recipe["requirements"]["run"]))
    assert run == {"python": PROJECT["requires-python"], **wanted}
    host = dict(map(split_need, recipe["requirements"]["host"]))
    (backend,) = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["build-system"]["requires"]
    assert host["setuptools"] == split_need(backend)[1]
    assert recipe["build"]["entry_points"] == [f"{name} = {where}" for name, where in PROJECT["scripts"].items()]
    assert recipe["about"]["license"] == PROJECT["license"]
    assert recipe["about"]["summary"] == PROJECT["description"]


def split_need(need: str) -> tuple[str, str]:
    """``name >=1`` or ``name>=1`` -> name and bound."""
    found = re.fullmatch(r"([\w.-]+)\s*(\S*)", need)
    assert found is not None, need
    return found[1], found[2]
