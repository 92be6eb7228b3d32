from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from collapsekit.checkpoint.formats import worker as child
from collapsekit.checkpoint.formats.detect import LocatedWeights, locate
from collapsekit.checkpoint.formats.handles import identity
from collapsekit.checkpoint.formats.layout import Chunk, Located
from collapsekit.checkpoint.formats.worker import ACTED, OUT_OF_MEMORY, answer, as_data, watch

ROOT = Path(__file__).parents[3]
GB = 1 << 30


def python(program: str, *args: str) -> subprocess.CompletedProcess[bytes]:
    start = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
    start += "from collapsekit.checkpoint.formats.worker import confine, main\n"
    return subprocess.run(
        [sys.executable, "-I", "-c", start + program, *args], capture_output=True, timeout=60, check=False
    )


# --- the process itself ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def acts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str, bool]]:
    """What becomes of a confined process for each action: its exit code, what it says, and whether it went on."""
    folder = tmp_path_factory.mktemp("acts")
    (folder / "there").write_text("x")
    found = {}
    for name, (text, _) in ACTIONS.items():
        body = (
            f"import ctypes, marshal, os, pickle, socket, subprocess\nos.chdir(sys.argv[1])\nconfine({GB}, 9)\n{text}\n"
        )
        done = python(body + "os.write(1, b'went on')", str(folder))
        found[name] = (done.returncode, done.stderr.decode(), b"went on" in done.stdout)
    found["left"] = (0, " ".join(sorted(p.name for p in folder.iterdir())), True)
    return found


ACTIONS = {
    "open for writing": ("open('made', 'w')", "open for writing"),
    "open to append": ("open('there', 'ab')", "open for writing"),
    "open to update": ("open('there', 'r+')", "open for writing"),
    "os.open to write": ("os.open('there', os.O_WRONLY)", "open for writing"),
    "os.open to create": ("os.open('made', os.O_RDONLY | os.O_CREAT)", "open for writing"),
    "import": ("import wave", "import wave"),
    "exec of text": ("exec('1')", "compile"),
    "exec of code": ("exec(confine.__code__)", "exec"),
    "fork": ("os.fork()", "os.fork"),
    "system": ("os.system('touch made')", "os.system"),
    "exec of a program": ("os.execv('/bin/true', ['true'])", "os.exec"),
    "subprocess": ("subprocess.run(['true'])", "subprocess.Popen"),
    "socket": ("socket.socket()", "socket.__new__"),
    "ctypes": ("ctypes.CDLL(None)", "ctypes.dlopen"),
    "unpickle": ("pickle.loads(b'cos\\nsystem\\n.')", "pickle.find_class"),
    "marshal": ("marshal.loads(b'N')", "marshal.loads"),
    "remove": ("os.remove('there')", "os.remove"),
    "rename": ("os.rename('there', 'made')", "os.rename"),
    "mkdir": ("os.mkdir('made')", "os.mkdir"),
    "chmod": ("os.chmod('there', 0)", "os.chmod"),
    "link": ("os.symlink('there', 'made')", "os.symlink"),
    "change of folder": ("os.chdir('/')", "os.chdir"),
    "environment": ("os.putenv('A', 'b')", "os.putenv"),
    "another hook": ("sys.addaudithook(print)", "sys.addaudithook"),
    "kill": ("os.kill(os.getpid(), 0)", "os.kill"),
}


@pytest.mark.parametrize("name", ACTIONS)
def test_a_process_that_acts_ends_there(acts: dict[str, tuple[int, str, bool]], name: str) -> None:
    code, said, went_on = acts[name]
    assert (code, went_on) == (ACTED, False), said
    assert said == ACTIONS[name][1]
    assert acts["left"][1] == "there"


