"""Which config is used: by its name, or by where the user stands; never by where a checkpoint lies."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from collapsekit.config import discovery
from collapsekit.config.discovery import (
    config_in,
    config_line,
    configs_beside,
    find_config,
    nearest_config,
    path_from_here,
    search_folders,
)
from collapsekit.config.load import load_config
from collapsekit.errors import ConfigError

TABLE = '[tool.collapsekit]\nfusion = "f"\n'
NAMES = {
    "yaml": ("collapsekit.yaml", "fusion: f\n"),
    "table": ("pyproject.toml", TABLE),
    "toml": ("pyproject.toml", ""),
}


def put(folder: Path, *kinds: str) -> Path:
    """Files of these kinds in the folder; the path of the first."""
    folder.mkdir(parents=True, exist_ok=True)
    for kind in kinds:
        name, text = NAMES[kind]
        (folder / name).write_text(text)
    return folder / NAMES[kinds[0]][0]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of the user's own, with a folder three levels down as the working directory."""
    made = tmp_path / "home"
    (made / "a" / "b").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(made))
    monkeypatch.setenv("USERPROFILE", str(made))
    monkeypatch.chdir(made / "a" / "b")
    return made


# -- where is looked ----------------------------------------------------------------------------------------------------


def test_up_to_the_home_directory_and_no_further(home: Path) -> None:
    assert search_folders() == [home / "a" / "b", home / "a", home]
    put(home.parent, "yaml")
    assert nearest_config() is None
    for folder in reversed(search_folders()):
        made = put(folder, "yaml")
        assert nearest_config() == made


@pytest.mark.parametrize("marker", ["folder", "file", "dangling"])
def test_up_to_the_repository_s_root_and_no_further(marker: str, home: Path) -> None:
    git = home / "a" / ".git"
    if marker == "folder":
        git.mkdir()
    elif marker == "file":  # of a worktree or a submodule
        git.write_text("gitdir: elsewhere")
    else:
        git.symlink_to("nowhere")
    assert search_folders() == [home / "a" / "b", home / "a"]
    put(home, "yaml")
    assert nearest_config() is None
    made = put(home / "a", "table")
    assert nearest_config() == made


