"""Labels of several axes, such as chunks of actions: through files the report is what it is in process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from collapsekit.answers import Engine
from collapsekit.answers.planning import PlanOptions, make_plan
from collapsekit.answers.scoring import score
from collapsekit.config.load import check_config
from collapsekit.diagnosis import diagnose
from collapsekit.report.diagnosis import Report


class Chunk(nn.Module):
    """Two numbers an input make four actions of two numbers each."""

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        ahead = torch.arange(1.0, 5.0)[None, :, None]
        out: Tensor = batch["observation.state"][:, None] * ahead - 0.5 * batch["cup"][:, None]
        return out


def _write(folder: Path) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    count = 60 * 6
    state, cup = rng.standard_normal((2, count, 2)).astype(np.float32)
    np.savez(
        folder / "episodes.npz",
        **{
            "episode_index": np.repeat(np.arange(60), 6),
            "observation.state": state,
            "cup": cup,
            "action": state - 0.5 * cup + 0.3 * rng.standard_normal((count, 2)).astype(np.float32),
        },
    )
    how = {"path": str(folder / "episodes.npz"), "label": "action", "episodes": {"horizon": 4}}
    return {"modalities": {"state": {"input": "observation.state"}, "cup": None}, "task": "regression", "data": how}


def test_chunks_through_files_are_chunks_in_process(tmp_path: Path) -> None:
    config = _write(tmp_path)
    options: dict[str, Any] = {"reliance": {"draws": 4}}
    settled = check_config(config, base=tmp_path)
    make_plan(settled, PlanOptions.make(options=options), None).save(tmp_path / "questions")

    def answer(batch: Any) -> Any:
        return Chunk()({k: torch.as_tensor(batch[k]) for k in ("observation.state", "cup")})

    Engine(tmp_path / "questions", config=settled).answer(answer, tmp_path / "answers.jsonl", batch_size=64)
    through = score(tmp_path / "questions", [tmp_path / "answers.jsonl"], config=settled)
    here = check_config({**config, "call": "dict"}, base=tmp_path)
    within = diagnose(model=Chunk(), config=here, options=options, probes=["reliance", "utilisation"])
    assert _values(through) == _values(within)


def _values(report: Report) -> list[tuple[str, str | None, float | None]]:
    return [(r.name, r.modality, r.value) for r in report.results if r.probe in ("reliance", "utilisation")]
