from __future__ import annotations

import torch

from benchmarks.speed.settings import coalitions, fusions, subject


def test_all_ways_are_timed_and_give_the_same_numbers() -> None:
    """That is asserted where they are timed; how fast they are is not for a test to say."""
    threads = torch.get_num_threads()
    adapter, features = subject(width=4, trained=80, diagnosed=40)
    for times in (fusions(adapter, features, 1, epochs=2), coalitions(adapter, features, 1)):
        assert len(times.alone) == len(times.together) == len(times.bare) == 1
        assert min(times.medians) > 0
    assert torch.get_num_threads() == threads
