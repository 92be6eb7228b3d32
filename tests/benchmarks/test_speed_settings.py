from __future__ import annotations

import torch

from benchmarks.speed.settings import coalitions, fusions, subject


def test_both_ways_are_timed_and_give_the_same_numbers() -> None:
    """That is asserted where they are timed; how fast they are is not for a test to say."""
    threads = torch.get_num_threads()
    try:
        adapter, features = subject(width=4, trained=80, diagnosed=40)
        for one, many in (fusions(adapter, features, 1, epochs=2), coalitions(adapter, features, 1)):
            assert len(one) == len(many) == 1
            assert min(*one, *many) > 0
    finally:
        torch.set_num_threads(threads)
