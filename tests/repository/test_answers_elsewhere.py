"""examples/answers_elsewhere: its client gets every answer out of a server that fails; the verdict is the planted one."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from collapsekit.cli import run

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).parents[2] / "examples" / "answers_elsewhere"


def start(server: Any) -> str:
    """Serve in a thread; the address."""
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_address[1]}"


@pytest.mark.parametrize(("looks", "image"), [(False, "collapsed"), (True, "used")])
def test_a_conversation_survives_restarts_and_faults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, looks: bool, image: str
) -> None:
    for file in FOLDER.iterdir():
        if file.suffix in (".py", ".yaml"):
            shutil.copy(file, tmp_path)
    monkeypatch.chdir(tmp_path)
    spec = importlib.util.spec_from_file_location("answers_elsewhere_server", tmp_path / "server.py")
    assert spec is not None
    assert spec.loader is not None
    server_py = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(server_py)
    words = ["--config", "elsewhere.yaml"]
    assert run(["plan", *words, "--format", "openai-batch", "--set", "reliance.draws=4", "-o", "questions"]) == 0
    total = json.loads(Path("questions/manifest.json").read_text())["cost"]["questions"]

    server = server_py.serve(faulty=True, looks=looks)
    url, answers = start(server), Path("answers.jsonl")
    ask = [sys.executable, "ask.py", "questions", "answers.jsonl", url]
    env = {**os.environ, "ASK_FIRST_WAIT": "0.02"}
    client = subprocess.Popen(ask, env=env)
    until = time.monotonic() + 120
    while not answers.exists() or answers.read_text().count("\n") < total // 3:
        assert time.monotonic() < until
        time.sleep(0.02)
    client.kill()  # the client's machine goes down, and then the server's
    client.wait()
    server.shutdown()
    server.server_close()
    answers.write_bytes(answers.read_bytes()[:-9])
    whole = answers.read_text().splitlines()[:-1]  # the last is cut
    before = sum(json.loads(line)["error"] is None for line in whole)  # the server may have failed one TRIES times
    assert 0 < before < total
    assert run(["score", "questions", "answers.jsonl", *words, "--missing", "again.jsonl"]) == 5
    assert len(Path("again.jsonl").read_text().splitlines()) == total - before

    port = server.server_address[1]
    server = server_py.serve(port, faulty=True, looks=looks)
    start(server)
    try:
        assert subprocess.run(ask, env=env, timeout=240, check=False).returncode == 0
        assert subprocess.run(ask, env=env, timeout=240, check=False).returncode == 0  # what was an error to the last
    finally:
        server.shutdown()
        server.server_close()
    assert run(["score", "questions", "answers.jsonl", *words, "-o", "report", "-f", "json"]) == 0
    told = json.loads(Path("report/report.json").read_text())
    assert {m: v["verdict"] for m, v in told["modalities"].items()} == {"image": image, "hint": "used"}
    assert told["subject"]["checkpoint"] == "looks-away@1"


def test_the_readme_says_what_is_there() -> None:
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    for file in FOLDER.iterdir():
        if file.suffix in (".py", ".yaml"):
            assert f"`{file.name}`" in readme
