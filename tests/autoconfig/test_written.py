"""The text of a config that was observed: it reads back, says what is verified, and follows files beside the weights."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from collapsekit.autoconfig.running.grouping import name_modalities
from collapsekit.autoconfig.running.text import Named, observed_text
from collapsekit.checkpoint.sidecars.described import Described, InputField
from tests.autoconfig.proposing import config_in, observed_of, written_for

N = 24


def draw(*shape: int) -> Tensor:
    return torch.randn(N, *shape, generator=torch.Generator().manual_seed(sum(shape)))


def splits(held: dict[str, Any]) -> dict[str, Any]:
    return {"train": held, "test": held}


class OfMapping(nn.Module):
    """Reads two fields of a mapping, whatever they are called."""

    def __init__(self, one: str, other: str) -> None:
        super().__init__()
        self.keys = one, other
        self.a, self.b, self.fusion, self.head = nn.Linear(6, 8), nn.Linear(5, 8), nn.Linear(16, 9), nn.Linear(9, 3)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        one, other = self.keys
        out: Tensor = self.head(self.fusion(torch.cat([self.a(batch[one]), self.b(batch[other])], 1)))
        return out


class Stack(nn.Module):
    """Reads channels of one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 6, 3), nn.Linear(6, 3)

    def forward(self, image: Tensor) -> Tensor:
        out: Tensor = self.head(self.conv(image).relu().mean((2, 3)))
        return out


HOSTILE = ["no", "1e3", "a: b", "x # y", "'q\"", "\n- evil: 1", " z", "{a}", "&a", "!!python/x", "💥" * 50, "~", "- a"]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_of_fields_read_back(name: str) -> None:
    data = splits({name: draw(6), "other": draw(5), "label": torch.arange(N) % 3})
    found = written_for(OfMapping(name, "other"), data)
    config = config_in(found.text)
    inputs = {s.input or m for m, s in config.modalities.items()}
    assert inputs == {name, "other"}
    assert found.verified.refused is None, found.verified.refused


def test_what_holds_and_what_is_asked_stand_in_comments() -> None:
    data = splits({"image": draw(3, 8, 8), "label": torch.arange(N) % 3})
    text = written_for(Stack(), data).text
    assert "# FILL IN: The model reads one field, image" in text
    assert "# Not verified: a diagnosis needs two modalities, and this config names 1" in text
    lines = re.findall(r"^  # (image_\d: .*)$", text, re.MULTILINE)
    assert lines == [f'image_{i}: {{input: image, slice: "[{i}]"}}' for i in range(3)]
    filled = re.sub(r"^  image: .*\n", "", text, flags=re.MULTILINE).replace("  # image_", "  image_")
    parts = config_in(filled).modalities
    assert {m: (s.input, s.slice) for m, s in parts.items()} == {f"image_{i}": ("image", f"[{i}]") for i in range(3)}


def test_files_beside_the_weights_count_for_more() -> None:
    data = splits({"image": draw(3, 8, 8), "label": torch.arange(N) % 3})
    fields = tuple(InputField(name, "image", f"[{i}]") for i, name in enumerate(("t1", "t2", "flair")))
    found = written_for(Stack(), data, Described("MONAI bundle", inputs=fields, task="regression", label="label"))
    assert {m: s.slice for m, s in found.observed.sections.items()} == {"t1": "[0]", "t2": "[1]", "flair": "[2]"}
    assert found.observed.outcome.task == "regression"
    assert "# MONAI bundle, as the files beside the weights say." in found.text
    assert found.observed.fusion == "conv"  # the first that mixes the channels
    assert (
        found.verified.refused is not None
    )  # classes are no numbers of the answer's shape, as the files would have it
    assert "# Not verified: diagnose refuses this config as it stands" in found.text


def test_names_of_the_files_beside_stay() -> None:
    data = splits({"a": draw(6), "b": draw(5), "label": torch.arange(N) % 3})
    beside = Described("LeRobot", inputs=(InputField("front", "a"), InputField("joints", "b")))
    found = written_for(OfMapping("a", "b"), data, beside)
    assert {m: (s.input, s.encoder) for m, s in found.observed.sections.items()} == {
        "front": ("a", "a"),
        "joints": ("b", "b"),
    }
    assert found.verified.refused is None, found.verified.refused


