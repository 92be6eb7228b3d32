from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from collapsekit.checkpoint import sandbox
from collapsekit.checkpoint.formats.detect import UnreadableError
from collapsekit.checkpoint.formats.worker import ACTED, OUT_OF_MEMORY, answer
from collapsekit.checkpoint.sandbox import look_into
from collapsekit.errors import ConfigError, RefusedError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    torch.save({"w": torch.ones(2)}, tmp_path / "w.pt")
    return tmp_path / "w.pt"


def program(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """In the reader's place, in its process."""
    monkeypatch.setattr(sandbox, "_PROGRAM", text)


CONFINED = (
    "import os, sys; sys.path.insert(0, sys.argv[1]); from collapsekit.checkpoint.formats.worker import confine; "
    "confine(int(sys.argv[2]), int(sys.argv[3])); "
)


def test_the_answer_is_that_of_the_child(file: Path) -> None:
    assert look_into(file) == json.loads(json.dumps(answer(file)))["found"]


def test_refusals_arrive_as_what_they_are(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone does not exist: check the path\."):
        look_into(file.with_name("gone"))
    with pytest.raises(RefusedError, match="directory without") as plain:
        look_into(file.parent)
    assert not isinstance(plain.value, UnreadableError)
    torch.save(torch.nn.Linear(1, 1), file)
    with pytest.raises(UnreadableError) as known:
        look_into(file)
    assert (known.value.format, known.value.pickled) == ("torch zip", True)
    assert "torch.nn.modules.linear.Linear" in known.value.names


def test_a_path_with_a_nul(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no path"):
        look_into(tmp_path / "a\0b")


def test_a_path_that_cannot_be_looked_up(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be looked up"):
        look_into(tmp_path / ("a" * 5000))


def test_a_reader_that_acts(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(monkeypatch, CONFINED + "os.mkdir('x')")
    with pytest.raises(RefusedError, match=r"w\.pt made its reader try to act \(os\.mkdir\), which was stopped"):
        look_into(file)
    assert ACTED != OUT_OF_MEMORY


def test_a_warning_is_no_act(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What shows one is imported by then: a late import would end the process."""
    program(monkeypatch, "import warnings; " + CONFINED + "warnings.warn('odd'); print('{\"found\": {\"odd\": 1}}')")
    assert look_into(file) == {"odd": 1}


def test_a_reader_that_takes_too_much_memory(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(monkeypatch, CONFINED + f"os._exit({OUT_OF_MEMORY})")
    with pytest.raises(RefusedError, match="takes more than 1024 MB of memory to look into"):
        look_into(file)


def test_a_reader_that_computes_for_ever(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "_CPU_SECONDS", 1)
    program(monkeypatch, CONFINED + "list(iter(int, 1))")
    with pytest.raises(RefusedError, match=r"takes more than (1 seconds of computing|1024 MB)"):
        look_into(file)
    program(monkeypatch, CONFINED + "all(map(lambda _: True, iter(int, 1)))")
    with pytest.raises(RefusedError, match="takes more than 1 seconds of computing to look into"):
        look_into(file)


def test_a_reader_that_waits_for_ever(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "_CPU_SECONDS", 0)
    monkeypatch.setattr(sandbox, "_WALL_SECONDS", 1)
    program(monkeypatch, "import time; time.sleep(60)")
    with pytest.raises(RefusedError, match="takes more than 1 seconds to look into"):
        look_into(file)


def test_a_reader_that_crashes(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(monkeypatch, "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    with pytest.raises(RefusedError, match=r"made its reader fail \(signal 11\)"):
        look_into(file)


def test_a_fault_of_ours_is_not_blamed_on_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(monkeypatch, "raise ValueError('a fault')")
    with pytest.raises(RuntimeError, match=r"(?s)the reader of .* failed: .*ValueError: a fault"):
        look_into(file)


def test_neither_environment_nor_working_folder_choose_what_is_imported(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("json", "collapsekit", "sitecustomize", "zipfile"):
        (file.parent / f"{name}.py").write_text("import os; os._exit(7)")
    monkeypatch.chdir(file.parent)
    monkeypatch.setenv("PYTHONPATH", str(file.parent))
    monkeypatch.setenv("PYTHONSTARTUP", str(file.parent / "json.py"))
    assert look_into(file)["format"] == "torch zip"


def test_nothing_but_the_standard_library_is_imported(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(
        monkeypatch,
        "import sys; sys.path.insert(0, sys.argv[1]); import collapsekit.checkpoint.formats.worker; "
        "others = {n.partition('.')[0] for n in sys.modules} - set(sys.stdlib_module_names) - {'__main__'}; "
        "print('{\"config\": \"' + ' '.join(sorted(n for n in others if 'editable' not in n)) + '\"}')",
    )
    with pytest.raises(ConfigError) as e:
        look_into(file)
    assert set(str(e.value).split()) - {"_distutils_hack", "sitecustomize", "usercustomize"} == {"collapsekit"}


@pytest.mark.parametrize(
    ("size", "cpu"),
    [(0, 8), (50 << 20, 9), (20 << 30, 8 + 409), (1 << 40, 3600)],
    ids=["none", "50 MB", "20 GB", "1 TB"],
)
def test_more_time_is_given_for_checksums_alone(
    file: Path, monkeypatch: pytest.MonkeyPatch, size: int, cpu: int
) -> None:
    given: dict[str, Any] = {}

    def run(command: list[Any], *, timeout: int, **_: Any) -> Any:
        given.update(memory=command[5], cpu=command[6], wall=timeout)
        return subprocess.CompletedProcess(command, 0, b'{"found": {}}', b"")

    monkeypatch.setattr(sandbox, "_summed", lambda _: size)
    monkeypatch.setattr(subprocess, "run", run)
    look_into(file)
    assert given == {"memory": str(1 << 30), "cpu": str(cpu), "wall": 30 + 2 * cpu + size // (5 << 20)}


def test_what_checksums_are_over_is_what_is_stored(tmp_path: Path, file: Path) -> None:
    size = file.stat().st_size
    assert sandbox._summed(file) == size
    sparse = tmp_path / "sparse.pt"
    sparse.write_bytes(b"PK\x03\x04")
    os.truncate(sparse, 1 << 40)
    assert 4 <= sandbox._summed(sparse) <= 1 << 20
    other = tmp_path / "other"
    other.write_bytes(b"another format" * 1000)
    assert sandbox._summed(other) == 0
    assert sandbox._summed(tmp_path) == 0
    (tmp_path / ".metadata").touch()
    (tmp_path / "folder").mkdir()
    assert sandbox._summed(tmp_path) == size + sandbox._summed(sparse)
    for nothing in (tmp_path / "gone", tmp_path / "a\0b", tmp_path / ("a" * 5000)):
        assert sandbox._summed(nothing) == 0


def test_limits_that_are_lower_already_stay(file: Path) -> None:
    program = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_CPU, (5, 5)); "
        "from pathlib import Path; from collapsekit.checkpoint.sandbox import look_into; "
        f"print(look_into(Path({str(file)!r}))['format'])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "torch zip\n", done.stderr


@pytest.mark.parametrize("collecting", [True, False])
def test_garbage_is_collected_as_before(file: Path, collecting: bool) -> None:
    before = gc.isenabled()
    (gc.enable if collecting else gc.disable)()
    try:
        look_into(file)
        assert gc.isenabled() == collecting
    finally:
        (gc.enable if before else gc.disable)()
