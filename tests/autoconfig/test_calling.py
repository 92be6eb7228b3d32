"""How a model is called, whatever its batches look like: one network behind many ways in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from collapsekit.autoconfig.running.observe import Observed
from collapsekit.errors import ConfigError
from tests.autoconfig.proposing import observed_of, written_for

N = 24


class Pair(nn.Module):
    """Two encoders, a fusion, a head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.eye, self.ear = nn.Linear(6, 8), nn.Linear(5, 8)
        self.fusion, self.head = nn.Linear(16, 9), nn.Linear(9, 3)

    def answer(self, image: Tensor, audio: Tensor) -> Tensor:
        out: Tensor = self.head(self.fusion(torch.cat([self.eye(image), self.ear(audio)], 1)))
        return out


class ByName(Pair):
    def forward(self, image: Tensor, audio: Tensor) -> Tensor:
        return self.answer(image, audio)


class WithLabel(Pair):
    def forward(self, image: Tensor, audio: Tensor, label: Tensor) -> Tensor:
        assert label.ndim == 1
        return self.answer(image, audio)


class ByAnyName(Pair):
    def forward(self, **inputs: Tensor) -> Tensor:
        for name in inputs:
            if name not in ("image", "audio"):
                raise TypeError(f"forward() got an unexpected keyword argument '{name}'")
        return self.answer(inputs["image"], inputs["audio"])


class ByOrder(Pair):
    def forward(self, x1: Tensor, x2: Tensor) -> Tensor:
        return self.answer(x1, x2)


class OfMapping(Pair):
    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return self.answer(batch["image"], batch["audio"])


class OfList(Pair):
    def forward(self, inputs: list[Tensor]) -> Tensor:
        image, audio = inputs
        return self.answer(image, audio)


class OfDots(Pair):
    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return self.answer(batch["observation.images.top"], batch["observation.microphone"])


@dataclass
class Batch:
    """A batch with attributes."""

    image: Tensor
    audio: Tensor
    label: Tensor


class Pairs(Dataset[Any]):
    """Examples of another structure than their batch."""

    def __init__(self, held: dict[str, Tensor]) -> None:
        self.held = held

    def __len__(self) -> int:
        return N

    def __getitem__(self, i: int) -> Any:
        return {k: v[i] for k, v in self.held.items()}


def held(seed: int = 0) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {
        "image": torch.randn(N, 6, generator=g),
        "audio": torch.randn(N, 5, generator=g),
        "label": torch.arange(N) % 3,
    }


def splits(make: Callable[[dict[str, Tensor]], Any]) -> dict[str, Any]:
    return {"train": make(held()), "test": make(held(1))}


