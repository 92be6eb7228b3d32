"""What contributors and CI type exists, and is the same: targets, hooks, workflows, forms, the citation."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.M))
GITHUB = ROOT / ".github"


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("path", "schema"),
    [
        (ROOT / "CITATION.cff", "citation-file-format"),
        *((path, "github-workflows") for path in sorted((GITHUB / "workflows").glob("*.yml"))),
        (GITHUB / "ISSUE_TEMPLATE" / "config.yml", "github-issue-config"),
        *((p, "github-issue-forms") for p in sorted((GITHUB / "ISSUE_TEMPLATE").glob("*.yml")) if p.stem != "config"),
    ],
    ids=lambda v: v if isinstance(v, str) else v.name,
)
def test_fits_its_schema(path: Path, schema: str) -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_hooks_for_contributors_are_valid_and_call_targets() -> None:
    path = ROOT / ".pre-commit-config.yaml"
    command = [sys.executable, "-m", "pre_commit", "validate-config", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    repos = read(path)["repos"]
    assert [repo["repo"] for repo in repos] == ["local"]  # nothing is fetched
    entries = [hook["entry"].split() for hook in repos[0]["hooks"]]
    assert {e[0] for e in entries} == {"make"}
    assert {t for e in entries for t in e[1:]} <= TARGETS


def test_help_is_the_default_and_lists_every_target() -> None:
    done = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert set(re.findall(r"^make ([a-z-]+) +\S", done.stdout, re.M)) == TARGETS


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_a_target_runs_the_python_that_it_is_given(target: str) -> None:
    command = ["make", "--dry-run", target, "PYTHON=another-python"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    lines = [line for line in done.stdout.splitlines() if not line.startswith(("make[", "awk", "make --no-print"))]
    assert lines or target == "help"
    assert all(re.search(r"(^|\s)another-python\s", line) for line in lines), lines


def test_paths_in_the_makefile_are_there() -> None:
    named = set(re.findall(r"(?<![\w/])((?:tests|docs|plugins)/[\w./-]*\w)", MAKEFILE))
    assert named
    assert not {n for n in named if not (ROOT / n).exists()}


@pytest.mark.parametrize(
    "page",
    ["README.md", "CONTRIBUTING.md", ".ci/run", ".github/workflows/ci.yml", ".github/PULL_REQUEST_TEMPLATE.md"],
)
def test_every_target_that_is_named_exists(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    lines = re.findall(r"(?:^|`|run: )make ((?:[a-z-]+ ?)+?)(?=`|$|\s+[A-Z#])", text, re.M)
    assert {t for line in lines for t in line.split()} <= TARGETS
    assert lines or page == "README.md"


def test_ci_asks_for_all_that_the_quick_loop_asks_for() -> None:
    asked = re.search(r"^check: (.+?) ##", MAKEFILE, re.M)
    assert asked is not None
    ci = re.findall(r"^make (.+)$", (ROOT / ".ci" / "run").read_text(encoding="utf-8"), re.M)
    assert set(asked[1].split()) <= {t for line in ci for t in line.split()}


def test_actions_are_named_by_the_commits_of_the_examples() -> None:
    pattern = r"uses: ([\w/-]+)@([0-9a-f]{40}) # v\d+\.\d+\.\d+\n"
    text = (GITHUB / "workflows" / "ci.yml").read_text(encoding="utf-8")
    known = dict(re.findall(pattern, (ROOT / "examples" / "ci" / "github-gate.yml").read_text(encoding="utf-8")))
    used = re.findall(pattern, text)
    assert len(used) == text.count("uses:")
    assert set(used) <= set(known.items())


def test_the_citation_is_of_this_version_and_of_the_papers() -> None:
    citation, project = read(ROOT / "CITATION.cff"), tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert citation["version"] == project["version"]
    assert citation["license"] == project["license"]
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    for reference in citation["references"]:
        assert reference["title"] in readme
        assert f"{reference['authors'][0]['family-names']} et al." in readme


def test_pythons_of_the_workflow_are_those_that_are_supported() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    versions = read(GITHUB / "workflows" / "ci.yml")["jobs"]["check"]["strategy"]["matrix"]["python"]
    assert f">={versions[0]}" == project["requires-python"]


def test_what_is_spelt_wrong_is_found(tmp_path: Path) -> None:
    pytest.importorskip("codespell_lib")
    (tmp_path / "page.md").write_text("A modality recieves credit.\n")
    command = [sys.executable, "-m", "codespell_lib", "--toml", str(ROOT / "pyproject.toml"), str(tmp_path)]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 65
    (tmp_path / "page.md").write_text("Covert et al. give a modality credit.\n")
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
