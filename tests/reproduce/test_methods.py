"""What items of the first paper share: rows, orders of them, and data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from collapsekit.reproduce.item import Order, Trial, load_items
from collapsekit.reproduce.methods import METHODS, OF_PAPER, ROWS, ahead_of_controls, over_repairs
from collapsekit.reproduce.studies.subjects import FOUR_VIEWS, make_subject


@pytest.mark.parametrize(("rises", "verb"), [(True, "rises"), (False, "falls")])
def test_the_paper_s_order_goes_over_its_rows_and_says_which_way(rises: bool, verb: str) -> None:
    steps = {row: [(row, "1"), (row, "2")] for row in ("vanilla", "KD", "EBR")}
    assert over_repairs("rank", ("1", "2"), rises=rises) == Order(
        f"rank {verb} from vanilla over KD to EBR", steps, rises
    )


def test_ebr_is_held_against_each_control() -> None:
    first, second = ahead_of_controls(("1",))
    assert first == Order(
        "EBR is ahead of fine-tuning (our control)",
        {"fine-tuning": [("fine-tuning", "1")], "EBR": [("EBR", "1")]},
        True,
    )
    assert list(second.steps) == ["heads alone", "EBR"]


def test_rows_begin_with_the_network_as_it_was_and_hold_those_of_the_paper() -> None:
    assert list(METHODS) == ["vanilla", "fine-tuning", "heads alone", "KD", "EBR"]
    assert list(METHODS)[1:] == list(ROWS)
    assert [row for row in METHODS if row in OF_PAPER] == list(OF_PAPER)


def test_data_say_how_many_examples_they_take_and_take_them(tmp_path: Path) -> None:
    fewer = replace(FOUR_VIEWS, examples=130)
    facts = fewer.facts("How.", ", and so on")
    assert facts["here"].startswith("Four views of MFeat, 130 training examples; the weakest is kar")
    assert facts["here"].endswith("on held-out examples, and so on. How.")
    assert (facts["state"], facts["data"]) == ("other data", ("mfeat",))
    trial = Trial(3, False, tmp_path)
    ours = fewer.subject(trial)
    theirs = make_subject(trial, "mfeat", ("kar", "fou", "zer", "pix"), "kar", examples=130)
    assert (ours.weak, ours.epochs, ours.modalities) == (theirs.weak, theirs.epochs, theirs.modalities)
    assert len(ours.arrays["train/label"]) == 130
    assert all(torch.equal(v, theirs.arrays[k]) for k, v in ours.arrays.items())


def test_no_item_says_a_number_of_examples_in_braces() -> None:
    assert not [name for name, item in load_items().items() if "{" in item.here]
