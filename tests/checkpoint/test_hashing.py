from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from collapsekit.checkpoint import hashing as digest
from collapsekit.checkpoint.formats.handles import identity
from collapsekit.checkpoint.hashing import sha256_of, sha256_of_all
from collapsekit.errors import RefusedError


def test_of_one_file_its_own(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"x" * 3_000_000)
    assert sha256_of(path) == hashlib.sha256(b"x" * 3_000_000).hexdigest() == sha256_of_all([[path]])


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="needs coreutils")
def test_of_several_that_of_what_sha256sum_prints(tmp_path: Path) -> None:
    for name in ("b", "a", "é"):
        (tmp_path / name).write_text(f"content of {name}")
    program = "LC_ALL=C sha256sum a b é | LC_ALL=C sha256sum"
    want = subprocess.run(program, shell=True, cwd=tmp_path, capture_output=True, text=True, check=True).stdout[:64]
    paths = [[tmp_path / name] for name in ("é", "b", "a")]
    assert sha256_of_all(paths) == sha256_of_all(paths[::-1]) == want


def test_where_the_files_lie_does_not_matter_and_their_names_do(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        for name in ("a", "b"):
            (tmp_path / folder / name).write_text(name)
    one, two = (sha256_of_all([[tmp_path / f / "a"], [tmp_path / f / "b"]]) for f in ("one", "two"))
    assert one == two
    (tmp_path / "two" / "a").rename(tmp_path / "two" / "c")
    assert sha256_of_all([[tmp_path / "two" / "c"], [tmp_path / "two" / "b"]]) != one


def test_a_name_that_is_no_text(tmp_path: Path) -> None:
    for name in ("a", "b\udcff"):
        (tmp_path / name).write_text(name[0])
    assert len(sha256_of_all([[tmp_path / "a"], [tmp_path / "b\udcff"]])) == 64


def test_mostly_holes_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"x" * 10_000)
    os.truncate(path, 5 << 20)
    want = hashlib.sha256(path.read_bytes()).hexdigest()
    assert sha256_of(path) == want
    monkeypatch.setattr(digest, "MAX_HOLES", 1000)
    if path.stat().st_blocks * 512 < 1 << 20:  # a file system with holes
        for read in (sha256_of, digest.read_whole):
            with pytest.raises(
                RefusedError, match=r"a has 5,\d+,\d+ bytes of holes .*, more than the 1,000 that are read"
            ):
                read(path)
    path.write_bytes(b"x" * (3 << 20))
    os.truncate(path, 5 << 20)
    assert sha256_of(path) == hashlib.sha256(path.read_bytes()).hexdigest()  # more is stored than is not


def test_what_changes_while_it_is_hashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"x")
    known = identity(path.stat())
    assert sha256_of(path, known) == hashlib.sha256(b"x").hexdigest()
    with pytest.raises(RefusedError, match="changed while it was being read"):
        sha256_of(path, (*known[:4], 1))
    real = digest._of_stream

    def written(*args: Any) -> str:
        done = real(*args)
        path.write_bytes(b"other")
        return done

    monkeypatch.setattr(digest, "_of_stream", written)
    with pytest.raises(RefusedError, match="changed while it was being read"):
        sha256_of(path)
    with pytest.raises(RefusedError, match="gone cannot be read"):
        sha256_of(tmp_path / "gone")
