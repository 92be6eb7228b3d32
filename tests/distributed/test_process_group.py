"""Several processes at one diagnosis: the same bytes as one, each encodes its own batches, errors are everyone's."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from collapsekit import Report
from collapsekit.distributed.process_group import ProcessGroup, current, together
from collapsekit.errors import ConfigError
from tests import several
from tests.problems import make_problem

CONFIG = """\
model: {factory: "heard:build", checkpoint: all.pt}
modalities: {image: encoders.image, audio: encoders.audio}
fusion: fusion
head: head
data: {path: data.safetensors, batch_size: 16}
"""
# Each process writes down what its encoder was given; what goes wrong where is asked for by the environment.
MODEL = """\
import os, pathlib, time
import torch
from torch import nn
from tests.problems import Late

class Heard(nn.Linear):
    def forward(self, x):
        self.count += 1
        with self.place.open("a") as f:
            f.write(f"{len(x)}\\n")
        rank = os.environ.get("RANK", "0")
        if rank == os.environ.get("FAIL_RANK") and self.count == 7:  # after all that the model is known by
            raise RuntimeError("a cable was pulled")
        if rank == os.environ.get("KILL_RANK") and self.count == 7:
            (self.place.parent / "now").touch()
            time.sleep(60)
        return super().forward(x)

def build():
    model = Late({"image": 5, "audio": 4})
    model.encoders["image"].__class__ = Heard
    model.encoders["image"].place = pathlib.Path(os.environ["HEARD"]) / os.environ.get("RANK", "0")
    model.encoders["image"].count = 0
    return model

class Answering(nn.Sequential):  # all arithmetic beside what it says
    def forward(self, x):
        with (pathlib.Path(os.environ["HEARD"]) / f"fusion{os.environ.get('RANK', '0')}").open("a") as f:
            f.write(f"{len(x)}\\n")
        return super().forward(x)

def build_wide():
    torch.manual_seed(0)
    model = build()
    model.fusion = Answering(nn.Linear(12, 600), nn.Tanh(), nn.Linear(600, 12))
    return model
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("several")
    problem = make_problem(place, noise=["audio"], sizes={"train": 150, "val": 90, "test": 100})
    torch.save(problem.model.state_dict(), place / "all.pt")
    (place / "heard.py").write_text(MODEL)
    (place / "collapsekit.yaml").write_text(CONFIG)
    return place


Diagnosed = Callable[..., list[tuple[int, str, str]]]


@pytest.fixture(scope="module")
def diagnosed() -> Iterator[Diagnosed]:
    """``diagnosed(folder, size, place, *args, **env)``: `collapsekit diagnose` in ``folder`` by so many processes; its
    files lie in place/report."""
    starter = several.Starter()

    def run(folder: Path, size: int, place: Path, *args: str, **env: str) -> list[tuple[int, str, str]]:
        env |= {"HEARD": str(place), "COLLAPSEKIT_CACHE": str(place / "cache")}
        return starter.run(size, place, "diagnose", "-o", str(place / "report"), *args, cwd=folder, **env)

    yield run
    starter.end()


def batches(place: Path, rank: int | str) -> list[int]:
    return [int(line) for line in (place / str(rank)).read_text().split()]


WHOLE = [f"--probe={p}" for p in ("spectrum", "similarity", "gradient_rank", "rank_sweep", "prefix_gap", "utilisation")]
WHOLE += ["--set", "prefix_gap.epochs=3", "--set", "reliance.draws=6", "-f", "json", "-f", "md"]