def test_fields_that_are_not_there_leave_the_files_aside() -> None:
    data = splits({"a": draw(6), "b": draw(5), "label": torch.arange(N) % 3})
    beside = Described("LeRobot", inputs=(InputField("top", "observation.images.top"),))
    assert set(observed_of(OfMapping("a", "b"), data, beside).sections) == {"a", "b"}


def test_a_segment_field_parts_a_sequence() -> None:
    class Stream(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.table = nn.Embedding(30, 8)
            self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
            self.head = nn.Linear(8, 3)

        def forward(self, tokens: Tensor) -> Tensor:
            out: Tensor = self.head(self.layer(self.table(tokens)).mean(1))
            return out

    tokens = torch.randint(0, 30, (N, 6), generator=torch.Generator().manual_seed(0))
    kind = torch.tensor([0, 0, 0, 1, 1, 1]).expand(N, -1).clone()
    found = written_for(Stream(), splits({"tokens": tokens, "kind": kind, "label": torch.arange(N) % 3}))
    assert {m: s.where for m, s in found.observed.sections.items()} == {
        "tokens_0": "kind == 0",
        "tokens_1": "kind == 1",
    }
    assert found.observed.fusion == "layer"
    assert found.verified.refused is None, found.verified.refused


def test_a_modality_that_a_whole_split_lacks_is_looked_for_in_another() -> None:
    class Lacking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.a, self.b, self.fusion, self.head = nn.Linear(6, 8), nn.Linear(5, 8), nn.Linear(16, 9), nn.Linear(9, 3)

        def forward(self, a: Tensor, b: Tensor | None = None) -> Tensor:
            there = torch.zeros(len(a), 8) if b is None else self.b(b)
            out: Tensor = self.head(self.fusion(torch.cat([self.a(a), there], 1)))
            return out

    whole = {"a": draw(6), "b": draw(5), "label": torch.arange(N) % 3}
    found = written_for(Lacking(), {"train": [whole], "test": [{**whole, "b": None}]})
    assert found.observed.split == "train"
    assert set(found.observed.sections) == {"a", "b"}
    assert found.observed.sections["b"].encoder is None  # it is not called where b is missing
    assert found.verified.refused is None, found.verified.refused


def test_an_encoder_whose_output_has_as_many_tokens_as_the_longest_is_left_out() -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.table, self.b = nn.Embedding(30, 8, padding_idx=0), nn.Linear(5, 8)
            self.fusion, self.head = nn.Linear(16, 9), nn.Linear(9, 3)

        def forward(self, ids: Tensor, b: Tensor) -> Tensor:
            read = self.table(ids).sum(1)
            out: Tensor = self.head(self.fusion(torch.cat([read, self.b(b)], 1)))
            return out

    g = torch.Generator().manual_seed(0)
    sizes = [3 + i // 2 for i in range(8)]  # of a batch each
    ids = [torch.randint(1, 30, (6, size), generator=g) for size in sizes]
    data = [{"ids": x, "b": torch.randn(6, 5, generator=g), "label": torch.arange(6) % 3} for x in ids]
    found = written_for(Words(), {"train": data, "test": data})
    assert {m: s.encoder for m, s in found.observed.sections.items()} == {"ids": None, "b": "b"}
    assert any("Of several sizes" in note and "ids" in note for note in found.observed.notes)
    assert found.verified.refused is None, found.verified.refused


def test_texts_beside_the_label_leave_it_the_only_one() -> None:
    batch = {"a": draw(6), "b": draw(5), "kind": torch.arange(N) % 3, "patient": [f"P{i}" for i in range(N)]}
    data = {"train": [batch], "test": [batch]}
    found = written_for(OfMapping("a", "b"), data)
    assert (found.observed.outcome.label, found.observed.outcome.task) == ("kind", "classification")
    assert found.verified.refused is None, found.verified.refused


def test_a_label_that_is_open_has_a_line_to_fill_in() -> None:
    data = splits({"a": draw(6), "b": draw(5), "kind": torch.arange(N) % 3, "ward": torch.arange(N) % 2})
    text = written_for(OfMapping("a", "b"), data).text
    assert "# FILL IN: Which field is the label? Left are kind, ward." in text
    filled = text.replace("  # label:  # FILL IN", "  label: kind  # FILL IN")
    assert filled != text
    assert config_in(filled).data.label == "kind"


def test_a_model_that_nothing_moves_is_asked_about() -> None:
    data = splits({"a": torch.ones(N, 6), "b": torch.ones(N, 5), "label": torch.arange(N) % 3})
    found = written_for(OfMapping("a", "b"), data)
    assert found.observed.sections == {}
    assert config_in(found.text).modalities == {}
    assert "# FILL IN: Which fields are modalities?" in found.text
    assert any("The same in all rows, so nothing could be seen: a, b" in note for note in found.observed.notes)


def test_bytes_are_asked_about() -> None:
    class Bytes(Stack):
        def forward(self, image: Tensor, audio: Tensor) -> Tensor:  # type: ignore[override]
            return super().forward(image.float() / 255) + audio[:, :3]

    image = torch.randint(0, 256, (N, 3, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    data = splits({"image": image, "audio": draw(5), "label": torch.arange(N) % 3})
    found = written_for(Bytes(), data)
    assert re.search(r"image: .*uint8; add `scale: 255`", found.text)


@pytest.mark.parametrize(
    ("groups", "encoders", "names"),
    [
        ({"observation.images.top": ["observation.images.top"]}, {}, ["top"]),
        ({"pixel_values": ["pixel_values"], "input_ids": ["input_ids"]}, {}, ["image", "text"]),
        ({"x1": ["x1"], "x2": ["x2"]}, {"x1": "net.rgb_encoder", "x2": "enc_audio.proj"}, ["rgb", "audio"]),
        ({"left.image": ["left.image"], "right.image": ["right.image"]}, {}, ["left_image", "right_image"]),
        ({"x": ["x"], "y0": ["y0"]}, {"x": "0.1"}, ["x", "y0"]),
    ],
)
def test_names_are_short_and_clear(groups: dict[str, list[str]], encoders: dict[str, str], names: list[str]) -> None:
    assert list(name_modalities(groups, encoders).values()) == names


def test_the_text_reads_back_as_it_was_named() -> None:
    data = splits({"a": draw(6), "b": draw(5), "label": torch.arange(N) % 3})
    observed = observed_of(OfMapping("a", "b"), data)
    kwargs = {"width": 3, "rates": [0.5, 1e-3, 1e-10], "name": "no", "deep": {"on": True, "none": None}}
    text = observed_text(observed, Named("my.module:build", kwargs, "my runs/c.pt", "d:1.npz", None))
    read = yaml.safe_load(text)
    assert read["model"] == {"factory": "my.module:build", "kwargs": kwargs, "checkpoint": "my runs/c.pt"}
    assert read["data"] == {"path": "d:1.npz", "label": "label"}


def test_fields_that_the_model_can_do_without_are_not_given_to_it() -> None:
    data = splits({"a": draw(6), "b": draw(5), "fold": torch.zeros(N), "path": draw(2), "label": torch.arange(N) % 3})
    found = written_for(OfMapping("a", "b"), data)
    assert found.observed.also == ()
    assert "also" not in yaml.safe_load(found.text)["data"]
    assert any("Unused by the model: path" in note for note in found.observed.notes)
    assert any("The same in all rows, so nothing could be seen: fold" in note for note in found.observed.notes)


def test_a_field_that_says_what_of_the_label_is_padding_is_no_label() -> None:
    data = splits({"a": draw(6), "b": draw(5), "action_is_pad": torch.zeros(N, 3), "action": draw(3)})
    found = observed_of(OfMapping("a", "b"), data)
    assert (found.outcome.label, found.outcome.others) == ("action", ())


class Draws(OfMapping):
    """Adds noise to what it answers."""

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        out = super().forward(batch)
        return out + 0.1 * torch.randn_like(out)


def test_a_model_that_draws_is_averaged_over_seeds() -> None:
    data = splits({"one": draw(6), "other": draw(5), "label": torch.arange(N) % 3})
    found = written_for(Draws("one", "other"), data)
    assert found.verified.refused is None
    assert config_in(found.text).model.samples == 8
    assert "samples_answers" in found.text
    assert "samples" not in written_for(OfMapping("one", "other"), data).text
