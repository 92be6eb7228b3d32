"""Entries that were damaged, forged or put there by others: never used, never a fault, and the report is the same."""

from __future__ import annotations

import json
import math
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from collapsekit.context import Progress
from collapsekit.readouts import cache as baseline_cache
from collapsekit.readouts.cache import _entry_digest, load_baseline, private_folder, store_baseline
from tests.problems import Problem
from tests.readouts.test_unimodal import project, run, steps  # noqa: F401

ABOUT = {"rate": 1e-3, "epochs": 2, "loss": 0.5}
STATE = {
    "w": torch.linspace(-1, 1, 12).reshape(3, 4),
    "n": torch.tensor(7),
    "half": torch.ones(3, dtype=torch.bfloat16),
}
pytestmark = pytest.mark.usefixtures("brief_joint")


def forged(key: str, state: dict[str, Tensor], about: Any) -> bytes:
    """An entry as one would write it who knows how."""
    text = json.dumps(about)
    return save(state, metadata={"about": text, "sha256": _entry_digest(key, state, text)})


def same(found: Any) -> bool:
    return found[1] == ABOUT and all(torch.equal(found[0][k], v) for k, v in STATE.items())


def test_whatever_byte_is_flipped_the_entry_is_whole_or_absent(tmp_path: Path) -> None:
    store_baseline(tmp_path / "c", "k", STATE, ABOUT)
    file = tmp_path / "c" / "k.safetensors"
    data = file.read_bytes()
    draw = random.Random(0)
    flips = [(at, 1 << draw.randrange(8)) for at in draw.sample(range(len(data)), min(150, len(data)))]
    refused = 0
    for at, bit in flips:
        file.write_bytes(data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :])
        found = load_baseline(tmp_path / "c", "k", STATE)
        refused += found is None
        assert found is None or same(found), at
    assert refused > 0.8 * len(flips)  # the others are white space of the header
    for length in (0, 1, 7, 8, 9, len(data) // 2, len(data) - 1):
        file.write_bytes(data[:length])
        assert load_baseline(tmp_path / "c", "k", STATE) is None
    file.write_bytes(data + b"\0")
    assert load_baseline(tmp_path / "c", "k", STATE) is None
    file.write_bytes(data)
    assert same(load_baseline(tmp_path / "c", "k", STATE))


LARGE = "[" * 100_000


@pytest.mark.parametrize(
    ("state", "about"),
    [
        ({**STATE, "more": torch.ones(1)}, ABOUT),
        ({k: v for k, v in STATE.items() if k != "w"}, ABOUT),
        ({**STATE, "w": STATE["w"].T.contiguous()}, ABOUT),
        ({**STATE, "w": STATE["w"].double()}, ABOUT),
        ({**STATE, "w": STATE["w"] * math.nan}, ABOUT),
        ({**STATE, "half": STATE["half"] * math.inf}, ABOUT),
        (STATE, {**ABOUT, "rate": "0.001"}),
        (STATE, {**ABOUT, "rate": -1.0}),
        (STATE, {**ABOUT, "rate": math.nan}),
        (STATE, {**ABOUT, "epochs": True}),
        (STATE, {**ABOUT, "epochs": -1}),
        (STATE, {**ABOUT, "loss": "low"}),
        (STATE, {**ABOUT, "more": 1}),
        (STATE, {"rate": 1e-3}),
        (STATE, [1]),
    ],
)
def test_what_is_not_what_was_asked_for_is_absent_though_its_digest_is_right(
    state: dict[str, Tensor], about: Any, tmp_path: Path
) -> None:
    (tmp_path / "k.safetensors").write_bytes(forged("k", STATE, ABOUT))
    assert same(load_baseline(tmp_path, "k", STATE))
    (tmp_path / "k.safetensors").write_bytes(forged("k", state, about))
    assert load_baseline(tmp_path, "k", STATE) is None


def test_an_entry_of_another_key_or_another_layout_is_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store_baseline(tmp_path, "other", STATE, ABOUT)
    (tmp_path / "other.safetensors").rename(tmp_path / "k.safetensors")
    assert load_baseline(tmp_path, "k", STATE) is None
    store_baseline(tmp_path, "k", STATE, ABOUT)
    monkeypatch.setattr(baseline_cache, "LAYOUT", -1)
    assert load_baseline(tmp_path, "k", STATE) is None


@pytest.mark.parametrize(
    "header", [LARGE, '{"__metadata__": 3}', '{"__metadata__": {"about": 3, "sha256": 4}}', '"x"', "\xff", "1" * 5000]
)
def test_headers_made_to_hurt_are_absent(header: str, tmp_path: Path) -> None:
    raw = header.encode("latin-1")
    (tmp_path / "k.safetensors").write_bytes(len(raw).to_bytes(8, "little") + raw)
    assert load_baseline(tmp_path, "k", STATE) is None
    (tmp_path / "k.safetensors").write_bytes(b"\xff" * 8 + raw)
    assert load_baseline(tmp_path, "k", STATE) is None


# -- the folder ---------------------------------------------------------------------------------------------------------

posix = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no owners and rights as POSIX has them")


@posix
def test_the_folder_is_made_the_user_s_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        store_baseline(tmp_path / "a" / "c", "k", STATE, ABOUT)
    finally:
        os.umask(before)
    assert (tmp_path / "a" / "c").stat().st_mode & 0o777 == 0o700
    assert same(load_baseline(tmp_path / "a" / "c", "k", STATE))


@posix
@pytest.mark.parametrize("how", ["group", "others", "link", "file", "owner"])
def test_a_folder_that_others_may_write_to_is_not_used(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "c"
    store_baseline(folder, "k", STATE, ABOUT)
    assert private_folder(folder) == (folder, None)
    if how in ("group", "others"):
        folder.chmod(0o770 if how == "group" else 0o702)
    elif how == "link":
        folder.rename(tmp_path / "real")
        folder.symlink_to(tmp_path / "real")
    elif how == "file":
        folder = folder / "k.safetensors"
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
    found, why = private_folder(folder)
    assert found is None
    assert why is not None
    assert str(folder) in why
    assert load_baseline(folder, "k", STATE) is None
    store_baseline(folder, "new", STATE, ABOUT)
    assert not list(tmp_path.rglob("new*"))


@posix
def test_no_link_is_followed_to_an_entry(tmp_path: Path) -> None:
    store_baseline(tmp_path / "c", "k", STATE, ABOUT)
    entry, elsewhere = tmp_path / "c" / "k.safetensors", tmp_path / "elsewhere"
    entry.rename(elsewhere)
    held = elsewhere.read_bytes()
    entry.symlink_to(elsewhere)
    assert load_baseline(tmp_path / "c", "k", STATE) is None
    store_baseline(tmp_path / "c", "k", {**STATE, "n": torch.tensor(8)}, ABOUT)
    assert elsewhere.read_bytes() == held  # nor written through
    assert not entry.is_symlink()
    entry.unlink()
    os.mkfifo(entry)
    assert load_baseline(tmp_path / "c", "k", STATE) is None  # and not waited for


# -- reports ------------------------------------------------------------------------------------------------------------


class Listening(Progress):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def flip(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:-3] + bytes([data[-3] ^ 64]) + data[-2:])


def poison(path: Path) -> None:
    """Other weights under the digest as it was before: all that was checked once."""
    state = {k: v * 0 if v.is_floating_point() else v for k, v in load_file(path).items()}
    path.write_bytes(forged(path.stem, {"unknown.name": torch.ones(2), **state}, ABOUT))


def swap(path: Path) -> None:
    other = next(p for p in path.parent.glob("*.safetensors") if p != path)
    path.write_bytes(other.read_bytes())


def link(path: Path) -> None:
    elsewhere = path.parent.parent / path.name
    path.rename(elsewhere)
    flip(elsewhere)
    path.symlink_to(elsewhere)


@pytest.mark.parametrize("damage", [flip, poison, swap, link, lambda p: p.write_bytes(p.read_bytes()[:100])])
def test_the_report_is_that_of_no_cache(damage: Callable[[Path], Any], project: Problem, steps: list[int]) -> None:  # noqa: F811
    plain = run(project)
    trained, folder = steps[0], project.folder / "cache"
    entries = sorted(folder.glob("*.safetensors"))
    assert len(entries) == 2
    damage(entries[0])
    assert run(project).to_json() == plain.to_json()
    assert steps[0] == trained + trained // 2  # that one is trained anew
    assert run(project).to_json() == plain.to_json()
    assert steps[0] == trained + trained // 2  # and kept


@posix
def test_a_folder_of_others_is_said_once_and_trained_without(project: Problem, steps: list[int]) -> None:  # noqa: F811
    plain, trained = run(project), steps[0]
    (project.folder / "cache").chmod(0o777)
    before = {p: p.read_bytes() for p in (project.folder / "cache").iterdir()}
    heard = Listening()
    assert run(project, progress=heard, probes=["prefix_gap", "utilisation"]).find(
        "prefix_gap.gap", "image"
    ) == plain.find("prefix_gap.gap", "image")
    assert sum("is not used, as others may write to it" in n for n in heard.notes) == 1
    assert steps[0] >= 2 * trained
    assert {p: p.read_bytes() for p in (project.folder / "cache").iterdir()} == before
