"""What reading each hostile file costs: python -m tests.hostile [PART OF A NAME ...]

Seconds of computing and peak memory of this process and of the child that looks into the file, each file in a process of
its own, and what came of it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

from tests.hostile.catalogue import FILES, load_families

_READ = """
import json, resource, sys
from collapsekit.checkpoint.read import read_checkpoint
from collapsekit.errors import CollapsekitError
who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
def seconds():
    return [u.ru_utime + u.ru_stime for u in map(resource.getrusage, who)]
before = seconds()
try:
    said = "read: " + read_checkpoint(sys.argv[1]).note
except CollapsekitError as e:
    said = "refused: " + str(e)
spent = [b - a for a, b in zip(before, seconds())]
print(json.dumps([*spent, *(resource.getrusage(w).ru_maxrss / 1024 for w in who), said]))
"""


def main(parts: list[str]) -> None:
    """One line a file."""
    load_families()
    print(f"{'file':62}{'own s':>7}{'child s':>9}{'own MB':>8}{'child MB':>10}  outcome")
    for name, file in FILES.items():
        if parts and not any(part in name for part in parts):
            continue
        with tempfile.TemporaryDirectory() as place, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            folder = Path(place) / "files"
            folder.mkdir()
            command = [sys.executable, "-c", _READ, str(file.make(folder))]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        try:
            own, child, own_peak, child_peak, said = json.loads(done.stdout)
        except ValueError:
            print(f"{name:62} {done.stderr[-200:]!r}")
            continue
        outcome = ascii(said.replace(place, ""))[1:121]
        print(f"{name:62}{own:>7.2f}{child:>9.2f}{own_peak:>8.0f}{child_peak:>10.0f}  {outcome}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