def test_a_home_that_is_reached_by_a_link_is_the_same_one(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = home.parent / "link"
    link.symlink_to(home)
    monkeypatch.setenv("HOME", str(link))
    assert search_folders()[-1] == home


def test_outside_of_home_and_repository_the_working_directory_alone(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """/tmp/collapsekit.yaml is anybody's."""
    (home.parent / "elsewhere").mkdir()
    monkeypatch.chdir(home.parent / "elsewhere")
    own = os.path.lexists
    monkeypatch.setattr(
        discovery.os.path, "lexists", lambda p: False if Path(p).name == ".git" else own(p)
    )  # of the tests' own folder
    put(home.parent, "yaml")
    assert search_folders() == [home.parent / "elsewhere"]
    assert nearest_config() is None
    with pytest.raises(ConfigError, match=r"there is no collapsekit\.yaml in \S+elsewhere: write one"):
        find_config(None, None)


def test_a_working_directory_that_is_gone_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(ConfigError, match="the working directory cannot be read"):
        find_config(None, None)
    assert path_from_here("/somewhere/c.yaml") == "c.yaml"
    monkeypatch.chdir(tmp_path)


FOLDERS = st.lists(st.sets(st.sampled_from(["yaml", "table", "toml"])), min_size=3, max_size=3)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(FOLDERS, st.sampled_from([None, 0, 1]))
def test_the_nearest_folder_wins_and_in_one_folder_yaml(home: Path, kinds: list[set[str]], root: int | None) -> None:
    folders = [home / "a" / "b", home / "a", home]  # nearest first
    want = None
    for i, folder in enumerate(folders):
        for name in ("collapsekit.yaml", "pyproject.toml"):
            (folder / name).unlink(missing_ok=True)
        (folder / ".git").unlink(missing_ok=True)
        if i == root:
            (folder / ".git").touch()
        if kinds[i]:
            put(folder, *sorted(kinds[i] - {"table"}), *(kinds[i] & {"table"}))  # the table last: it is what is written
    for i, folder in enumerate(folders[: 3 if root is None else root + 1]):
        if want is None and "yaml" in kinds[i]:
            want = folder / "collapsekit.yaml"
        elif want is None and "table" in kinds[i]:
            want = folder / "pyproject.toml"
    assert nearest_config() == want


# -- a stranger's -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["beside", "in the folder", "link to it", "link to the folder"])
@pytest.mark.parametrize("kind", ["yaml", "table"])
def test_a_config_beside_a_checkpoint_is_not_used_and_the_line_to_type_is_said(how: str, kind: str, home: Path) -> None:
    stranger = home / "stranger's files"
    theirs = put(stranger, kind)
    (stranger / "ckpt.pt").touch()
    checkpoint = Path("../../stranger's files/ckpt.pt")
    if how == "in the folder":
        checkpoint = checkpoint.parent
    elif how == "link to it":
        Path("mine.pt").symlink_to(stranger / "ckpt.pt")
        checkpoint = Path("mine.pt")
    elif how == "link to the folder":
        Path("folder").symlink_to(stranger)
        checkpoint = Path("folder/ckpt.pt")
    with pytest.raises(ConfigError) as caught:
        find_config(None, checkpoint, "repair")
    line = str(caught.value).split("`")[1]
    words = shlex.split(line)
    assert words[:4] == ["collapsekit", "repair", str(checkpoint), "--config"]
    assert Path(words[4]).samefile(theirs)
    assert find_config(words[4], checkpoint) == Path(words[4])  # what is typed works
    own = put(home / "a", "yaml")
    assert find_config(None, checkpoint) == own
    said = config_line(own, checkpoint)
    assert said.startswith("Config: ../collapsekit.yaml (")
    assert "beside the checkpoint, is not used" in said
    assert "\n" not in said
    assert config_line(own, checkpoint, named=True) == "Config: ../collapsekit.yaml"


def test_a_checkpoint_whose_name_leads_nowhere_has_nothing_beside_it(home: Path) -> None:
    Path("loop").symlink_to("loop")
    for name in (None, "loop", "a\0b", "x" * 300, "none", "none/none"):
        assert configs_beside(name) == []
    put(home / "bad", "toml")
    (home / "bad" / "pyproject.toml").write_text("a = ")
    assert configs_beside(home / "bad" / "c.pt") == []


# -- what others can write ----------------------------------------------------------------------------------------------

posix = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no owners and rights as POSIX has them")


def refused(file: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        nearest_config()
    said = str(caught.value)
    assert said.startswith(f"{file} was found and is not used, as ")
    assert said.endswith(f"name it with `--config {shlex.quote(path_from_here(file))}`.")
    assert find_config(file, None) == file  # by its name it is used
    return said


@posix
@pytest.mark.parametrize("kind", ["yaml", "table"])
@pytest.mark.parametrize("where", ["file", "folder", "sticky folder"])
def test_what_everybody_may_write_is_refused(where: str, kind: str, home: Path) -> None:
    file = put(home / "a", kind)
    place = file if where == "file" else file.parent
    place.chmod(0o1777 if where.startswith("sticky") else 0o666 if where == "file" else 0o777)
    assert "everybody may write to" in refused(file)
    place.chmod(0o664 if where == "file" else 0o775)  # a group's own: as systems with a group for each user have it
    assert nearest_config() == file


@posix
@pytest.mark.parametrize("where", ["target", "target's folder", "link's folder", "folder of a link between"])
def test_links_are_followed_to_what_others_may_write(where: str, home: Path) -> None:
    target, between = put(home / "target", "yaml"), home / "between"
    between.mkdir()
    (between / "link").symlink_to("../target/collapsekit.yaml")
    link = home / "a" / "collapsekit.yaml"
    link.symlink_to(between / "link")
    assert nearest_config() == link
    places = {"target": target, "target's folder": target.parent, "link's folder": link.parent}
    place = places.get(where, between)
    place.chmod(place.stat().st_mode | 0o002)
    assert str(place) in refused(link)


@posix
@pytest.mark.parametrize("owner", [0, 12345])
@pytest.mark.parametrize("where", ["file", "folder", "link", "target"])
def test_what_belongs_to_another_user_is_refused(
    owner: int, where: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = put(home / "target", "yaml")
    file = home / "a" / "collapsekit.yaml"
    if where in ("link", "target"):
        file.symlink_to(target)
    else:
        put(home / "a", "yaml")
    theirs = {"folder": file.parent, "target": target}.get(where, file)
    real = os.lstat

    def told(path: Path) -> os.stat_result:
        info = list(real(path))
        info[4] = owner if Path(path) == theirs else os.geteuid()
        return os.stat_result(info)

    monkeypatch.setattr(discovery.os, "lstat", told)
    if owner == 0:
        assert nearest_config() == file
    else:
        assert "belongs to another user (uid 12345)" in refused(file)


@posix
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root gives files away")
def test_a_file_that_was_given_away_is_refused(home: Path) -> None:
    file = put(home / "a", "yaml")
    os.chown(file, 12345, -1)
    assert "it belongs to another user (uid 12345)" in refused(file)
    os.chown(file, os.geteuid(), -1)
    assert nearest_config() == file


@posix
def test_a_refused_config_is_not_passed_over_for_one_further_up(home: Path) -> None:
    put(home, "yaml")
    put(home / "a", "yaml").chmod(0o666)
    with pytest.raises(ConfigError, match="is not used"):
        nearest_config()


@posix
def test_a_config_that_changes_while_it_is_looked_at_is_an_error_not_a_loop(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = home / "loop"
    loop.symlink_to("loop")
    assert len(list(discovery._on_the_way(loop))) < 100
    put(home / "a", "yaml")

    def gone(path: Path) -> os.stat_result:
        raise FileNotFoundError(2, "No such file or directory", str(path))

    monkeypatch.setattr(discovery.os, "lstat", gone)
    with pytest.raises(ConfigError, match=r"config .* cannot be read: No such file"):
        nearest_config()


def test_where_there_are_no_owners_and_no_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = put(home / "a" / "b", "yaml")
    file.chmod(0o666)
    monkeypatch.delattr(os, "geteuid", raising=False)
    assert nearest_config() == file

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    assert home.parent in search_folders()  # nothing but a repository's root ends it
    assert nearest_config() == file


# -- how it is spoken of ------------------------------------------------------------------------------------------------


def test_paths_are_relative_to_where_the_user_stands(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert path_from_here(home / "a" / "c.yaml") == "../c.yaml"
    assert path_from_here("x/c.yaml") == "x/c.yaml"
    assert path_from_here(Path("x/../c.yaml")) == "c.yaml"
    (home / "real").mkdir()
    (home / "real" / "c.yaml").symlink_to("target.yaml")
    (home / "link").symlink_to(home / "real")
    assert path_from_here(home / "link" / "c.yaml") == "../../real/c.yaml"  # by its own name, not its target's

    def other_drive(*_: object) -> str:
        raise ValueError("path is on mount 'D:', start on mount 'C:'")

    monkeypatch.setattr(discovery.os.path, "relpath", other_drive)
    assert path_from_here(home / "a" / "c.yaml") == "c.yaml"


def test_a_config_knows_its_file_wherever_it_is_read_from(home: Path) -> None:
    file = put(home / "a", "yaml")
    assert load_config("../collapsekit.yaml").file == Path.cwd() / "../collapsekit.yaml"
    assert path_from_here(load_config(file).file or "") == path_from_here(load_config("../collapsekit.yaml").file or "")
    assert config_in(home / "a") == file
