"""The pytest plugin, installed as a user installs it and found by its name alone, in real runs of pytest."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from xml.etree import ElementTree

import pytest
from collapsekit_pytest.message import failure

from collapsekit.errors import ConfigError
from collapsekit.report.diagnosis import ModalityVerdict, Report, Subject
from tests.plugins.conftest import Once

pytestmark = pytest.mark.slow  # installs the plugin, and runs pytest in processes of their own

ROOT = Path(__file__).parents[2]
PLUGIN = ROOT / "plugins" / "pytest"

LIGHT = """
import sys

def test_nothing_heavy_is_imported_by_the_plugin():
    assert "collapsekit_pytest.plugin" in sys.modules
    assert not {"torch", "numpy", "pydantic"} & set(sys.modules)
"""

CONFTEST = """
import pytest, torch
import collapsekit.readouts.synergy
from tests.problems import make_problem, Late

torch.set_num_threads(1)
collapsekit.readouts.synergy.EPOCHS, collapsekit.readouts.synergy.STEPS = 10, 1  # as brief_joint

def splits(arrays):
    out = {}
    for key, value in arrays.items():
        split, name = key.split("/")
        out.setdefault(split, {})[name] = value
    return out

@pytest.fixture(scope="session")
def healthy(tmp_path_factory):
    return make_problem(tmp_path_factory.mktemp("healthy"))

@pytest.fixture(scope="session")
def ignoring(tmp_path_factory):
    return make_problem(tmp_path_factory.mktemp("ignoring"), ignored=["audio"])

@pytest.fixture(scope="session")
def data(healthy):
    return splits(healthy.arrays)
"""

TESTS = """
import copy, sys
from pathlib import Path
import collapsekit, pytest, torch
from collapsekit_pytest import assert_not_collapsed as plain
from tests.problems import weights_of

PROBES = ["reliance", "utilisation"]  # the least that decides
HOW = dict(modalities={"image": "encoders.image", "audio": "encoders.audio"}, fusion="fusion", task="classification",
           options={"reliance": {"draws": 6}}, probes=PROBES)

def test_healthy(assert_not_collapsed, healthy, data):
    before, modes = weights_of(healthy.model), [m.training for m in healthy.model.modules()]
    report = assert_not_collapsed(healthy.model, data, require=["audio"], **HOW)
    assert report.modalities["audio"].verdict == "used"
    assert all(torch.equal(v, before[k]) for k, v in healthy.model.state_dict().items())
    assert modes == [m.training for m in healthy.model.modules()]

def test_collapsed(assert_not_collapsed, ignoring, data):
    assert_not_collapsed(ignoring.model, data, **HOW)

def test_config_is_a_mapping_and_data_lie_in_a_file(healthy):
    config = {**healthy.config, "data": {"label": "label"}}
    plain(healthy.model, healthy.config["data"]["path"], config=config, options=HOW["options"], probes=PROBES)

def test_collapsed_checkpoint(assert_not_collapsed, ignoring, tmp_path):
    import yaml
    torch.save(ignoring.model.state_dict(), tmp_path / "ckpt.pt")
    (tmp_path / "late.py").write_text(
        "from tests.problems import Late\\n\\ndef build():\\n    return Late({'image': 5, 'audio': 4}, 3, ['audio'])\\n")
    config = {**ignoring.config, "model": {"factory": "late:build"}, "fusion": "nowhere"}
    (tmp_path / "collapsekit.yaml").write_text(yaml.safe_dump(config))
    how = {"options": HOW["options"], "probes": PROBES}
    assert_not_collapsed(tmp_path / "ckpt.pt", fusion="fusion", config=tmp_path / "collapsekit.yaml", **how)

def test_required(assert_not_collapsed, ignoring, data):
    assert_not_collapsed(ignoring.model, data, require="adio", **HOW)

def alone(data):
    return {"test": data["test"]}  # without train, nothing says whether an ignored modality is worth anything

def test_inconclusive(assert_not_collapsed, ignoring, data):
    assert_not_collapsed(ignoring.model, alone(data), **HOW)

def test_inconclusive_allowed(assert_not_collapsed, ignoring, data):
    report = assert_not_collapsed(ignoring.model, alone(data), allow_inconclusive=True, **HOW)
    assert report.modalities["audio"].verdict == "inconclusive"

def test_broken_data(assert_not_collapsed, healthy, data):
    broken = {s: {k: v for k, v in held.items() if k != "label"} for s, held in data.items()}
    assert_not_collapsed(healthy.model, broken, **HOW)

@pytest.fixture
def diagnosis(collapsekit_diagnose, healthy):
    return collapsekit_diagnose(healthy.model, {"test": {"image": torch.zeros(3, 5)}}, **HOW)

def test_broken_data_in_a_fixture(diagnosis):
    pass

