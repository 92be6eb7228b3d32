"""``baseline update`` by several at once: python -m tests.gating.updating_together ROUNDS FOLDER.

Prints a JSON line a round: the exit code of each, and the SHA-256 of each run that the baseline holds in
the end, and the files there.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path

from collapsekit.cli import app
from collapsekit.gating.baseline import make_baseline, read_run
from collapsekit.report.baseline import Baseline
from tests.gating.making import make_report
from tests.gating.test_baseline import write

SIZE = 4


def update(baseline: Path, report: Path, ready: int) -> None:
    """As typed, once ``ready`` is closed by all who could write to it."""
    for number in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), number)
    os.read(ready, 1)
    app(["baseline", "update", str(baseline), str(report)], prog_name="collapsekit")


def child(baseline: Path, report: Path, ready: int, go: int) -> int:
    """A process that updates."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.close(go)
        update(baseline, report, ready)
    except SystemExit as e:
        code = e.code if isinstance(e.code, int) else 1
    except BaseException:  # noqa: BLE001 - the parent has to hear of it
        traceback.print_exc()
    finally:
        os._exit(code)


def play(folder: Path) -> None:
    """One round: all begin at once."""
    baseline = folder / "baseline.json"
    baseline.write_text(make_baseline([read_run(folder / "0" / "report.json")]).to_json())
    ready, go = os.pipe()
    children = [child(baseline, folder / str(number), ready, go) for number in range(1, SIZE + 1)]
    os.close(ready)
    os.close(go)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
    kept = sorted(run.report.subject.sha256 for run in Baseline.load(baseline).runs)
    left = sorted(p.name for p in folder.iterdir() if p.is_file())
    print(json.dumps({"codes": codes, "kept": kept, "left": left}), flush=True)


if __name__ == "__main__":
    place = Path(sys.argv[2])
    for number in range(SIZE + 1):
        write(place / str(number), make_report(sha=f"weights {number}", training_seed=number))
    for _ in range(int(sys.argv[1])):
        play(place)
