"""spread, against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from collapsekit.errors import NumericsError
from collapsekit.stats.linalg.spread import spread


@pytest.mark.parametrize("shape", [(40, 3), (40, 3, 5), (40,)])
def test_it_is_the_root_mean_variance_over_all_and_without_each_group(shape: tuple[int, ...]) -> None:
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(0)) * 3 + 100
    groups = torch.arange(40) % 4
    found = spread(x, groups, 4).numpy()

    def direct(rows: torch.Tensor) -> float:
        return float(np.sqrt(rows.reshape(len(rows), -1).double().numpy().var(0).mean()))

    assert found[0] == pytest.approx(direct(x), rel=1e-9)
    for g in range(4):
        assert found[1 + g] == pytest.approx(direct(x[groups != g]), rel=1e-9)


def test_what_hardly_moves_beside_its_mean_keeps_its_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("collapsekit.stats.linalg.spread.COLUMNS", 2)
    x = 1.0 + 1.6e-8 * torch.randn(200, 5, generator=torch.Generator().manual_seed(0)).double()
    assert float(spread(x, torch.arange(200) % 4, 4)[0]) == pytest.approx(1.6e-8, rel=0.1)
    assert float(spread(torch.ones(20, 3), torch.arange(20) % 4, 4).max()) == 0.0


def test_too_few_examples_are_refused() -> None:
    with pytest.raises(NumericsError, match="two examples beside each group"):
        spread(torch.randn(3, 2), torch.arange(3) % 2, 2)