def test_a_process_that_reads_goes_on(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("x" * 100)
    program = f"""
import os, zipfile, json
os.chdir(sys.argv[1])
confine({GB}, 9)
for mode in ("r", "rb", "rt"):
    assert open("there", mode).read(1)
os.open("there", os.O_RDONLY | os.O_CLOEXEC)
assert os.listdir(".") == ["there"] == [e.name for e in os.scandir(".")]
assert os.stat("there").st_size == 100
"\\xe4".encode("cp437"), b"\\\\u1234".decode("raw-unicode-escape"), "\\xe4".encode("latin-1"), b"a".decode("utf-8")
"""
    done = python(program, str(tmp_path))
    assert (done.returncode, done.stderr) == (0, b"")


def test_memory_is_bounded() -> None:
    program = f"confine({GB // 4}, 9)\ntry:\n    bytearray({GB // 4})\nexcept MemoryError:\n    print('bounded')"
    done = python(program)
    assert (done.returncode, done.stdout) == (0, b"bounded\n"), done.stderr
    assert python(program.replace(f"confine({GB // 4}", f"confine({GB}")).stdout == b""


def test_computing_is_bounded() -> None:
    done = python(f"confine({GB}, 1)\nwhile True: pass")
    assert done.returncode in (-signal.SIGXCPU, -signal.SIGKILL)


def test_the_answer_is_one_json_object_on_stdout(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"w\xff.pt")  # a name that is no text
    torch.save({"w\ud800": torch.ones(2)}, tmp_path / "w.pt")
    (tmp_path / "w.pt").rename(path)
    done = python(f"main({GB}, 9, sys.argv[1])\nprint('more')", str(path))
    assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads(done.stdout) == json.loads(json.dumps(answer(path)))
    assert json.loads(done.stdout)["found"]["files"][0][0] == str(path)
    refused = python(f"main({GB}, 9, sys.argv[1])", str(tmp_path))
    assert json.loads(refused.stdout) == answer(tmp_path)


def test_a_reader_that_runs_out_of_memory_says_so_by_its_exit_code(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    with path.open("wb") as stream:
        stream.write(b"\x80\x02N.")
        stream.truncate(60 << 20)
    small = python(f"main({50 << 20}, 9, sys.argv[1])", str(path))
    assert small.returncode == OUT_OF_MEMORY, small.stderr
    assert small.stdout == b""
    assert python(f"main({GB}, 9, sys.argv[1])", str(path)).returncode == 0


# --- in this process ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "args", "said"),
    [
        ("open", ("f", "r", os.O_RDONLY), None),
        ("open", ("f", "rb", os.O_RDONLY | os.O_CLOEXEC), None),
        ("open", ("f", None, os.O_RDONLY), None),
        ("open", (3, "rt", None), None),
        ("os.listdir", (".",), None),
        ("os.scandir", (".",), None),
        ("object.__getattr__", (None, "a"), None),
        ("open", ("f", "w", 0), "open for writing"),
        ("open", ("f", "x", 0), "open for writing"),
        ("open", ("f", "a", 0), "open for writing"),
        ("open", ("f", "r+b", 0), "open for writing"),
        *[
            ("open", ("f", None, getattr(os, f"O_{n}")), "open for writing")
            for n in ("WRONLY", "RDWR", "CREAT", "TRUNC")
        ],
        ("import", ("wave", None, None, None, None), "import wave"),
        ("exec", (None,), "exec"),
        ("anything.new", (), "anything.new"),
    ],
)
def test_events(monkeypatch: pytest.MonkeyPatch, event: str, args: tuple[Any, ...], said: str | None) -> None:
    ended: list[str] = []
    monkeypatch.setattr(child, "_end", ended.append)
    watch(event, args)
    assert ended == ([] if said is None else [said])


class EndError(BaseException):
    """In the place of a process's end."""


@pytest.fixture
def bounds_set(monkeypatch: pytest.MonkeyPatch) -> dict[Any, Any]:
    """What confine would have set, which holds for good where it is set; an end raises."""
    import resource

    found: dict[Any, Any] = {}
    monkeypatch.setattr(resource, "setrlimit", found.__setitem__)
    monkeypatch.setattr(sys, "addaudithook", lambda hook: found.update(hook=hook))

    def end(code: int) -> None:
        raise EndError(code)

    monkeypatch.setattr(os, "_exit", end)
    return found


def test_the_child_bounds_memory_time_and_files(bounds_set: dict[Any, Any]) -> None:
    import resource

    child.confine(5, 7)
    want = {resource.RLIMIT_AS: (5, 5), resource.RLIMIT_CPU: (7, 7), resource.RLIMIT_FSIZE: (0, 0)}
    assert bounds_set == want | {resource.RLIMIT_CORE: (0, 0), "hook": watch}


def test_where_there_are_no_limits_the_hook_is_set_all_the_same(
    bounds_set: dict[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "resource", None)
    child.confine(5, 7)
    assert bounds_set == {"hook": watch}


def test_main_answers_and_ends(
    bounds_set: dict[Any, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(EndError, match=r"^0$"):
        child.main(5, 7, str(tmp_path))
    assert json.loads(capsys.readouterr().out) == answer(tmp_path)
    assert bounds_set["hook"] is watch

    def exhausted(_: Path) -> None:
        raise MemoryError

    monkeypatch.setattr(child, "answer", exhausted)
    with pytest.raises(EndError, match=f"^{OUT_OF_MEMORY}$"):
        child.main(5, 7, str(tmp_path))
    assert capsys.readouterr().out == ""


def test_an_answer_that_is_too_long(
    bounds_set: dict[Any, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child, "MAX_ANSWERED", 5)
    monkeypatch.delattr(signal, "SIGIO", raising=False)  # as on Windows
    with pytest.raises(EndError, match=r"^0$"):
        child.main(5, 7, str(tmp_path))
    said = json.loads(capsys.readouterr().out)
    assert set(said) == {"refused"}
    assert said["refused"].startswith(f"{tmp_path} has so many pieces")


def test_the_end_says_what_happened(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[Any] = []
    monkeypatch.setattr(os, "write", lambda *args: done.append(args))
    monkeypatch.setattr(os, "_exit", done.append)
    child._end("import \xe4")
    assert done == [(2, b"import ?"), ACTED]


def test_answers(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    assert answer(path) == {"config": f"checkpoint {path} does not exist: check the path."}
    path.touch()
    assert answer(path) == {
        "refused": f"{path} is empty (0 bytes): the save or download did not finish, make it again."
    }
    torch.save(torch.nn.Linear(1, 1), path)
    said = answer(path)
    assert set(said) == {"refused", "format", "names", "pickled", "file"}
    assert said["file"] == identity(path.stat())
    assert (said["format"], said["pickled"]) == ("torch zip", True)
    assert "torch.nn.modules.linear.Linear" in said["names"]
    torch.save({"w": torch.ones(2)}, path)
    assert answer(path) == {"found": as_data(locate(path))}


def test_places_as_plain_data(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(b"1")
    two.write_bytes(b"22")
    chunks = (Chunk(two, 5, (1, 2), (2, 1), (0, 0)), Chunk(one, 6, (1, 2), (2, 1), (1, 0), True))
    files = {one: (1, 2, 3, 4, 5), two: (1, 6, 7, 8, 9)}
    data = as_data(LocatedWeights("form", {"w": Located("int8", (2, 2), chunks)}, files, "key", "note", ["a.b"]))
    assert json.loads(json.dumps(data)) == {
        "format": "form",
        "key": "key",
        "note": "note",
        "names": ["a.b"],
        "versions": {},
        "ties": {},
        "files": [[str(one), 1, 2, 3, 4, 5], [str(two), 1, 6, 7, 8, 9]],
        "tensors": [
            ["w", "int8", [2, 2], [[1, 5, [1, 2], [2, 1], [0, 0], False], [0, 6, [1, 2], [2, 1], [1, 0], True]]]
        ],
        "averaged": None,
    }
