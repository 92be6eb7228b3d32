"""The benchmarks of speed compare like with like: small versions agree in value. How long they take is not for tests."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from benchmarks.speed import peers, startup
from benchmarks.speed.large import peak, rows
from benchmarks.speed.peers import MissingPeerError, Row
from benchmarks.speed.reliance import by_shapiq, make_game, reliance
from benchmarks.speed.sparse import safetensors_file, sharded, torch_zip
from collapsekit.checkpoint.read import read_checkpoint

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("d", [8, 96])
def test_inflation_agrees_with_statsmodels(d: int) -> None:
    pytest.importorskip("statsmodels", reason="needs the extra `bench`")
    row = peers.inflation(d, n=300, repeats=1)
    assert row.agrees, row
    assert row.peer.startswith("statsmodels ")


def test_effective_rank_agrees_with_its_definition() -> None:
    row = peers.effective_rank(12, n=200, repeats=1)
    assert row.agrees, row


@pytest.mark.parametrize("tol", [1e-4, 1e-8])
def test_softmax_agrees_with_scikit_learn(tol: float) -> None:
    pytest.importorskip("sklearn", reason="needs the extra `bench`")
    row = peers.softmax(tol, n=200, d=8, classes=3, repeats=1)
    assert row.agrees, row
    assert row.asked == 1.0


def test_a_chosen_penalty_does_as_well_as_scikit_learn_tuned() -> None:
    pytest.importorskip("sklearn", reason="needs the extra `bench`")
    row = peers.penalties(n=150, d=6, classes=3, repeats=1)
    assert row.agrees, row


@pytest.mark.parametrize("depth", [1, 2])
def test_reliance_agrees_with_captum_where_the_definitions_coincide(
    depth: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("captum", reason="needs the extra `bench`")
    monkeypatch.setattr("benchmarks.speed.reliance.HIDDEN", 16)
    found = list(
        reliance(depth, examples=120)
    )  # what replays are tried with comes on top: about 31, whatever there are
    assert [f.peer for f in found] == ["FeatureAblation", "ShapleyValues", "ShapleyValueSampling", "ShapleyValues"]
    for f, passes in zip(found[:3], ("5", "97", "101"), strict=True):
        apart, allowed, said = f.compared()
        assert apart <= allowed, (f.what, f.peer)
        assert f"each example 1 and {passes} times" in said
    assert allowed < 1
    credit = found[1].ours()
    assert float(credit.abs().max()) > 0.1  # of numbers that are not all near 0


def test_shapiq_gives_the_credits_that_a_diagnosis_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("shapiq", reason="needs the extra `bench`")
    found = by_shapiq(1, examples=60, draws=4)
    apart, allowed, said = found.compared()
    assert apart <= allowed, said
    assert "and 64 times" in said  # 16 coalitions, 4 others each


def test_with_several_others_the_definitions_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("captum", reason="needs the extra `bench`")
    game = make_game(1, examples=60)
    ours, theirs = game.shapley(8), game.captum("ShapleyValues", 8)
    assert float((ours - theirs).abs().max()) > 0.01


@pytest.mark.parametrize("module", ["captum", "statsmodels"])
def test_what_is_missing_is_said_in_one_sentence(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "import_module", lambda name: importlib.import_module("no_such_module"))
    with pytest.raises(MissingPeerError, match=rf'{module} is not installed.*pip install .*-e "\.\[bench\]"'):
        peers.peer(f"{module}.part")


def test_the_table_is_at_most_100_columns_wide() -> None:
    row = Row(
        "leave-one-out, encoders of 3 layers", 10.5, 7199.0, "captum 0.9.0 ShapleyValueSampling", 0.5, 0.1, "a " * 200
    )
    text = peers.shown(row)
    assert max(map(len, text.splitlines())) <= 100
    assert "NOT THE SAME" in text
    assert f"{row.ratio:.1f}" in text
    assert "not compared" in peers.shown(Row("w", 1.0, 1.0, "p", float("nan"), 0.0, "why"))


@pytest.mark.slow
def test_the_table_of_starts(tmp_path: Path) -> None:
    asked = startup.commands(startup.make_report(tmp_path))
    for what, (arguments, limit) in asked.items():
        assert limit is None or arguments[:2] == ["-m", "collapsekit"], what
    found = startup.measured(startup.make_report(tmp_path), rounds=1)  # every one of them ends well
    assert [r.what for r in found] == list(asked)
    assert all(0 < r.least <= r.seconds for r in found)


def test_sparse_checkpoints_are_sound_and_take_no_room(tmp_path: Path) -> None:
    sharded(tmp_path / "set", 6, shards=4, width=256)
    torch_zip(tmp_path / "w.pt", 6, width=256)
    safetensors_file(tmp_path / "w.safetensors", {"layers.0.weight": (256, 256)})
    for name, count in (("set", 6), ("w.pt", 6), ("w.safetensors", 1)):
        read = read_checkpoint(tmp_path / name)
        assert len(read.tensors) == count
        assert all(t.shape == (256, 256) and not t.count_nonzero() for t in read.tensors.values())
    with zipfile.ZipFile(tmp_path / "w.pt") as archive:
        assert archive.testzip() is None
    loaded = torch.load(tmp_path / "w.pt", weights_only=True)
    assert {k: v.dtype for k, v in loaded.items()} == {f"layers.{i}.weight": torch.bfloat16 for i in range(6)}
    index = json.loads((tmp_path / "set" / "model.safetensors.index.json").read_text())
    assert len(index["weight_map"]) == 6


def test_a_peak_is_that_of_the_command_alone() -> None:
    seconds, held = peak("-c", "x = bytearray(100_000_000); x[::4096] = bytes(len(x[::4096]))")
    assert seconds > 0
    assert 100 < held < 160
    with pytest.raises(RuntimeError, match="ValueError: wrong"):
        peak("-c", "raise ValueError('wrong')")


@pytest.mark.slow
def test_the_table_of_large_checkpoints(tmp_path: Path) -> None:
    found = list(rows(tmp_path, 200_000_000, 100_000_000))
    assert len(found) == 8
    assert all(r.limit is None or r.megabytes < r.limit for r in found)


@pytest.mark.slow
def test_the_module_says_what_to_install_and_stops(tmp_path: Path) -> None:
    (tmp_path / "statsmodels").mkdir()
    (tmp_path / "statsmodels" / "__init__.py").write_text("raise ImportError\n")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.speed.peers"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == (
        'statsmodels is not installed, which the comparison is with: pip install -c constraints.txt -e ".[bench]"\n'
    )
