from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from collapsekit.stats.threads import SMALL, threads_for


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
