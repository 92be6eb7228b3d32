"""Write requirements-hashed.txt: all that collapsekit needs to run and to be built, each version with its wheels' SHA-256.

    python .ci/hash_requirements.py

Versions are those of constraints.txt and, of what these bring with them, the newest that fit. The wheels are those for Linux
on x86-64 and the versions of Python below; nothing is installed. Run it where pip finds torch's CPU builds (as by
PIP_EXTRA_INDEX_URL); other packages are taken from wherever pip is told to look, so look at what changed before you commit.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
OUTPUT = Path(__file__).with_name("requirements-hashed.txt")
PYTHONS = ("3.11", "3.12", "3.13")
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
# torch's builds for the CPU alone are on an index of their own, with a wheel for each Python; on the usual one, torch for
# Linux brings several gigabytes of CUDA packages. The digests are that index's own. Raise all three with constraints.txt.
TORCH = {
    "3.11": "6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b",
    "3.12": "4ca4a9394b0c771238a4f73590fdbbc4debad85ed0fa63d026ae1b085da7d6e2",
    "3.13": "3fbf9c9d1f3c10c2d59d04aca426dee9ccc6ceb32d255c61e93acc3b4f75fae6",
}
HEADER = f"""\
# Made by .ci/hash_requirements.py: what collapsekit needs to run and to be built, for Linux on x86-64 (glibc 2.28 or later)
# and CPython {", ".join(PYTHONS)}. torch is its build for the CPU alone, from the index of these.
#   python -m pip install --require-hashes -r .ci/requirements-hashed.txt
#   python -m pip install --no-deps --no-build-isolation .
"""


def resolved(python: str, *wanted: str) -> dict[str, tuple[str, str]]:
    """Name -> version and SHA-256 of what pip would install for that Python."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet"]
        command += ["--only-binary=:all:", "--python-version", python, "--target", folder, "--report", str(report)]
        command += [word for name in PLATFORMS for word in ("--platform", name)]
        subprocess.run([*command, *wanted], check=True)
        found: list[dict[str, Any]] = json.loads(report.read_text())["install"]
    return {
        item["metadata"]["name"].lower().replace("_", "-"): (
            item["metadata"]["version"],
            item["download_info"]["archive_info"]["hashes"]["sha256"],
        )
        for item in found
    }


def main() -> None:
    """Ask pip for each Python; write the file."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [*project["project"]["dependencies"], *project["build-system"]["requires"]]
    first = resolved(PYTHONS[0], "-c", str(ROOT / "constraints.txt"), *wanted)
    version, digest = first.pop("torch")
    if not version.endswith("+cpu") or digest != TORCH[PYTHONS[0]]:
        raise SystemExit(f"pip found torch {version} with SHA-256 {digest}: see TORCH in {__file__}.")
    digests = {name: {sha} for name, (_, sha) in first.items()}
    for python in PYTHONS[1:]:
        for name, (_, sha) in resolved(python, "--no-deps", *(f"{n}=={v}" for n, (v, _) in first.items())).items():
            digests[name].add(sha)
    pins = {"torch": (version, set(TORCH.values()))} | {n: (first[n][0], found) for n, found in digests.items()}
    lines = [HEADER]
    for name, (pinned, found) in sorted(pins.items()):
        lines.append(
            f"{name}=={pinned} \\\n" + " \\\n".join(f"    --hash=sha256:{sha}" for sha in sorted(found)) + "\n"
        )
    OUTPUT.write_text("".join(lines))


if __name__ == "__main__":
    main()
