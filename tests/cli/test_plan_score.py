"""collapsekit plan and score, as typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from collapsekit import Report
from collapsekit.render.views._next import recorded_steps
from tests.answers.subjects import Asked, make_asked
from tests.cli.conftest import Run

DRAWS = ("--set", "reliance.draws=4")


@pytest.fixture
def asked(tmp_path: Path) -> Asked:
    made = make_asked(tmp_path / "work", ignored=["audio"], sizes={"train": 60, "val": 30, "test": 40})
    path = made.config["data"]["path"]
    (made.folder / "collapsekit.yaml").write_text(f"modalities: {{image: , audio: }}\ndata: {{path: {path}}}\n")
    made.config = {"modalities": {"image": None, "audio": None}, "data": {"path": path}}
    return made


def test_questions_answers_and_a_verdict(asked: Asked, cli: Run) -> None:
    here = asked.folder
    done = cli("plan", *DRAWS, "--dry-run", cwd=here)
    assert (done.returncode, (here / "questions").exists()) == (0, False)
    assert "about 40 of test, 60 of train, 30 of val" in " ".join(done.stdout.split())
    done = cli("plan", *DRAWS, cwd=here)
    assert (done.returncode, done.stdout) == (0, "Written: questions\n")
    assert "questions, a forward each" in " ".join(done.stderr.split())
    assert cli("plan", *DRAWS, cwd=here).returncode == 2  # they are there
    asked.answer()

    lines = asked.answers.read_text().splitlines()
    (here / "some.jsonl").write_text("\n".join(lines[:-9]))
    done = cli("score", "questions", "some.jsonl", "--missing", "again.jsonl", cwd=here)
    assert (done.returncode, done.stdout) == (5, "")
    assert "9 of" in done.stderr
    assert len((here / "again.jsonl").read_text().splitlines()) == 9
    (here / "rest.jsonl").write_text("\n".join(lines[-9:]))

    done = cli("score", "questions", "some.jsonl", "rest.jsonl", "-o", "out", "--fail-on", "collapsed", cwd=here)
    assert done.returncode == 1
    assert "COLLAPSED" in done.stdout
    assert "collapsekit repair" not in done.stdout  # there are no weights to repair
    assert cli("gate", "out/report.json", cwd=here).returncode == 1
    assert [step.about for step in recorded_steps(Report.load(here / "out" / "report.json"))] == [
        "the gate for CI, which as it stands exits with 1:"
    ]
    told = json.loads((here / "out" / "report.json").read_text())
    assert told["subject"]["engine"] == "answers"
    done = cli("plan", "--next", "answers.jsonl", cwd=here)
    assert (done.returncode, done.stdout) == (0, "Nothing more to ask: every verdict is decided.\n")
    done = cli("plan", "--next", "answers.jsonl", "--seed", "1", cwd=here)
    assert done.returncode == 2
    assert "leave out --seed" in done.stderr
    done = cli("score", "questions", "answers.jsonl", "--json", cwd=here)
    assert json.loads(done.stdout) == told  # other files, the same bytes


def test_what_is_wrong_has_its_exit_code(asked: Asked, cli: Run) -> None:
    here = asked.folder
    assert cli("score", "questions", "answers.jsonl", cwd=here).returncode == 2  # no folder
    assert cli("plan", *DRAWS, "--budget", "3", cwd=here).returncode == 2
    assert cli("plan", *DRAWS, "--format", "opnai-batch", cwd=here).returncode == 2
    assert cli("plan", *DRAWS, "--format", "vllm", cwd=here).returncode == 2  # no choices
    assert not (here / "questions" / "manifest.json").exists()
    assert cli("plan", *DRAWS, cwd=here).returncode == 0
    assert cli("score", "questions", "answers.jsonl", cwd=here).returncode == 2  # no file
    asked.answer()
    lines = asked.answers.read_text().splitlines()
    other = {**json.loads(lines[0]), "scores": [9, 9, 9]}
    (here / "more.jsonl").write_text(json.dumps(other))
    done = cli("score", "questions", "answers.jsonl", "more.jsonl", cwd=here)
    assert done.returncode == 3
    assert other["id"] in done.stderr
    (here / "collapsekit.yaml").write_text((here / "collapsekit.yaml").read_text() + "metric: macro_f1\n")
    done = cli("score", "questions", "answers.jsonl", cwd=here)
    assert done.returncode == 2
    assert "is not the config" in done.stderr