def test_each_is_diagnosed_once(collapsekit_diagnose, healthy, data, monkeypatch):
    first = collapsekit_diagnose(healthy.model, data, **HOW)
    monkeypatch.setattr(collapsekit, "diagnose", lambda *_, **__: "again")
    assert collapsekit_diagnose(copy.deepcopy(healthy.model), {**data}, **HOW) is first
    changed = copy.deepcopy(healthy.model)
    changed.ignored = ("audio",)  # the same weights, another model
    assert collapsekit_diagnose(changed, data, **HOW) == "again"
    with torch.no_grad():
        changed = copy.deepcopy(healthy.model)
        changed.head.bias[0] += 1e-6
    assert collapsekit_diagnose(changed, data, **HOW) == "again"
    others = {**data, "test": {**data["test"], "image": data["test"]["image"] + 1e-6}}
    assert collapsekit_diagnose(healthy.model, others, **HOW) == "again"
    assert collapsekit_diagnose(healthy.model, data, **HOW, seed=1) == "again"
    assert collapsekit_diagnose(healthy.model, data, **{**HOW, "fusion": "fusion.0"}) == "again"

def test_what_cannot_be_told_apart_is_diagnosed_each_time(collapsekit_diagnose, healthy, data, monkeypatch):
    calls = []
    monkeypatch.setattr(collapsekit, "diagnose", lambda *_, **__: calls.append(1))
    model = copy.deepcopy(healthy.model)
    model.local = lambda: None
    for _ in range(2):
        collapsekit_diagnose(model, data, **HOW)
    assert len(calls) == 2

