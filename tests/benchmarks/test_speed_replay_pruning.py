"""The benchmark of pruned replays leaves layers out, and changes no report."""

from __future__ import annotations

import pytest

from benchmarks.speed import replay_pruning
from benchmarks.speed.replay_pruning import diagnoses, replays, subject


def test_its_replays_leave_layers_out_and_its_reports_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay_pruning, "SIDE", 16)
    monkeypatch.setattr(replay_pruning, "MODALITIES", ("front", "side"))
    monkeypatch.setattr(replay_pruning, "training_free", lambda: ["reliance"])
    config = {**replay_pruning.CONFIG, "modalities": {m: f"branches.{m}.4" for m in ("front", "side")}}
    monkeypatch.setattr(replay_pruning, "CONFIG", config)
    model, data = subject(16)
    plain, whole, pruned = replays(model, data, 5)
    assert plain > 0
    assert pruned < whole
    assert all(seconds > 0 for seconds in diagnoses(model, data, 1, draws=2))
