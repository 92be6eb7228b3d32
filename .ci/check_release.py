"""Check that a tag may be released: ``python .ci/check_release.py v0.1.0`` says what does not agree, and ends with 1."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def disagreements(root: Path, tag: str) -> Iterator[str]:
    """Yield a sentence for each file that says something else than the tag, or lacks what a release has to say."""
    version = tag.removeprefix("v")
    if not re.fullmatch(r"v\d+\.\d+\.\d+", tag):
        yield f"the tag is {tag!r}, expected vX.Y.Z"
    for path in [root / "pyproject.toml", *sorted(root.glob("plugins/*/pyproject.toml"))]:
        project: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
        name = path.relative_to(root)
        if project["version"] != version:
            yield f"{name} has version {project['version']}, the tag says {version}: change one of them"
        if not str(project.get("urls", {}).get("Repository", "")).startswith("https://"):
            yield f"{name} has no Repository under [project.urls]: write the repository's address there"
    changelog = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    if not re.search(rf"^## {re.escape(version)}(?! \(unreleased\))\s*(\(.+\))?$", changelog, re.M):
        yield f"CHANGELOG.md has no heading '## {version}', or calls it unreleased: say what is in it"
    if not re.search(rf"^version: {re.escape(version)}$", (root / "CITATION.cff").read_text(encoding="utf-8"), re.M):
        yield f"CITATION.cff has another version than {version}: change it"
    if f'set version = "{version}"' not in (root / "recipe" / "meta.yaml").read_text(encoding="utf-8"):
        yield f"recipe/meta.yaml has another version than {version}: change it"


def main(arguments: list[str]) -> int:
    """Check one tag. Returns the exit code."""
    if len(arguments) != 1:
        sys.stderr.write(f"{__doc__}\n")
        return 2
    found = list(disagreements(ROOT, arguments[0]))
    sys.stderr.writelines(f"{sentence}.\n" for sentence in found)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
