"""What users copy into their CI is valid, and does what it says: every step is run as the runner would."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from collapsekit.report.gate import GateReport
from tests.gating.making import make_records, make_report
from tests.gating.test_baseline import write

ROOT = Path(__file__).parents[2]
CI = ROOT / "examples" / "ci"
USES = {"audio": 0.9, "image": 0.9}
DEAF = {"audio": 0.05, "image": 0.9}


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


@pytest.mark.parametrize(
    ("path", "schema"),
    [
        (ROOT / "action.yml", "github-actions"),
        (CI / "github-gate.yml", "github-workflows"),
        (CI / "gitlab-gate.yml", "gitlab-ci"),
    ],
    ids=lambda v: v if isinstance(v, str) else v.name,
)
def test_fits_its_schema(path: Path, schema: str) -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_pre_commit_manifest_is_valid() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pre_commit", "validate-manifest", str(ROOT / ".pre-commit-hooks.yaml")],
        **{"capture_output": True, "text": True, "check": False},  # type: ignore[call-overload]
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A user's repository: reports of a healthy model and of one that went deaf, and a baseline of the former."""
    folder = tmp_path / "repository"
    write(folder / "healthy", make_report(USES, records=make_records(USES, 0.9), training_seed=1))
    write(folder / "deaf", make_report(DEAF, records=make_records(DEAF, 0.9), sha="deaf", training_seed=1))
    assert shell("collapsekit baseline create healthy -o baseline.json", folder).returncode == 0
    return folder


