from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from collapsekit.stats.threads import SMALL, side_by_side, threads_for


@pytest.fixture
def three() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_small_steps_run_on_one_thread_and_large_ones_on_those_there_were(three: None) -> None:
    with threads_for(SMALL):
        assert torch.get_num_threads() == 3
    with threads_for(SMALL - 1):
        assert torch.get_num_threads() == 1
        with threads_for(SMALL):
            assert torch.get_num_threads() == 3
            with threads_for(0):
                assert torch.get_num_threads() == 1
            assert torch.get_num_threads() == 3
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 3


def test_the_number_is_put_back_after_an_error_and_a_new_one_is_taken_up(three: None) -> None:
    with pytest.raises(KeyError), threads_for(0), threads_for(SMALL):
        raise KeyError
    assert torch.get_num_threads() == 3
    torch.set_num_threads(2)
    with threads_for(0), threads_for(SMALL):
        assert torch.get_num_threads() == 2


def test_side_by_side_is_a_map_in_order_with_few_in_hand(three: None) -> None:
    given: list[int] = []
    done: list[int] = []

    def items() -> Iterator[int]:
        for i in range(20):
            given.append(i)
            assert len(given) - len(done) <= 3 + 2
            yield i

    def make(i: int) -> tuple[int, int]:
        with threads_for(SMALL):  # of no effect here
            found = i * i, torch.get_num_threads()
        done.append(i)
        return found

    with threads_for(0):
        assert side_by_side(make, items(), 0) == [(i * i, 1) for i in range(20)]
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 3


def test_large_ones_are_made_one_after_another_on_all_threads(three: None) -> None:
    with threads_for(0):
        assert side_by_side(lambda _: torch.get_num_threads(), range(2), SMALL) == [1, 1]
    with pytest.raises(ZeroDivisionError):
        side_by_side(lambda i: 1 // i, range(3), 0)
    assert torch.get_num_threads() == 3