@pytest.fixture(scope="module")
def alone(folder: Path, diagnosed: Diagnosed, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """What one process writes, and prints."""
    place = tmp_path_factory.mktemp("alone")
    ((code, out, err),) = diagnosed(folder, 1, place, *WHOLE)
    assert code == 0, err
    return place / "report", out


@pytest.mark.parametrize("size", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_several_processes_write_the_bytes_that_one_writes(
    folder: Path, diagnosed: Diagnosed, tmp_path: Path, alone: tuple[Path, str], size: int
) -> None:
    found = diagnosed(folder, size, tmp_path, *WHOLE)
    assert [code for code, _, _ in found] == [0] * size, found
    names = sorted(p.name for p in alone[0].iterdir())
    assert {"report.json", "records.safetensors"} <= set(names)
    for name in names:
        assert (tmp_path / "report" / name).read_bytes() == (alone[0] / name).read_bytes(), name
    # The first alone speaks and writes.
    assert found[0][1] == alone[1]
    assert [out + err for _, out, err in found[1:]] == [""] * (size - 1)


def test_each_encodes_its_own_batches_without_padding(folder: Path, diagnosed: Diagnosed, tmp_path: Path) -> None:
    args = ("-q", "-f", "json", "-p", "spectrum", "-p", "vif", "-p", "reliance", "--set", "reliance.draws=4")
    diagnosed(folder, 1, tmp_path / "one", *args)
    diagnosed(folder, 3, tmp_path / "three", *args)
    alone = batches(tmp_path / "one", 0)
    assert sorted(set(alone)) == [4, 5, 6, 16]  # 100 = 6·16 + 4, and a few of the first batch again, in two halves
    heard = [batches(tmp_path / "three", rank) for rank in range(3)]
    # Everyone learns the model from the first batch; the other six are shared out, in turn.
    first = alone[: len(alone) - 6]
    assert heard[0] == [*first, 16, 4]  # batches 0, 3 and 6
    assert sum(sum(h[len(first) :]) for h in heard) == sum(alone) - sum(first)
    one, three = ((tmp_path / name / "report" / "report.json").read_bytes() for name in ("one", "three"))
    assert one == three


def test_what_if_questions_are_answered_in_turn(
    folder: Path, diagnosed: Diagnosed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where answering takes longer than telling; each question is asked of one, and the numbers are those of one."""
    project = tmp_path / "wide"
    make_problem(project, noise=["audio"], sizes={"train": 150, "val": 90, "test": 1536}, steps=0)
    shutil.copy(folder / "heard.py", project)
    (project / "collapsekit.yaml").write_text(CONFIG.replace("heard:build", "heard:build_wide"))
    monkeypatch.setenv("HEARD", str(tmp_path))
    with torch.random.fork_rng():
        wide = runpy.run_path(str(project / "heard.py"))["build_wide"]()
    torch.save(wide.state_dict(), project / "all.pt")
    args = ("-f", "json", "-p", "reliance", "-p", "noise", "--set", "reliance.draws=3", "--set", "noise.inputs=false")
    for size, name in ((1, "one"), (3, "three")):
        (tmp_path / name).mkdir()
        found = diagnosed(project, size, tmp_path / name, *args)
        assert [code for code, _, _ in found] == [0] * size, found
    one, three = ((tmp_path / name / "report" / "report.json").read_bytes() for name in ("one", "three"))
    assert one == three
    alone = sum(batches(tmp_path / "one", "fusion0"))
    each = [sum(batches(tmp_path / "three", f"fusion{rank}")) for rank in range(3)]
    assert max(each) < 0.55 * alone, (alone, each)
    assert sum(each) < 1.4 * alone, (alone, each)


def test_the_error_of_one_is_everyones(folder: Path, diagnosed: Diagnosed, tmp_path: Path) -> None:
    found = diagnosed(folder, 3, tmp_path, "-p", "vif", FAIL_RANK="1")
    assert [code for code, _, _ in found] == [2, 2, 2], found
    assert "a cable was pulled" in found[0][2]
    assert found[0][2].startswith("Config: collapsekit.yaml\n")
    assert len(found[0][2].strip().splitlines()) <= 3
    assert [err for _, _, err in found[1:]] == ["", ""]
    assert not (tmp_path / "report").exists()


def test_where_one_is_killed_the_others_end(folder: Path, diagnosed: Diagnosed, tmp_path: Path) -> None:
    found = diagnosed(folder, 3, tmp_path, "-p", "vif", KILL_RANK="2")
    assert [code for code, _, _ in found] == [4, 4, -9], found
    for _, _, err in found[:2]:
        assert "lost touch" in err
        assert "Traceback" not in err


def test_other_data_on_one_of_them_is_said(folder: Path, diagnosed: Diagnosed, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    code = (
        "import os; from tests.problems import make_arrays\n"
        "def loaders():\n"
        "    arrays = make_arrays({'image': 5, 'audio': 4}, sizes={'train': 60, 'test': 60},\n"
        "                         seed=int(os.environ.get('RANK', '0')))\n"
        "    return {s: [{k.split('/')[1]: v for k, v in arrays.items() if k.startswith(s)}] for s in ('train', 'test')}\n"
    )
    place = tmp_path / "mine"
    shutil.copytree(folder, place, dirs_exist_ok=True)
    (place / "mine.py").write_text(code)
    (place / "collapsekit.yaml").write_text(CONFIG.replace("path: data.safetensors", 'factory: "mine:loaders"'))
    found = diagnosed(place, 2, tmp_path / "out", "-p", "vif")
    assert [code for code, _, _ in found] == [2, 2]
    assert "process 1 of 2 has examples of split 'test' that differ from those of process 0" in found[0][2]


@pytest.mark.parametrize(
    ("what", "said"), [("ckpt", "weights in the checkpoint"), ("config", "settings in the config")]
)
def test_another_checkpoint_or_config_on_one_of_them_is_said_at_once(
    what: str, said: str, folder: Path, diagnosed: Diagnosed, tmp_path: Path
) -> None:
    place = tmp_path / "mine"
    shutil.copytree(folder, place)
    # Its path is the same for all, as it is where each machine has a disk of its own.
    code = (
        "import os\n"
        "from collapsekit.session import opening\n"
        "real = opening.read_blueprint\n"
        "def odd(config, checkpoint, *rest, **more):\n"
        "    if os.environ.get('RANK') == '1':\n"
        + (
            "        checkpoint = 'other.pt'\n"
            if what == "ckpt"
            else "        config = config.model_copy(update={'metric': 'balanced_accuracy'})\n"
        )
        + "    return real(config, checkpoint, *rest, **more)\n"
        "opening.read_blueprint = odd\n"
    )
    (place / "odd.py").write_text(code)
    state = torch.load(place / "all.pt", weights_only=True)
    torch.save({k: v + 1 for k, v in state.items()}, place / "other.pt")
    found = diagnosed(place, 2, tmp_path / "out", "all.pt", "-p", "vif", "--plugin", "odd.py")
    assert [code for code, _, _ in found] == [2, 2], found
    assert f"process 1 of 2 has {said} that differ from those of process 0" in found[0][2]
    assert not (tmp_path / "out" / "0").exists()  # no encoder ran


def test_half_a_launcher_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match="RANK and MASTER_ADDR and MASTER_PORT are not set"), together():
        pass
    monkeypatch.setenv("WORLD_SIZE", "1")
    with together() as world:
        assert world.size == 1
        assert current() is world


def test_alone_it_is_a_plain_map() -> None:
    world = ProcessGroup()
    made = world.map(lambda i: i * i, range(4))
    assert isinstance(made, Iterator)
    assert list(made) == [0, 1, 4, 9]
    assert world.on_main(lambda: "x") == "x"
    assert world.device("cuda") == "cuda"
    assert ProcessGroup(1, 2).device("cpu") == "cpu"


NETNS = shutil.which("ip") is not None and os.geteuid() == 0 and sys.platform == "linux"


def _ip(*words: str) -> bool:
    return subprocess.run(["ip", *words], capture_output=True, check=False).returncode == 0


@pytest.fixture
def two_hosts() -> Iterator[tuple[str, str]]:
    """Two network namespaces joined by a cable."""
    names = f"ck{os.getpid()}a", f"ck{os.getpid()}b"
    if not NETNS or not all(_ip("netns", "add", n) for n in names):
        pytest.skip("network namespaces cannot be made here")
    try:
        cable = f"v{os.getpid()}a", f"v{os.getpid()}b"
        assert _ip(
            "link", "add", cable[0], "netns", names[0], "type", "veth", "peer", "name", cable[1], "netns", names[1]
        )
        for i, (host, end) in enumerate(zip(names, cable, strict=True)):
            assert _ip("-n", host, "addr", "add", f"10.77.0.{i + 1}/24", "dev", end)
            assert _ip("-n", host, "link", "set", end, "up")
            assert _ip("-n", host, "link", "set", "lo", "up")
        yield names
    finally:
        for n in names:
            _ip("netns", "del", n)


@pytest.mark.slow
def test_across_two_hosts(folder: Path, tmp_path: Path, two_hosts: tuple[str, str]) -> None:
    args = ["diagnose", "-p", "vif", "-p", "reliance", "--set", "reliance.draws=4", "--json"]
    env = {**os.environ, "PYTHONPATH": str(several.ROOT), "HEARD": str(tmp_path), "OMP_NUM_THREADS": "1"}
    there = {"MASTER_ADDR": "10.77.0.1", "MASTER_PORT": "29511", "WORLD_SIZE": "2"}
    running = []
    for rank, host in enumerate(two_hosts):
        own = {**env, **there, "RANK": str(rank), "GLOO_SOCKET_IFNAME": f"v{os.getpid()}{'ab'[rank]}"}
        command = ["ip", "netns", "exec", host, sys.executable, "-m", "collapsekit", *args]
        running.append(
            subprocess.Popen(command, cwd=folder, env=own, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
    said = [p.communicate(timeout=120) for p in running]
    assert [p.returncode for p in running] == [0, 0], said
    alone = subprocess.run(
        [sys.executable, "-m", "collapsekit", *args], cwd=folder, env=env, capture_output=True, text=True, check=True
    )
    assert said[0][0] == alone.stdout
    assert json.loads(alone.stdout)["subject"]["examples"] == 100
    assert said[1][0] == ""


FAILING = """
from collapsekit import Result, probe
from collapsekit.distributed.process_group import current

def fail(*_):
    raise RuntimeError("no kernel for it")

def of_the_second():
    return fail() if current().rank == 1 else None

@probe("failing", summary="s", definition="d", source="s", cannot="c")
def run(adapter, features, *, settings):
    yield Result(name="failing.half", probe="failing", definition="d", source="s", value=1.0)
    {}
"""


@pytest.fixture(scope="module")
def without(folder: Path, diagnosed: Diagnosed, tmp_path_factory: pytest.TempPathFactory) -> Report:
    """The report of one process without a failing probe."""
    place = tmp_path_factory.mktemp("without")
    diagnosed(folder, 1, place, "--probe=vif", "-f", "json")
    return Report.load(place / "report" / "report.json")


@pytest.mark.parametrize("where", ["fail()", "list(current().map(fail, range(2)))", "of_the_second()"])
def test_an_error_in_a_probe_is_the_same_skipped_result_of_all(
    folder: Path, diagnosed: Diagnosed, tmp_path: Path, without: Report, where: str
) -> None:
    """In all of them, in one piece of what is shared, and at the end in one alone; the rest is as without it."""
    (tmp_path / "failing.py").write_text(FAILING.format(where))
    args = ("--probe=vif", "--probe=failing", "--plugin", str(tmp_path / "failing.py"), "-f", "json")
    found = diagnosed(folder, 2, tmp_path, *args, COLLAPSEKIT_RAISE="")
    assert [code for code, _, _ in found] == [2, 2], found
    report = Report.load(tmp_path / "report" / "report.json")
    (failed,) = [r for r in report.results if r.probe == "failing"]
    assert failed.error is not None
    assert failed.error.startswith("RuntimeError in failing.py line ")
    assert "".join(err for _, _, err in found).count("Traceback") == 1
    assert [r for r in report.results if r.probe == "vif"] == list(without.results)


def test_where_one_fails_alone_in_the_middle_all_end(folder: Path, diagnosed: Diagnosed, tmp_path: Path) -> None:
    line = "of_the_second(); current().on_main(lambda: 1)"
    (tmp_path / "failing.py").write_text(FAILING.format(line))
    args = ("--probe=vif", "--probe=failing", "--plugin", str(tmp_path / "failing.py"), "-f", "json")
    found = diagnosed(folder, 2, tmp_path, *args, COLLAPSEKIT_RAISE="")
    assert all(code != 0 for code, _, _ in found), found
    assert "no kernel for it" in found[1][2]
    assert not (tmp_path / "report").exists()


ENDING = """import os, signal
from collapsekit.ext import Measure, declare, probe

ENDED = declare(Measure("zz_ends.count", definition="d", source="s"))

@probe("zz_ends", summary="s", definition="d", source="s", cannot="c")
def run(session):
    if os.environ.get("ENDS"):
        os.kill(os.getpid(), signal.SIGKILL)
    yield ENDED.result(1.0)
"""


@pytest.mark.slow
def test_several_processes_resume_what_several_left(folder: Path, diagnosed: Diagnosed, tmp_path: Path) -> None:
    plugin = tmp_path / "ending.py"
    plugin.write_text(ENDING)
    args = ("-p", "spectrum", "-p", "vif", "-p", "zz_ends", "--plugin", str(plugin), "-f", "json")
    whole = diagnosed(folder, 2, tmp_path / "whole", *args)
    assert [code for code, _, _ in whole] == [0, 0], whole
    ended = diagnosed(folder, 2, tmp_path / "again", *args, ENDS="1")
    assert all(code != 0 for code, _, _ in ended)
    assert not (tmp_path / "again" / "report" / "report.json").exists()
    left = {p.name for p in (tmp_path / "again" / "report" / "unfinished").iterdir()}
    assert {"spectrum", "vif"} <= {name.partition(".")[0] for name in left}
    resumed = diagnosed(folder, 2, tmp_path / "again", *args, "--resume")
    assert [code for code, _, _ in resumed] == [0, 0], resumed
    assert "not taken up" not in resumed[0][2]
    assert "measured again" not in resumed[0][2]
    for name in ("report.json", "records.safetensors"):
        assert (tmp_path / "again" / "report" / name).read_bytes() == (
            tmp_path / "whole" / "report" / name
        ).read_bytes()
    assert not (tmp_path / "again" / "report" / "unfinished").exists()


# Blocks of 64 rows, so that a hundred examples are many; and each process writes down what it sends.
COUNTED = """import os, pathlib, pickle
import torch.distributed as dist
from collapsekit.ext import Measure, declare, probe
from collapsekit.stats.linalg import moments

moments.ROWS, moments.BLOCK = 4, 64
place = pathlib.Path(os.environ["HEARD"]) / f"sent{os.environ.get('RANK', '0')}"
objects, tensors = dist.all_gather_object, dist.broadcast

def gather(found, value, *rest, **more):
    with place.open("a") as f:
        f.write(f"{len(pickle.dumps(value))}\\n")
    return objects(found, value, *rest, **more)

def send(value, src, **more):
    if src == int(os.environ["RANK"]):
        with place.open("a") as f:
            f.write(f"{value.nbytes}\\n")
    return tensors(value, src=src, **more)

dist.all_gather_object, dist.broadcast = gather, send

TRACE = declare(Measure("zz_trace.trace", definition="d", source="s"))

@probe("zz_trace", summary="s", definition="d", source="s", cannot="c", reads="sums", default=False)
def run(session):
    for m in session.modalities:
        whole, left = session.features.moments_of(m)
        yield TRACE.result(float(whole.scatter.trace()), modality=m, note=str([float(x.scatter.trace()) for x in left]))

@probe("zz_wrong", summary="s", definition="d", source="s", cannot="c", reads="sums", default=False)
def wrong(session):
    yield TRACE.result(float(session.features.fused.sum()))
"""


@pytest.fixture(scope="module")
def many(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, and 1,100 examples: seventeen of such blocks and a part of one."""
    project = tmp_path_factory.mktemp("many")
    problem = make_problem(project, noise=["audio"], sizes={"train": 60, "val": 60, "test": 1100}, steps=5)
    shutil.copy(folder / "heard.py", project)
    torch.save(problem.model.state_dict(), project / "all.pt")
    # No batch ends with a block.
    (project / "collapsekit.yaml").write_text(CONFIG.replace("batch_size: 16", "batch_size: 9"))
    (project / "counted.py").write_text(COUNTED)
    return project


def sent(place: Path, rank: int) -> int:
    return sum(int(line) for line in (place / f"sent{rank}").read_text().split())


@pytest.mark.parametrize("fusion", ["fusion", "fusion:input"])
def test_sums_travel_and_the_report_has_the_bytes_of_one_process(
    many: Path, diagnosed: Diagnosed, tmp_path: Path, fusion: str
) -> None:
    """Also where the fused representation is the features side by side, which is told without any row of others."""
    project = tmp_path / "project"
    shutil.copytree(many, project)
    text = (project / "collapsekit.yaml").read_text()
    (project / "collapsekit.yaml").write_text(text.replace("fusion: fusion", f"fusion: '{fusion}'"))
    args = ("-q", "-f", "json", "-p", "vif", "-p", "zz_trace", "--plugin", "counted.py")
    for size in (1, 2, 3):
        found = diagnosed(project, size, tmp_path / str(size), *args)
        assert [code for code, _, _ in found] == [0] * size, found
    reports = [(tmp_path / str(size) / "report" / "report.json").read_bytes() for size in (1, 2, 3)]
    assert reports[0] == reports[1] == reports[2]
    assert (b"only concatenates" in reports[0]) == (fusion != "fusion")
    # Each example was run by one process, but for the batches in which two shares meet, and the first one.
    alone = sum(batches(tmp_path / "1", 0))
    shared = [sum(batches(tmp_path / "3", rank)) for rank in range(3)]
    assert sum(shared) < alone + 3 * 9 + 2 * (shared[0] + shared[1] + shared[2] - 1100) / 3
    assert max(shared) < 0.6 * alone


def test_what_is_sent_does_not_grow_with_the_examples(many: Path, diagnosed: Diagnosed, tmp_path: Path) -> None:
    """Sums are d² numbers a group and node of the tree; beside them go the outputs, which every report is made of."""
    args = ("-q", "-f", "json", "--plugin", "counted.py", "-p", "vif")
    found = {}
    for limit in (550, 1100):
        place = tmp_path / str(limit)
        assert [code for code, _, _ in diagnosed(many, 2, place, *args, "--limit", str(limit))] == [0, 0]
        found[limit] = [sent(place, rank) for rank in range(2)]
    d, groups, outputs = 12, 16, 3 * 4
    node = 8 * groups * (1 + d + d * d)
    most = 6 * node + 20_000  # beside them words: digests, settings, names of places
    for limit, of_each in found.items():
        for own in of_each:
            assert own < most + outputs * limit / 2 + outputs * 64, (limit, own, most)
    # Twice the examples: no more than two nodes more, and the outputs.
    assert all(b - a < 2 * node + outputs * 400 for a, b in zip(found[550], found[1100], strict=True)), (found, node)


def test_a_probe_that_reads_rows_though_it_said_sums_has_them_not(
    many: Path, diagnosed: Diagnosed, tmp_path: Path
) -> None:
    args = ("-f", "json", "--plugin", "counted.py", "-p", "vif", "-p", "zz_wrong")
    found = diagnosed(many, 2, tmp_path, *args, COLLAPSEKIT_RAISE="")
    assert [code for code, _, _ in found] == [2, 2], found
    report = Report.load(tmp_path / "report" / "report.json")
    (failed,) = [r for r in report.results if r.probe == "zz_wrong"]
    assert failed.error is not None


def test_where_one_probe_reads_rows_they_travel(many: Path, diagnosed: Diagnosed, tmp_path: Path) -> None:
    args = ("-q", "-f", "json", "--plugin", "counted.py", "-p", "vif", "-p", "spectrum")
    for size in (1, 2):
        found = diagnosed(many, size, tmp_path / str(size), *args)
        assert [code for code, _, _ in found] == [0] * size, found
    one, two = ((tmp_path / str(size) / "report" / "report.json").read_bytes() for size in (1, 2))
    assert one == two
    assert sent(tmp_path / "2", 0) > 1100 / 2 * (12 + 5 + 4) * 4
