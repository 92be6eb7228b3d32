"""Leaving groups out where the sums of single groups are too large to keep: the same numbers by halves."""

from __future__ import annotations

import pytest
import torch

from collapsekit.errors import NumericsError
from collapsekit.stats.linalg.cka import Side, sides_leave_out
from collapsekit.stats.linalg.moments import Moments, moments_left_out


@pytest.mark.parametrize("count", [2, 5, 16])
def test_halves_give_what_kept_groups_give(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(90, 4, generator=g) + 100, torch.randn(90, 3, generator=g)
    y[:, 0] += x[:, 0]
    groups = torch.arange(90) * 7 % count
    wanted = sides_leave_out(Side.of(x, groups, count), Side.of(y, groups, count))
    monkeypatch.setattr("collapsekit.stats.linalg.moments.KEEP", 0)
    monkeypatch.setattr("collapsekit.stats.linalg.cka.KEEP", 0)
    monkeypatch.setattr("collapsekit.stats.linalg.moments.leave_one_out", None)  # what keeps them is not asked
    monkeypatch.setattr("collapsekit.stats.linalg.cka.leave_one_out", None)
    whole, left = moments_left_out(x, groups, count)
    torch.testing.assert_close(whole.scatter, Moments.of(x).scatter)
    found = list(left)
    assert len(found) == count
    for group, m in enumerate(found):
        expected = Moments.of(x[groups != group])
        assert m.n == expected.n
        torch.testing.assert_close(m.mean, expected.mean)
        torch.testing.assert_close(m.scatter, expected.scatter, rtol=1e-10, atol=1e-10)
    value, out = sides_leave_out(Side.of(x, groups, count), Side.of(y, groups, count))
    assert value == pytest.approx(wanted[0], rel=1e-10)
    assert out == pytest.approx(wanted[1], rel=1e-10)
    with pytest.raises(NumericsError, match="at least 2 groups"):
        moments_left_out(x, torch.zeros(90, dtype=torch.long), 1)
