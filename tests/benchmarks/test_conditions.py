"""Conditions of Theorem 3.1 and what the rank does, by NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks import conditions


def rank(x: np.ndarray) -> float:
    sigma = np.linalg.svd(x - x.mean(0), compute_uv=False)
    p = sigma / sigma.sum()
    return float(np.exp(-(p * np.log(p)).sum()))


@pytest.mark.parametrize("weakest", [True, False])
def test_a_blend_that_meets_the_conditions_may_lower_the_rank(weakest: bool) -> None:
    """The conditions are computed anew; of the weakest channel both outcomes occur among the blends that meet them."""
    generator, met = torch.Generator().manual_seed(0), []
    for _ in range(500):
        again = torch.Generator().set_state(generator.get_state())
        holds, quieter, rise = conditions.blend(generator, weakest)
        x, y = (conditions.features(again).numpy() for _ in range(2))
        share = float(torch.rand(1, generator=again)) * 0.9 + 0.05
        any_one = int(torch.randint(conditions.CHANNELS, (1,), generator=again))
        c = int(x.var(0).argmin()) if weakest else any_one
        after = x.copy()
        after[:, c] += share * (y[:, c] - x[:, c])
        sigma = np.linalg.svd(x - x.mean(0), compute_uv=False)
        k = int(rank(x))
        change = (after - after.mean(0)) - (x - x.mean(0))
        assert holds == (2 * np.linalg.norm(change, 2) < sigma[k - 1] - sigma[k])
        assert rise == pytest.approx(rank(after) - rank(x), abs=1e-9)
        assert quieter == (y[:, c].std() < x[:, c].std())
        met += [rise] if holds else []
    assert max(met) > 0
    assert (min(met) < 0) is weakest  # rarer with any channel: none of these


def test_what_is_printed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["conditions", "--blends", "60"])
    conditions.main()
    printed = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in printed] == ["any channel", "the weakest channel"]
    assert all(" of 60 blends" in line for line in printed)
