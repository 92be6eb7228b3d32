"""Batches as people have them: tuples, nested mappings, objects, examples of several lengths, lists, text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from collapsekit.adapters.module import ModuleAdapter
from collapsekit.adapters.pytree import nest_arguments
from collapsekit.config.load import check_config
from collapsekit.data.loaders import BatchForm
from collapsekit.data.memory import MemorySource
from collapsekit.errors import DataError
from collapsekit.features.extraction import extract
from collapsekit.features.features import Features
from collapsekit.interventions.replay import predict
from tests.problems import adapt

N = 24


class Joined(nn.Module):
    """Two modalities of vectors, or of several of them an example, whose sums count."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(4, 5), nn.Linear(4, 5)
        self.head = nn.Linear(10, 3)

    def forward(self, a: Any, b: Tensor) -> Tensor:
        if isinstance(a, list):  # a bag an example
            a = torch.stack([self.a(bag).sum(0) - len(bag) * self.a.bias for bag in a])
        else:
            a = self.a(a).sum(1) - a.shape[1] * self.a.bias if a.ndim == 3 else self.a(a)
        return self.head(torch.cat([a, self.b(b)], 1).tanh())


def rows(seed: int = 0) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {
        "a": torch.randn(N, 4, generator=g),
        "b": torch.randn(N, 4, generator=g),
        "label": torch.arange(N) % 3,
    }


def loaded(batches: list[Any], **config: Any) -> tuple[ModuleAdapter, Features]:
    checked = check_config({"modalities": {"a": None, "b": None}, **config}, base=check_base())
    source = MemorySource({"test": batches}, BatchForm(checked.batch, padding=checked.data.padding))
    adapter = ModuleAdapter(checked, model=Joined(), source=source)
    return adapter, extract(adapter, "test")


def check_base() -> Any:
    from pathlib import Path

    return Path()


def answers(adapter: ModuleAdapter, features: Features) -> tuple[Tensor, Tensor]:
    """Outputs, and those with modality a of the example before, both sorted by the label of b."""
    other = torch.arange(N).roll(1)
    return features.outputs, predict(adapter, features, swap={"a": other}).outputs


def in_halves(make: Any) -> list[Any]:
    return [make({k: v[part] for k, v in rows().items()}) for part in (slice(0, 10), slice(10, N))]


@dataclass
class Batch:
    a: Tensor
    b: Tensor
    label: Tensor