def test_files_are_told_apart_by_what_they_hold(collapsekit_diagnose, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(collapsekit, "diagnose", lambda *_, **__: calls.append(1))
    ckpt = tmp_path / "ckpt.pt"
    for content in ("a", "a", "bb"):
        if not ckpt.exists() or ckpt.read_text() != content:
            ckpt.write_text(content)
        collapsekit_diagnose(ckpt, **HOW)
    assert len(calls) == 2
"""


MY_MODELS = """
from pathlib import Path
from conftest import splits as by_split
from tests.problems import make_problem

problem = make_problem(Path("mine"))

def build():
    return problem.model

def splits():
    return by_split(problem.arrays)
"""


@dataclass
class Ran:
    outcomes: dict[str, str]  # passed, failed (in the test) or error (in a fixture), by test
    said: dict[str, str]
    output: str


@pytest.fixture(scope="module")
def site(once: Once) -> Path:
    return Path(once("collapsekit_pytest", install))


def install(folder: Path) -> str:
    # From a copy: building leaves its traces in the source folder.
    shutil.copytree(PLUGIN, folder / "source", ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"))
    flags = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "install", *flags, "--target", str(folder / "site"), str(folder / "source")]
    installed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert installed.returncode == 0, installed.stderr
    return str(folder / "site")


def run_pytest(folder: Path, site: Path) -> Ran:
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    env |= {"PYTHONPATH": os.pathsep.join(map(str, (site, ROOT))), "COLUMNS": "80", "OMP_NUM_THREADS": "1"}
    env["COLLAPSEKIT_CACHE"] = str(folder / "cache")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--junit-xml=ran.xml",
        "-p",
        "no:cacheprovider",
        "--rootdir=.",
        "-c",
        "pytest.ini",
    ]
    (folder / "pytest.ini").write_text("[pytest]\n")
    ran = subprocess.run(command, capture_output=True, text=True, env=env, check=False, cwd=folder)
    outcomes, said = {}, {}
    for case in ElementTree.parse(folder / "ran.xml").iter("testcase"):
        wrong = next((c for c in case if c.tag in ("failure", "error")), None)
        name = str(case.get("name"))
        outcomes[name] = "passed" if wrong is None else "failed" if wrong.tag == "failure" else "error"
        lines = ("" if wrong is None else str(wrong.text)).splitlines()
        said[name] = "\n".join(line[8:] for line in lines if line.startswith("E  "))
    return Ran(outcomes, said, ran.stdout)


@pytest.fixture(scope="module")
def ran(once: Once, site: Path) -> Ran:
    return Ran(**once("pytest_suite", lambda folder: asdict(run_suite(folder, site))))


def run_suite(folder: Path, site: Path) -> Ran:
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "test_models.py").write_text(TESTS)
    readme = (PLUGIN / "README.md").read_text()
    (folder / "test_readme.py").write_text(readme.split("```python\n")[1].split("```")[0])
    (folder / "my_models.py").write_text(MY_MODELS)
    return run_pytest(folder, site)


def test_pytest_starts_without_torch(tmp_path: Path, site: Path) -> None:
    (tmp_path / "test_light.py").write_text(LIGHT)
    assert run_pytest(tmp_path, site).outcomes == {"test_nothing_heavy_is_imported_by_the_plugin": "passed"}


FAIL = {"test_collapsed", "test_collapsed_checkpoint", "test_required", "test_inconclusive", "test_broken_data"}


def test_checks_fail_the_tests_they_should_and_no_other(ran: Ran) -> None:
    outcomes = dict(ran.outcomes)
    assert outcomes.pop("test_broken_data_in_a_fixture") == "error"
    assert len(outcomes) == 12
    assert {name for name, outcome in outcomes.items() if outcome != "passed"} == FAIL, ran.output
    assert "error" not in outcomes.values()


@pytest.mark.parametrize("test", ["test_collapsed", "test_collapsed_checkpoint"])
def test_a_collapse_names_the_modality_and_why(ran: Ran, test: str) -> None:
    first, *rest = ran.said[test].splitlines()
    assert first == "AssertionError: audio is collapsed"
    text = " ".join(" ".join(rest).split())
    assert "audio: collapsed, score 0.99 [" in text
    assert "image: used, score" in text
    assert "audio reaches 0.9" in text


def test_inconclusive_never_passes_silently(ran: Ran) -> None:
    assert "inconclusive" in ran.said["test_inconclusive"].splitlines()[0]
    assert "allow_inconclusive=True" in ran.said["test_inconclusive"]


@pytest.mark.parametrize(
    ("test", "words"),
    [
        ("test_broken_data", "DataError: split 'test' of the data given has no 'label'"),
        ("test_required", "did you mean 'audio'"),
    ],
)
def test_what_could_not_be_diagnosed_is_no_assertion(ran: Ran, test: str, words: str) -> None:
    assert words in ran.said[test]
    assert "AssertionError" not in ran.said[test]
    shown = ran.output[ran.output.index(f"_ {test} _") :]
    assert words in shown[: shown.index("\ntest_models.py:")]  # the test's own line is the last that is shown


def test_output_fits_80_columns_and_shows_the_test_not_the_plugin(ran: Ran) -> None:
    shown = ran.output[ran.output.index("_ test_collapsed _") :]
    shown = shown[: shown.index("_ test_collapsed_checkpoint _")]
    assert "assert_not_collapsed(ignoring.model, data" in shown
    assert "check.py" not in shown
    said = [line for line in shown.splitlines() if line.startswith(("E ", "assert_not_collapsed ="))]
    assert len(said) > 4
    assert max(map(len, said)) <= 80


def report_of(**states: str) -> Report:
    reason = (
        "The model hardly uses it, although a readout of its features alone predicts the label well enough to matter."
    )
    verdicts = {
        m: ModalityVerdict(verdict=s, score=0.5, interval=(0.25, 0.75), reason=reason) for m, s in states.items()
    }  # type: ignore[arg-type]
    subject = Subject(
        checkpoint="live Late",
        sha256="0",
        modalities=tuple(states),
        task="classification",
        metric="accuracy",
        split="test",
        examples=9,
        seed=0,
    )
    return Report(
        collapsekit="0", subject=subject, verdict="healthy", summary="", modalities=verdicts, results=(), settings={}
    )


LONG = "a_name_of_a_modality_" * 6


@pytest.mark.parametrize(
    ("states", "required", "allowed", "headline"),
    [
        ({"image": "used", "audio": "underused", "text": "uninformative"}, [], False, None),
        ({"image": "used", "audio": "underused"}, ["audio"], False, "audio is not used, though required"),
        ({"image": "collapsed", "audio": "collapsed"}, ["audio"], False, "image, audio are collapsed"),
        ({"image": "collapsed", "audio": "inconclusive"}, [], True, "image is collapsed"),
        ({"image": "used", "audio": "inconclusive"}, [], True, None),
        ({"image": "used", "audio": "inconclusive"}, ["audio"], True, "audio is not used, though required"),
        ({"image": "collapsed", "audio": "inconclusive"}, [], False, "image is collapsed; audio is inconclusive"),
        ({"im\x1b[31mage": "collapsed", "audio": "used"}, [], False, "im\\x1b[31mage is collapsed"),
        ({LONG: "collapsed", LONG + "2": "collapsed"}, [], False, ""),
    ],
)
def test_the_message_for_any_verdicts(
    states: dict[str, str], required: list[str], allowed: bool, headline: str | None
) -> None:
    said = failure(report_of(**states), required, allowed)
    if headline is None:
        assert said is None
        return
    assert said is not None
    first, *rest = said.splitlines()
    assert first == headline or not headline
    assert len("AssertionError: " + first) <= 72
    assert max(map(len, rest)) <= 72
    assert "\x1b" not in said
    assert ("allow_inconclusive" in said) == ("inconclusive" in states.values() and not allowed)


def test_requiring_what_there_is_not_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"'adio'.*did you mean 'audio'"):
        failure(report_of(image="used", audio="used"), ["adio"], False)