def shell(script: str, folder: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """A step as GitHub runs it: bash -eo pipefail, the environment's own commands first on the path."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    variables = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **env}
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script]
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=300, check=False)


def action(
    folder: Path, env: dict[str, str] | None = None, **given: str
) -> tuple[subprocess.CompletedProcess[str], dict[str, str]]:
    """Run the action's steps with these inputs: the last step, and the outputs."""
    made = read(ROOT / "action.yml")
    inputs = {k: v.get("default", "") for k, v in made["inputs"].items()} | given
    outputs = folder / "outputs"
    outputs.write_text("")
    for step in made["runs"]["steps"]:
        if step.get("if") == "inputs.install == 'true'" and inputs["install"] != "true":
            continue
        filled = {
            k: re.sub(r"\$\{\{ inputs\.(\w+) \}\}", lambda m: inputs[m[1]], v) for k, v in step.get("env", {}).items()
        }
        assert "${{" not in step["run"]  # what is put into a script would be run
        done = shell(
            step["run"], folder, GITHUB_OUTPUT=str(outputs), GITHUB_ACTION_PATH=str(ROOT), **filled, **(env or {})
        )
    return done, dict(line.split("=", 1) for line in outputs.read_text().splitlines())


@pytest.mark.slow
def test_the_action_passes_a_healthy_model_and_stops_a_deaf_one(repository: Path) -> None:
    summary = repository / "summary.md"
    os.environ["GITHUB_STEP_SUMMARY"] = str(summary)
    try:
        done, outputs = action(repository, subject="healthy/report.json", baseline="baseline.json", install="false")
        assert (done.returncode, outputs) == (0, {"outcome": "passed"}), done.stderr
        done, outputs = action(repository, subject="deaf/report.json", baseline="baseline.json", install="false")
    finally:
        del os.environ["GITHUB_STEP_SUMMARY"]
    assert (done.returncode, outputs) == (1, {"outcome": "failed"}), done.stderr
    assert "::error title=gate failed%3A use of audio::" in done.stdout
    assert "Gate failed" in summary.read_text()
    assert GateReport.load(repository / "collapsekit-gate" / "gate.json").outcome == "failed"
    assert (repository / "collapsekit-gate" / "gate.xml").is_file()


@pytest.mark.slow
def test_the_actions_inputs_are_text_not_script(repository: Path) -> None:
    evil = "verdict != collapsed'; touch pwned; echo '\n$(touch pwned)\n"
    done, outputs = action(repository, subject="healthy", require=evil, install="false")
    assert done.returncode == 2
    assert outputs == {"outcome": ""}
    done, _ = action(repository, subject="--help", install="false")
    assert done.returncode == 2  # a file of that name, which is not there; no option
    assert not (repository / "pwned").exists()
    done, _ = action(
        repository,
        subject="healthy",
        require="\n  \nverdict != collapsed\nmodalities.*.score <= 0.01\n",
        install="false",
    )
    assert done.returncode == 1


def test_what_lies_in_the_checkout_is_not_run_by_the_action(repository: Path) -> None:
    """A pull request that brings files of the names of what the gate imports, each of which would end it in success."""
    for name in ("typer", "rich", "yaml", "pydantic", "numpy", "sitecustomize", "runpy", "json", "collapsekit", "pip"):
        folder = repository / name
        folder.mkdir()
        (folder / "__init__.py").write_text("import os; os._exit(0)\n")
        (folder / "__main__.py").write_text("import os; os._exit(0)\n")
    for paths in ("", ".", f":{ROOT}"):
        done, outputs = action(repository, {"PYTHONPATH": paths}, subject="deaf/report.json", install="false")
        assert (done.returncode, outputs) == (1, {"outcome": "failed"}), done.stderr


@pytest.mark.parametrize("here", [True, False], ids=["covered", "elsewhere"])
def test_the_action_installs_by_hash_where_it_can(here: bool, tmp_path: Path) -> None:
    """The step as it stands, with a python that says which one it is, and only notes down what pip is asked for."""
    is_covered = "import sys, platform; sys.platform, platform.machine = 'linux', lambda: 'x86_64'; "
    is_covered += f"sys.version_info = (3, {12 if here else 99}, 0); exec(sys.argv[1])"
    told = f'if [ "$3" = -c ]; then exec {sys.executable} -c "{is_covered}" "$4"; fi'
    (tmp_path / "python").write_text(f"""#!/bin/bash\n{told}\nprintf '%s\\n' "$*" >> asked\n""")
    (tmp_path / "python").chmod(0o755)
    step = read(ROOT / "action.yml")["runs"]["steps"][0]
    done = shell(f'PATH="{tmp_path}:$PATH"\n{step["run"]}', tmp_path, **step["env"])
    assert done.returncode == 0, done.stderr
    asked = (tmp_path / "asked").read_text().splitlines()
    assert all(line.startswith("-E -P -m pip install ") for line in asked)
    assert [("--require-hashes" in line, "--no-deps --no-build-isolation ." in line) for line in asked] == (
        [(True, False), (False, True)] if here else [(False, False)]
    )
    assert ("-c constraints.txt ." in asked[-1]) == ("::notice::" in done.stdout) == (not here)


def runs(path: Path) -> list[str]:
    """Every line of shell in a file of these."""
    held = read(path)
    if "runs" in held:
        return [line for step in held["runs"]["steps"] for line in step["run"].splitlines()]
    if "jobs" in held:
        return [line for step in held["jobs"]["gate"]["steps"] for line in step.get("run", "").splitlines()]
    return [*held["collapse-gate"]["before_script"], *held["collapse-gate"]["script"]]


@pytest.mark.parametrize("path", [ROOT / "action.yml", *sorted(CI.glob("*.yml"))], ids=lambda p: p.name)
def test_python_never_searches_the_checkout(path: Path) -> None:
    started = [line for line in runs(path) if re.search(r"\bpython3?\b", line)]
    assert started
    for line in started:
        assert re.search(r"\bpython (-E )?-P ", line), line
        assert ("-E" in line) == (path.name == "action.yml"), line


def test_examples_name_versions_and_commits() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    torch = constraints()["torch"]
    for path in (CI / "github-gate.yml", CI / "gitlab-gate.yml"):
        text = path.read_text()
        assert f"pip install git+https://github.com/YOUR-FORK/collapsekit@v{version}\n" in text
        assert f"pip install torch=={torch} " in text
    both = (CI / "github-gate.yml").read_text(), (CI / "README.md").read_text()
    used = [dict(re.findall(r"uses: ([\w/-]+)@(\w+) # v\d+\.\d+\.\d+\n", text)) for text in both]
    assert [len(re.findall(r"uses: actions/", text)) for text in both] == [3, 2]
    assert [len(u) for u in used] == [3, 2]
    assert all(re.fullmatch("[0-9a-f]{40}", commit) for commit in used[0].values())
    assert used[1].items() <= used[0].items()
    assert f"collapsekit@v{version} " in both[1]
    assert f"rev: v{version}\n" in both[1]


def constraints() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return {n.lower(): v for n, v in (line.split("==") for line in lines if not line.startswith("#"))}


def test_hashes_are_of_all_that_is_needed_in_the_versions_tested() -> None:
    text = (ROOT / ".ci" / "requirements-hashed.txt").read_text()
    pins = re.findall(r"^([\w.-]+)==(\S+) \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", text, re.MULTILINE)
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert sum(1 + hashes.count("\n") for _, _, hashes in pins) == len(lines)  # and nothing else: no option, no address
    found = {name: version for name, version, _ in pins}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [re.split(r"[>=]", w)[0] for w in project["project"]["dependencies"] + project["build-system"]["requires"]]
    assert set(wanted) <= found.keys()
    for name in set(wanted) - {"setuptools"}:
        assert found[name].removesuffix("+cpu") == constraints()[name]
    assert found["torch"].endswith("+cpu")


@pytest.mark.slow  # asks an index for each package
def test_hashes_are_those_of_what_pip_would_install_here() -> None:
    if (sys.platform, platform.machine()) != ("linux", "x86_64") or sys.version_info[:2] not in (
        (3, 11),
        (3, 12),
        (3, 13),
    ):
        pytest.skip("the hashes are not of this platform")
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--dry-run",
        "--ignore-installed",
        "--no-deps",
        "--require-hashes",
    ]
    done = subprocess.run(
        [*command, "-r", str(ROOT / ".ci" / "requirements-hashed.txt")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def installing(script: str) -> bool:
    return "pip install" in script


def project(folder: Path, deaf: bool) -> Path:
    """A user's project: a checkpoint, its config and data, and a baseline of the healthy one."""
    import torch

    from tests.cli.test_commands import SMALL
    from tests.problems import make_problem

    problem = make_problem(folder, ignored=["audio"] if deaf else [])
    torch.save(problem.model.state_dict(), folder / "ckpt.pt")
    ignored = "[audio]" if deaf else "[]"
    (folder / "collapsekit.yaml").write_text(SMALL.replace("[audio]", ignored))
    return folder


@pytest.fixture(scope="module")
def projects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("projects")
    made = {name: project(base / name, name == "deaf") for name in ("healthy", "deaf")}
    diagnose = "collapsekit diagnose --quiet --training-seed 0"
    done = shell(f"{diagnose} && collapsekit baseline create collapsekit-report", made["healthy"])
    assert done.returncode == 0, done.stderr
    shutil.copy(made["healthy"] / "baseline.json", made["deaf"] / "baseline.json")
    return made


@pytest.mark.slow  # whole diagnoses by the commands as they stand
@pytest.mark.parametrize("which", ["healthy", "deaf"])
def test_the_workflow_step_by_step(projects: dict[str, Path], which: str) -> None:
    steps = read(CI / "github-gate.yml")["jobs"]["gate"]["steps"]
    assert [s["uses"].split("@")[0] for s in steps if "uses" in s] == [
        *("actions/checkout", "actions/setup-python", "actions/upload-artifact"),
    ]
    scripts = [s["run"] for s in steps if "run" in s]
    assert [installing(s) for s in scripts] == [True, False, False]
    codes = [shell(s, projects[which]).returncode for s in scripts if not installing(s)]
    assert codes == ([0, 0] if which == "healthy" else [0, 1])
    kept = steps[-1]["with"]["path"].split()
    assert all((projects[which] / name).exists() for name in kept)


@pytest.mark.slow  # the same commands as the workflow's
@pytest.mark.parametrize("which", ["healthy", "deaf"])
def test_the_gitlab_job_line_by_line(projects: dict[str, Path], which: str) -> None:
    job = read(CI / "gitlab-gate.yml")["collapse-gate"]
    assert all(installing(line) for line in job["before_script"])
    done = [shell(line, projects[which]) for line in job["script"]]
    assert [d.returncode for d in done] == ([0, 0] if which == "healthy" else [0, 1]), done[-1].stderr
    assert (projects[which] / job["artifacts"]["reports"]["junit"]).is_file()


@pytest.mark.slow
def test_the_hook_runs_as_pre_commit_would(repository: Path) -> None:
    hook = read(ROOT / ".pre-commit-hooks.yaml")[0]
    command = f"{hook['entry']} " + " ".join(hook["args"])
    for which, code in (("healthy", 0), ("deaf", 1)):
        shutil.rmtree(repository / "collapsekit-report", ignore_errors=True)
        shutil.copytree(repository / which, repository / "collapsekit-report")
        assert shell(command, repository).returncode == code
    assert re.search(hook["files"], "collapsekit-report/report.json")
    assert not re.search(hook["files"], "src/model.py")


def test_the_readme_beside_the_examples_names_what_is_there() -> None:
    text = (CI / "README.md").read_text()
    assert set(re.findall(r"`([\w-]+\.yml)`", text)) == {p.name for p in CI.glob("*.yml")}
    inputs = read(ROOT / "action.yml")["inputs"]
    block = yaml.safe_load(re.findall(r"```yaml\n(.*?)```", text, re.S)[0])
    used = next(s for s in block if "collapsekit@" in s.get("uses", ""))
    assert set(used["with"]) <= set(inputs)
    hooks = yaml.safe_load(re.findall(r"```yaml\n(.*?)```", text, re.S)[1])["repos"][0]["hooks"]
    assert hooks[0]["id"] == read(ROOT / ".pre-commit-hooks.yaml")[0]["id"]
