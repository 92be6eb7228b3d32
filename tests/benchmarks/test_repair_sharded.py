"""What --fsdp saves is measured on the same training; how much, and how long it takes, is not for tests."""

from __future__ import annotations

import pytest

from benchmarks.repair.sharded import run


@pytest.mark.slow
def test_two_hold_half_each() -> None:
    whole, shared = (run(2, 64, 3, fsdp=fsdp) for fsdp in (False, True))
    for one, other in zip(whole, shared, strict=True):
        assert one["weights"] == other["weights"]
        assert one["held"] == pytest.approx(8 * one["weights"], rel=1e-3)  # and AdamW's counts of steps
        assert min(one["step"], other["step"]) > 0
    assert sum(each["held"] for each in shared) == pytest.approx(whole[0]["held"], rel=1e-3)
