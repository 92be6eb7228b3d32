"""docs/robot.md, done word by word in an empty folder: its files, its commands, and what it says that they print."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from collapsekit.config.load import check_config
from collapsekit.config.schema import EpisodesConfig
from collapsekit.io.yaml import parse_yaml
from tests.repository.test_own_model_tutorial import plain_environment, run
from tests.repository.test_tutorials import BLOCK, stands_in

TEXT = (Path(__file__).parents[2] / "docs" / "robot.md").read_text(encoding="utf-8")
FILE = re.compile(r"\A# ([\w.]+\.(?:py|yaml))\n(.*)\Z", re.S)
ONLY_FOLDERS = (
    "-m pip",
    "init policy --data recording",
)  # what takes the extra, and a folder that the page does not make


def _files() -> dict[str, str]:
    """Content by name; a block of YAML without a name is the config."""
    found = {}
    for kind, text in BLOCK.findall(TEXT):
        if kind in ("python", "yaml"):
            named = FILE.match(text)
            found[named[1] if named else "collapsekit.yaml"] = named[2] if named else text
    return found


def test_the_page_has_the_files_that_its_commands_name() -> None:
    files = _files()
    assert sorted(files) == ["ask.py", "by_phase.py", "collapsekit.yaml", "elsewhere.yaml", "my_policy.py", "record.py"]
    assert {kind for kind, _ in BLOCK.findall(TEXT)} == {"bash", "python", "text", "yaml"}
    for name in ("collapsekit.yaml", "elsewhere.yaml"):
        assert check_config(parse_yaml(files[name], name), base=Path()).data.episodes is not None


def test_every_key_stands_on_the_page() -> None:
    listed = re.findall(r"^\| `(\w+)` \| ?(\w*) \|", TEXT.split("## How frames become examples")[1], re.M)
    fields = EpisodesConfig.model_fields
    assert sorted(name for name, _ in listed) == sorted(fields)
    for name, default in listed:
        assert default == (str(fields[name].default) if isinstance(fields[name].default, int) else "")


@pytest.mark.slow
def test_each_step_does_as_it_says(tmp_path: Path) -> None:
    env = plain_environment(tmp_path)
    here = tmp_path / "empty"
    here.mkdir()
    for name, content in _files().items():
        (here / name).write_text(content, encoding="utf-8")
    printed, shown = "", 0
    for kind, text in BLOCK.findall(TEXT):
        if kind == "bash":
            lines = [line for line in text.splitlines() if not any(word in line for word in ONLY_FOLDERS)]
            printed = "".join(run(line, here, env) for line in lines)
        elif kind == "text":
            shown += 1
            assert stands_in(text, printed), (text, printed)
    assert shown == 3