def in_two(v: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    return [{k: x[:12] for k, x in v.items()}, {k: x[12:] for k, x in v.items()}]


PLAIN = {"image": "image", "audio": "audio"}
CASES: dict[str, tuple[type[nn.Module], Callable[[dict[str, Tensor]], Any], str, dict[str, Any], tuple[str, ...]]] = {
    "arrays by name": (ByName, lambda v: v, "kwargs", PLAIN, ()),
    "batches by name": (ByName, in_two, "kwargs", PLAIN, ()),
    "any name": (ByAnyName, lambda v: {"fold": v["label"] % 2, **v}, "kwargs", PLAIN, ()),
    "forward wants the label": (WithLabel, lambda v: v, "kwargs", PLAIN, ()),
    "other names, in order": (ByOrder, lambda v: v, "positional", PLAIN, ()),
    "one mapping": (OfMapping, in_two, "dict", PLAIN, ()),
    "one list": (OfList, in_two, "list", PLAIN, ()),
    "keys with dots": (
        OfDots,
        lambda v: {"observation.images.top": v["image"], "observation.microphone": v["audio"], "action": v["label"]},
        "dict",
        {"top": "observation.images.top", "microphone": "observation.microphone"},
        (),
    ),
    "tuples": (
        ByName,
        lambda v: DataLoader(TensorDataset(v["image"], v["audio"], v["label"]), batch_size=12),
        "kwargs",
        PLAIN,
        ("image", "audio", "label"),
    ),
    "tuples of a tuple and a label": (
        ByOrder,
        lambda v: [((b["image"], b["audio"]), b["label"]) for b in in_two(v)],
        "positional",
        {"eye": "inputs.0", "ear": "inputs.1"},
        ("inputs", "label"),
    ),
    "the label before the others": (
        ByName,
        lambda v: DataLoader(TensorDataset(v["label"], v["image"], v["audio"]), batch_size=12),
        "kwargs",
        PLAIN,
        ("label", "image", "audio"),
    ),
    "a mapping and a label": (
        OfMapping,
        lambda v: [({"image": b["image"], "audio": b["audio"]}, b["label"]) for b in in_two(v)],
        "kwargs",
        {"image": "batch.image", "audio": "batch.audio"},
        ("batch", "label"),
    ),
    "a label and a mapping": (
        OfMapping,
        lambda v: [(b["label"], {"image": b["image"], "audio": b["audio"]}) for b in in_two(v)],
        "kwargs",
        {"image": "batch.image", "audio": "batch.audio"},
        ("label", "batch"),
    ),
    "a mapping by the name that forward has for it": (
        OfMapping,
        lambda v: [{"batch": {"image": b["image"], "audio": b["audio"]}, "label": b["label"]} for b in in_two(v)],
        "kwargs",
        {"image": "batch.image", "audio": "batch.audio"},
        (),
    ),
    "objects": (ByName, lambda v: [Batch(**b) for b in in_two(v)], "kwargs", PLAIN, ()),
    "nested mappings": (
        ByOrder,
        lambda v: [
            {"inputs": {"image": b["image"], "audio": b["audio"]}, "labels": {"M": b["label"]}} for b in in_two(v)
        ],
        "positional",
        {"image": "inputs.image", "audio": "inputs.audio"},
        (),
    ),
    "a Dataset": (ByName, Pairs, "kwargs", PLAIN, ()),
    "lists of examples": (ByName, lambda v: [[{k: x[i] for k, x in v.items()} for i in range(N)]], "kwargs", PLAIN, ()),
}


@pytest.mark.parametrize("case", CASES)
def test_every_way_in_leads_to_the_same_network(case: str) -> None:
    kind, make, call, fields, names = CASES[case]
    found = written_for(kind(), splits(make))
    observed: Observed = found.observed
    assert observed.form.call == call
    assert {m: s.input or m for m, s in observed.sections.items()} == fields
    assert [s.encoder for s in observed.sections.values()] == ["eye", "ear"]
    assert (observed.fusion, observed.outcome.task) == ("fusion", "classification")
    assert observed.form.names == names
    assert found.verified.refused is None, found.verified.refused


def test_an_order_that_is_a_guess_is_told() -> None:
    found = observed_of(ByOrder(), splits(lambda v: v))
    assert any("by their order, image, audio" in note for note in found.notes)
    found = observed_of(OfList(), splits(lambda v: v))
    assert any(note.startswith("Calls that failed before this one: dict (image, audio)") for note in found.notes)


def test_of_many_fields_the_first_are_looked_at_and_labels() -> None:
    many = {f"column{i}": torch.full((N,), float(i)) for i in range(70)}
    found = observed_of(
        ByName(), splits(lambda v: {"image": v["image"], "audio": v["audio"], **many, "label": v["label"]})
    )
    assert found.outcome.label == "label"
    assert any("13 more: 60 are looked at" in note for note in found.notes)


def test_labels_are_looked_at_in_more_rows_than_are_watched() -> None:
    def make(v: dict[str, Tensor]) -> DataLoader[Any]:
        ages = torch.cat([torch.arange(12) % 2, torch.arange(12) + 20])  # whose first batch looks like two classes
        return DataLoader(TensorDataset(v["image"], v["audio"], ages), batch_size=12)

    class Age(ByName):
        def forward(self, image: Tensor, audio: Tensor) -> Tensor:
            return self.answer(image, audio)[:, 0]

    assert observed_of(Age(), splits(make)).outcome.task == "regression"


def test_what_was_tried_is_said_where_nothing_answers() -> None:
    data = splits(lambda v: {"image": v["image"], "label": v["label"]})
    with pytest.raises(
        ConfigError, match=r"answers no call.*tried were .*positional \(image\).*missing 1 required"
    ) as e:
        observed_of(ByName(), data)
    assert "or leave --data out" in str(e.value)


class Reading(nn.Module):
    """Reads text, as a list of str, and bags of vectors, as a list of tensors."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.patch = nn.Linear(4, 8), nn.Linear(3, 8)
        self.fusion, self.head = nn.Linear(16, 9), nn.Linear(9, 1)

    def forward(self, note: list[str], slide: list[Tensor]) -> Tensor:
        counts = torch.tensor([[float(text.count(c)) for c in "abcd"] for text in note])
        bags = torch.stack([self.patch(bag).mean(0) for bag in slide])
        out: Tensor = self.head(self.fusion(torch.cat([self.words(counts), bags], 1)))
        return out[:, 0]


def test_text_and_bags() -> None:
    def make(v: dict[str, Tensor]) -> list[dict[str, Any]]:
        notes = ["abcd"[i % 4] * (1 + i % 3) + "a" for i in range(N)]
        slides = [v["image"][: 1 + i % 4, :3].clone() + i for i in range(N)]
        return [{"note": notes, "slide": slides, "label": v["audio"][:, 0]}]

    found = written_for(Reading(), splits(make))
    assert {m: s.encoder for m, s in found.observed.sections.items()} == {"note": "words", "slide": None}
    assert found.observed.outcome.task == "regression"
    assert found.verified.refused is None, found.verified.refused


class Graphs(nn.Module):
    """Nodes of all graphs joined, told apart by the number of their graph, and text beside them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.nodes, self.text = nn.Linear(4, 8), nn.Linear(5, 8)
        self.fusion, self.head = nn.Linear(16, 9), nn.Linear(9, 3)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        text = self.text(batch["text"])
        graph = torch.zeros(len(text), 8).index_add(0, batch["batch"], self.nodes(batch["x"]))
        out: Tensor = self.head(self.fusion(torch.cat([graph, text], 1)))
        return out


class GraphData(Dataset[Any]):
    """Graphs of several sizes."""

    def __len__(self) -> int:
        return N

    def __getitem__(self, i: int) -> Any:
        g = torch.Generator().manual_seed(i)
        return {"x": torch.randn(2 + i % 4, 4, generator=g), "text": torch.randn(5, generator=g), "label": i % 3}


def joined(examples: list[Any]) -> dict[str, Tensor]:
    sizes = torch.tensor([len(e["x"]) for e in examples])
    return {
        "x": torch.cat([e["x"] for e in examples]),
        "batch": torch.arange(len(examples)).repeat_interleave(sizes),
        "text": torch.stack([e["text"] for e in examples]),
        "label": torch.tensor([e["label"] for e in examples]),
    }


def test_graphs_are_exchanged_before_they_are_joined() -> None:
    data = {s: DataLoader(GraphData(), batch_size=12, collate_fn=joined) for s in ("train", "test")}
    found = written_for(Graphs(), data)
    assert found.observed.form.edit == "examples"
    assert {s.input or m for m, s in found.observed.sections.items()} == {"x", "text"}
    assert found.observed.outcome.label == "label"
    assert found.observed.fusion == "fusion"
    assert found.verified.refused is None, found.verified.refused


def test_nodes_of_graphs_that_nobody_can_take_apart_are_told() -> None:
    batch = joined([GraphData()[i] for i in range(40)])
    with pytest.raises(ConfigError, match=r"'x' could not be given, as it has \d+ rows, and others have 40"):
        observed_of(Graphs(), {"train": [batch], "test": [batch]})


def test_masks_and_lengths_go_with_what_they_are_of() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.table, self.ear = nn.Embedding(20, 8), nn.LSTM(5, 8, batch_first=True)
            self.fusion, self.head = nn.Linear(16, 9), nn.Linear(9, 1)

        def forward(self, input_ids: Tensor, attention_mask: Tensor, audio: Tensor, audio_len: Tensor) -> Tensor:
            words = self.table(input_ids) * attention_mask[..., None]
            packed = nn.utils.rnn.pack_padded_sequence(audio, audio_len, batch_first=True, enforce_sorted=False)
            _, (heard, _) = self.ear(packed)
            out: Tensor = self.head(self.fusion(torch.cat([words.sum(1), heard[-1]], 1)))
            return out

    def make(v: dict[str, Tensor]) -> dict[str, Tensor]:
        g = torch.Generator().manual_seed(3)
        return {
            "input_ids": torch.randint(0, 20, (N, 4), generator=g),
            "attention_mask": (torch.rand(N, 4, generator=g) < 0.7).long(),
            "audio": torch.randn(N, 6, 5, generator=g),
            "audio_len": torch.randint(1, 7, (N,), generator=g),
            "sentiment": v["image"][:, 0],
        }

    found = written_for(Masked(), splits(make))
    sections = found.observed.sections
    assert sections["text"].input == ("input_ids", "attention_mask")
    assert sections["audio"].input == ("audio", "audio_len")
    assert sections["audio"].encoder == "ear"
    assert (found.observed.outcome.label, found.observed.outcome.task) == ("sentiment", "regression")
    assert found.verified.refused is None, found.verified.refused


class Places(nn.Module):
    """Means over the places of two sequences that count, each read by a layer of its own or both by one."""

    def __init__(self, *, apart: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.apart = apart
        self.left, self.right = nn.Linear(6, 8), nn.Linear(6, 8)
        self.fusion, self.early, self.head = nn.Linear(16, 9), nn.Linear(12, 9), nn.Linear(9, 3)

    def forward(self, one: Tensor, other: Tensor, one_mask: Tensor, mask_two: Tensor) -> Tensor:
        one, other = one * one_mask[..., None], other * mask_two[..., None]
        if self.apart:
            both = self.fusion(torch.cat([self.left(one).mean(1), self.right(other).mean(1)], 1))
        else:
            both = self.early(torch.cat([one, other], 2)).mean(1)
        out: Tensor = self.head(both)
        return out


@pytest.mark.parametrize(("apart", "second"), [(True, ("other", "mask_two")), (False, ("other",))])
def test_a_mask_goes_with_what_it_meets_first_or_is_named_after(apart: bool, second: tuple[str, ...]) -> None:
    g = torch.Generator().manual_seed(0)
    data = {k: torch.randn(N, 4, 6, generator=g) for k in ("one", "other")}
    masks = {k: torch.rand(N, 4, generator=g) < 0.6 for k in ("one_mask", "mask_two")}
    held_there = {**data, **masks, "label": torch.arange(N) % 3}
    found = observed_of(Places(apart=apart), {"train": held_there, "test": held_there})
    inputs = [s.input if isinstance(s.input, tuple) else (s.input or m,) for m, s in found.sections.items()]
    assert inputs == [("one", "one_mask"), second]
    assert found.also == (() if apart else ("mask_two",))


def test_fields_that_are_given_by_their_order_keep_it() -> None:
    class Ordered(Places):
        def forward(self, first: Tensor, second: Tensor, third: Tensor, fourth: Tensor) -> Tensor:  # type: ignore[override]
            return super().forward(first, second, third, fourth)

    g = torch.Generator().manual_seed(0)
    there = {k: torch.randn(N, 4, 6, generator=g) for k in ("one", "other")}
    there |= {k: torch.rand(N, 4, generator=g) < 0.6 for k in ("one_mask", "other_mask")}
    there["label"] = torch.arange(N) % 3
    found = written_for(Ordered(apart=True), {"train": there, "test": there})
    assert found.observed.form.call == "positional"
    assert list(found.observed.sections) == ["one", "other", "one_mask", "other_mask"]
    assert found.verified.refused is None, found.verified.refused