@pytest.mark.parametrize(
    ("make", "config"),
    [
        (lambda r: (r["a"], r["b"], r["label"]), {"batch": ["a", "b", "label"]}),
        (lambda r: Batch(**r), {}),
        (lambda r: [{k: v[i] for k, v in r.items()} for i in range(len(r["a"]))], {}),
    ],
    ids=["tuples", "objects", "lists of examples"],
)
def test_forms_of_batches(make: Any, config: dict[str, Any]) -> None:
    plain = answers(
        adapter := adapt(Joined(), {"modalities": {"a": None, "b": None}}, {"test": rows()}), extract(adapter, "test")
    )
    for one, other in zip(plain, answers(*loaded(in_halves(make), **config)), strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_nested_fields_and_positions() -> None:
    class Nested(Joined):
        def forward(self, batch: Mapping[str, Tensor]) -> Tensor:  # type: ignore[override]
            return super().forward(batch["sensors.a"], batch["1.b"])

    def make(r: Mapping[str, Tensor]) -> Any:
        return {"sensors": {"a": r["a"]}, "1": {"b": r["b"]}, "labels": {"M": r["label"]}}

    config = {
        "modalities": {"a": {"input": "sensors.a"}, "b": {"input": "1.b"}},
        "data": {"label": "labels.M"},
        "call": "dict",
    }
    checked = check_config(config, base=check_base())
    adapter = ModuleAdapter(checked, model=Nested(), source=MemorySource({"test": in_halves(make)}))
    plain = adapt(Joined(), {"modalities": {"a": None, "b": None}}, {"test": rows()})
    assert torch.allclose(extract(adapter, "test").outputs, extract(plain, "test").outputs, atol=1e-6)


@pytest.mark.parametrize("kind", [tuple, dict])
def test_fields_of_one_argument_reach_forward_as_that(kind: type) -> None:
    class OfOne(Joined):
        def forward(self, x: Any) -> Tensor:  # type: ignore[override]
            assert type(x) is kind
            a, b = x if isinstance(x, tuple) else (x["a"], x["deep"]["b"])
            return super().forward(a, b)

    def make(r: Mapping[str, Tensor]) -> Any:
        return ((r["a"], r["b"]) if kind is tuple else {"a": r["a"], "deep": {"b": r["b"]}}), r["label"]

    paths = ("x.0", "x.1") if kind is tuple else ("x.a", "x.deep.b")
    config = {"modalities": {m: {"input": path} for m, path in zip("ab", paths, strict=True)}, "batch": ["x", "label"]}
    adapter = ModuleAdapter(
        check_config(config, base=check_base()),
        model=OfOne(),
        source=MemorySource({"test": in_halves(make)}, BatchForm(("x", "label"))),
    )
    plain = adapt(Joined(), {"modalities": {"a": None, "b": None}}, {"test": rows()})
    assert torch.allclose(extract(adapter, "test").outputs, extract(plain, "test").outputs, atol=1e-6)


def test_keys_that_merely_have_a_dot_stay_as_they_are() -> None:
    class Anything(torch.nn.Module):
        def forward(self, **inputs: Any) -> None: ...

    given = {"observation.top": 1, "observation.side": 2}
    assert nest_arguments(Anything(), given, ()) == given
    assert nest_arguments(Anything(), given, ("observation",)) == {"observation": {"top": 1, "side": 2}}
    assert nest_arguments(Anything(), {"x": 0, "x.a": 1}, ("x",)) == {"x": 0, "x.a": 1}


def bags(sizes: list[int]) -> list[Tensor]:
    g = torch.Generator().manual_seed(3)
    return [torch.randn(size, 4, generator=g) for size in sizes]


SIZES = [1 + i % 3 + (i > 8) for i in range(N)]


def as_lists(sizes: list[int]) -> list[Any]:
    r, all_bags = rows(), bags(SIZES)
    return [
        {"a": all_bags[s], "b": r["b"][s], "label": r["label"][s]} for s in (slice(0, sizes[0]), slice(sizes[0], N))
    ]


def as_padded(sizes: list[int]) -> list[Any]:
    """Each batch padded to its own longest."""
    return [{**one, "a": torch.nn.utils.rnn.pad_sequence(one["a"], batch_first=True)} for one in as_lists(sizes)]


@pytest.mark.parametrize("make", [as_lists, as_padded], ids=["lists", "padded"])
def test_bags_of_several_sizes_are_moved_whole(make: Any) -> None:
    adapter, features = loaded(make([8]))
    outputs, moved = answers(adapter, features)
    objects = adapter.source.objects["a"]
    model, own = Joined().eval(), objects.take(features.inputs["a"])
    assert torch.allclose(outputs, model(own, features.inputs["b"]), atol=1e-5)
    others = [own[i - 1] for i in range(N)]
    assert torch.allclose(moved, model(others, features.inputs["b"]), atol=1e-5)
    again = loaded(make([5]))[1]  # other batches, the same examples
    assert again.digest == features.digest
    assert torch.allclose(again.outputs, outputs, atol=1e-6)
    assert torch.equal(again.pooled["a"], features.pooled["a"])


def test_bags_are_read_out_by_what_describes_them() -> None:
    _, features = loaded(as_lists([8]))
    assert features.pooled["a"].shape == (N, 14)
    assert features.numbers("a").shape == (N, 14)
    assert features.numbers("b").shape == (N, 4)
    assert features.taken(torch.arange(5)).numbers("a").shape == (5, 14)


def test_text_is_given_as_it_is() -> None:
    class Reads(Joined):
        def forward(self, a: list[str], b: Tensor) -> Tensor:  # type: ignore[override]
            assert all(isinstance(one, str) for one in a)
            return super().forward(torch.tensor([[float(len(one)), one.count("x"), 0, 0] for one in a]), b)

    r = rows()
    words = ["x" * int(y) + " word" for y in r["label"]]
    checked = check_config({"modalities": {"a": None, "b": None}}, base=check_base())
    source = MemorySource({"test": [{**r, "a": words}]})
    features = extract(ModuleAdapter(checked, model=Reads(), source=source), "test")
    assert features.pooled["a"].shape[1] == 513


def test_labels_have_to_stack() -> None:
    batches = as_padded([8])
    for batch in batches:
        batch["label"] = batch["a"][..., 0]
    with pytest.raises(DataError, match="examples of 'label' in split 'test' have shape"):
        loaded(batches, task="regression")


def test_tuples_without_names_say_how_to_name_them() -> None:
    with pytest.raises(DataError, match=r"has no 'a': it has 0, 1, 2; .*takes \(.*\); .*: `batch: \[a, b, label\]`"):
        loaded(in_halves(lambda r: (r["a"], r["b"], r["label"])))


class Items(torch.utils.data.Dataset[Any]):
    """Examples with fields that only their collate_fn makes into what the model takes."""

    def __init__(self, form: str) -> None:
        self.form, self.rows, self.bags = form, rows(), bags(SIZES)

    def __len__(self) -> int:
        return N

    def __getitem__(self, i: int) -> Any:
        bag, b, y = self.bags[i], self.rows["b"][i].numpy(), int(self.rows["label"][i])
        if self.form == "tuple":
            return bag, b, y
        return {"bag": bag, "vector": {"b": b}, "y": y, "name": f"number {i}"}


def collate_mappings(examples: list[Any]) -> dict[str, Any]:
    return {
        "a": torch.nn.utils.rnn.pad_sequence([e["bag"] for e in examples], batch_first=True),
        "b": torch.stack([torch.from_numpy(e["vector"]["b"]) for e in examples]),
        "y": torch.tensor([e["y"] for e in examples]),
    }


def collate_tuples(examples: list[Any]) -> tuple[Any, ...]:
    return (
        torch.nn.utils.rnn.pad_sequence([e[0] for e in examples], batch_first=True),
        torch.stack([torch.from_numpy(e[1]) for e in examples]),
        torch.tensor([e[2] for e in examples]),
    )


@pytest.mark.parametrize("form", ["mapping", "tuple"])
def test_modalities_are_exchanged_before_examples_are_collated(form: str) -> None:
    if form == "mapping":
        collate: Any = collate_mappings
        config: dict[str, Any] = {
            "modalities": {"a": {"input": "bag"}, "b": {"input": "vector.b"}},
            "data": {"edit": "examples", "label": "y"},
        }
    else:
        collate = collate_tuples
        config = {
            "modalities": {"a": None, "b": None},
            "batch": ["a", "b", "label"],
            "data": {"edit": "examples"},
        }
    checked = check_config(config, base=check_base())
    loader = torch.utils.data.DataLoader(Items(form), batch_size=7, collate_fn=collate)
    form_of = BatchForm(checked.batch, checked.data.edit == "examples")
    adapter = ModuleAdapter(checked, model=Joined(), source=MemorySource({"test": loader}, form_of))
    features = extract(adapter, "test")
    outputs, moved = answers(adapter, features)
    model, r = Joined().eval(), rows()
    order = [int((r["b"] == b).all(1).nonzero()) for b in features.inputs["vector.b" if form == "mapping" else "b"]]
    own = [bags(SIZES)[i] for i in order]
    assert torch.allclose(outputs, model(own, r["b"][order]), atol=1e-5)
    assert torch.allclose(moved, model([own[i - 1] for i in range(N)], r["b"][order]), atol=1e-5)
    assert torch.equal(features.targets, r["label"][order])


def test_a_collate_fn_that_fails_is_named() -> None:
    def collate(examples: list[Any]) -> Any:
        raise ValueError("no")

    checked = check_config(
        {"modalities": {"a": {"input": "bag"}, "b": {"input": "vector.b"}}, "data": {"edit": "examples", "label": "y"}},
        base=check_base(),
    )
    loader = torch.utils.data.DataLoader(Items("mapping"), batch_size=7, collate_fn=collate)
    adapter = ModuleAdapter(checked, model=Joined(), source=MemorySource({"test": loader}, BatchForm((), True)))
    with pytest.raises(DataError, match="the loader's collate_fn failed on"):
        extract(adapter, "test")


def collate_one(examples: list[Any]) -> dict[str, Any]:
    """As of models that take one bag and nothing else: its rows are the batch's."""
    return {
        "a": torch.cat([e["bag"] for e in examples]),
        "b": torch.from_numpy(examples[0]["vector"]["b"]),
        "y": torch.tensor([e["y"] for e in examples]),
    }


class OneBag(Joined):
    def forward(self, a: Tensor, b: Tensor) -> Tensor:  # type: ignore[override]
        assert b.ndim == 1
        return super().forward([a], b[None])


def test_a_model_that_takes_one_example_at_a_time_gives_what_one_of_batches_gives() -> None:
    config = {
        "modalities": {"a": {"input": "bag"}, "b": {"input": "vector.b"}},
        "data": {"edit": "examples", "label": "y"},
    }
    found = []
    for model, how, collate in ((Joined(), False, collate_mappings), (OneBag(), True, collate_one)):
        checked = check_config({**config, "model": {"one_by_one": how}}, base=check_base())
        loader = torch.utils.data.DataLoader(Items("mapping"), batch_size=1 if how else 7, collate_fn=collate)
        source = MemorySource({"test": loader}, BatchForm((), True))
        adapter = ModuleAdapter(checked, model=model, source=source)
        features = extract(adapter, "test")
        alone = adapter.live("a", features.recorded, features.inputs)
        found.append((*answers(adapter, features), alone, adapter.run_live(features.inputs).outputs))
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


@dataclass
class Nodes:
    """A graph, or several as one, of which no row is an example's."""

    bag: Tensor
    vector: dict[str, Tensor]
    y: Tensor


@pytest.mark.parametrize(
    ("data", "edit", "says"),
    [
        ([Nodes(torch.zeros(9, 4), {"b": torch.zeros(3, 4)}, torch.zeros(3))], None, r"data: \{edit: examples\}"),
        (
            [Nodes(torch.zeros(9, 4), {"b": torch.zeros(3, 4)}, torch.zeros(3))],
            "examples",
            "yields Nodes, batches that are collated already.*hand over the DataLoader",
        ),
        (
            [[Nodes(torch.zeros(i, 4), {"b": torch.zeros(4)}, torch.zeros(())) for i in (2, 3)]],
            "examples",
            "as torch does by default.*the DataLoader whose collate_fn",
        ),
    ],
)
def test_batches_of_graphs_say_what_to_hand_over(data: Any, edit: str | None, says: str) -> None:
    config = {
        "modalities": {"a": {"input": "bag"}, "b": {"input": "vector.b"}},
        "data": {"label": "y"} | ({} if edit is None else {"edit": edit}),
    }
    checked = check_config(config, base=check_base())
    source = MemorySource({"test": data}, BatchForm((), edit == "examples"))
    adapter = ModuleAdapter(checked, model=Joined(), source=source)
    with pytest.raises(DataError, match=says):
        extract(adapter, "test")
