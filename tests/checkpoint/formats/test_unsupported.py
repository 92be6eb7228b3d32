from __future__ import annotations

import io
import lzma
import tarfile
from pathlib import Path

import numpy as np
import pytest

from collapsekit.checkpoint.formats.source import open_file
from collapsekit.checkpoint.formats.unsupported import _MISTAKEN, unfamiliar


def said(tmp_path: Path, content: bytes, members: tuple[str, ...] = ()) -> str:
    path = tmp_path / "w.pt"
    path.write_bytes(content)
    text = unfamiliar(open_file(path), members)
    assert text.startswith(f"{path} is ")
    assert text.endswith(".")
    assert "\n" not in text
    return text


@pytest.mark.parametrize(("magic", "what", "remedy"), _MISTAKEN)
@pytest.mark.parametrize("before", [b"", b" \r\n\t", b"\xef\xbb\xbf\n"])
def test_unsupported_kinds_are_named_with_their_remedy(
    tmp_path: Path, magic: bytes, what: str, remedy: str, before: bytes
) -> None:
    text = said(tmp_path, before + magic + b" and the rest")
    assert text.removeprefix(f"{tmp_path / 'w.pt'} is ") == f"{what}: {remedy}."


def test_files_that_others_wrote(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.arange(3))
    assert "a single NumPy array" in said(tmp_path, buffer.getvalue())
    assert "xz-compressed" in said(tmp_path, lzma.compress(b"x"))


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tar_archives(tmp_path: Path, form: int) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        archive.addfile(tarfile.TarInfo("storages"), io.BytesIO())
    assert "is a tar archive" in said(tmp_path, buffer.getvalue())


def test_the_first_names_in_an_archive(tmp_path: Path) -> None:
    text = said(tmp_path, b"PK\x03\x04", ("read\nme", "x" * 99, "b", "c"))
    assert r"""(it holds 'read\nme', '%s', 'b')""" % ("x" * 60) in text


def test_anything_else_is_shown_by_its_first_bytes(tmp_path: Path) -> None:
    text = said(tmp_path, b"\x1b[31mRED and more")
    assert r"begins with b'\x1b[31mRED'" in text
