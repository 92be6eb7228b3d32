"""Configs that are wrong in one place: the message names the field, shows what forward takes and says the line to write."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from collapsekit import diagnose
from collapsekit.data.objects import ObjectStore
from collapsekit.errors import CollapsekitError
from collapsekit.report.diagnosis import Report

N = 40


class Two(nn.Module):
    """Takes audio of six numbers and an image of twelve."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.ears, self.eyes = nn.Linear(6, 8), nn.Linear(12, 8)
        self.head = nn.Sequential(nn.Linear(16, 9), nn.Tanh(), nn.Linear(9, 3))

    def forward(self, audio: Tensor, image: Tensor, scale: float = 1.0) -> Tensor:
        out: Tensor = self.head(torch.cat([self.ears(audio), self.eyes(image)], 1) * scale)
        return out


G = torch.Generator().manual_seed(0)
PARTS = (torch.randn(N, 6, generator=G), torch.randn(N, 12, generator=G), torch.arange(N) % 3)
NAMES = ("audio", "image", "label")
TAKES = r"the model's forward takes \(audio, image, scale=\.\.\.\)"
TUPLES = {"test": TensorDataset(*PARTS)}
LOADERS = {"test": DataLoader(TensorDataset(*PARTS), batch_size=16)}
ARRAYS = {"test": dict(zip(NAMES, PARTS, strict=True))}
BATCHES = {"test": [ARRAYS["test"]]}
RENAMED = {"test": [{"audio": PARTS[0], "picture": PARTS[1], "target": PARTS[2]}]}
CONFIG: dict[str, Any] = {"modalities": {"audio": "ears", "image": "eyes"}}


def run(given: Any, tmp_path: Path, **changes: Any) -> Report:
    how = {"probes": ["reliance"], "profile": "quick", "options": {"reliance": {"draws": 2}}, "cache": tmp_path}
    return diagnose(model=Two(), config={**CONFIG, **changes}, data=given, **how)


def said(given: Any, tmp_path: Path, **changes: Any) -> str:
    with pytest.raises(CollapsekitError) as caught:
        run(given, tmp_path, **changes)
    assert re.search(TAKES, str(caught.value)), str(caught.value)
    return str(caught.value)


def mended(message: str, given: Any, tmp_path: Path, **changes: Any) -> Report:
    """What the line in a message gives when it is written into the config."""
    config = dict(changes)
    for line in re.findall(r"`([a-z_]+: [^`]+)`", message):
        for key, value in yaml.safe_load(line).items():
            if key in ("batch", "call"):
                config[key] = value
            elif key == "data":
                config["data"] = {**config.get("data", {}), **value}
            else:
                config["modalities"] = {**config.get("modalities", CONFIG["modalities"]), key: value}
    return run(given, tmp_path, **config)


@pytest.mark.parametrize(
    ("data", "changes", "names"),
    [
        (TUPLES, {}, "'audio': it has 0, 1, 2"),
        (LOADERS, {}, "'audio': it has 0, 1, 2"),
        (TUPLES, {"batch": ["audio", "image"]}, "'label': it has audio, image, 2"),
        (TUPLES, {"batch": ["audio", "imgae", "label"]}, "'image' (did you mean 'imgae'?)"),
        (TUPLES, {"batch": ["image", "audio", "label"]}, "called with kwargs (audio (40, 12) float32, image (40, 6)"),
        (TUPLES, {"batch": ["audio", "image", "target"]}, "'label': it has audio, image, target"),
        (ARRAYS, {"data": {"label": "target"}}, "'target'"),
        (BATCHES, {"data": {"label": "lable"}}, "'lable' (did you mean 'label'?)"),
        ({"test": [{**ARRAYS["test"], "picture": PARTS[1]}]}, {"call": "dict"}, "forward failed, called with dict"),
        (RENAMED, {"data": {"label": "target"}}, "'image'"),
        (ARRAYS, {"modalities": {"audio": "ears", "picture": "eyes"}}, "'picture'"),
        (TUPLES, {"modalities": {"audio": {"input": "0"}, "image": {"input": "1"}}, "data": {"label": "2"}}, "'0'"),
    ],
    ids=[
        "no batch",
        "no batch, a loader",
        "fewer names",
        "misspelt",
        "swapped order",
        "another label",
        "wrong label",
        "misspelt label",
        "another call",
        "wrong key",
        "wrong name",
        "positions",
    ],
)
def test_the_line_that_is_said_mends_it(data: Any, changes: dict[str, Any], names: str, tmp_path: Path) -> None:
    message = said(data, tmp_path, **changes)
    assert names in message
    wanted = run(ARRAYS, tmp_path)
    found = mended(message, data, tmp_path, **changes)
    assert len(found.results) == len(wanted.results)
    for one, other in zip(found.results, wanted.results, strict=True):
        assert one.name == other.name
        assert one.value == (None if other.value is None else pytest.approx(other.value, rel=1e-5))


def test_inputs_by_their_order_are_put_in_the_one_that_is_answered(tmp_path: Path) -> None:
    config = {"modalities": {"image": "eyes", "audio": "ears"}, "call": "positional"}
    assert "list the modalities so that their inputs are audio, image" in said(ARRAYS, tmp_path, **config)


def test_fields_that_forward_does_not_know_and_needs(tmp_path: Path) -> None:
    message = said(ARRAYS, tmp_path, data={"also": ["mask"]})
    assert "no 'mask'" in message
    assert "take 'mask' out of `data: {also: [...]}`" in message
    message = said({"test": {**ARRAYS["test"], "mask": PARTS[0]}}, tmp_path, data={"also": ["mask"]})
    assert "it does not know mask: to give them by their order" in message


class ByOrder(Two):
    """Takes its inputs by their order, and names none."""

    def forward(self, *inputs: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(*inputs)  # type: ignore[arg-type]


def test_a_forward_that_names_no_inputs_is_given_them_by_their_order() -> None:
    with pytest.raises(CollapsekitError, match="by their order, audio, image, write `call: positional`"):
        diagnose(model=ByOrder(), config=CONFIG, data=ARRAYS, probes=["reliance"])
    config = {**CONFIG, "call": "positional"}
    assert diagnose(model=ByOrder(), config=config, data=ARRAYS, probes=["reliance"], profile="quick").results


def test_encoders_beside_the_wrong_names_are_refused(tmp_path: Path) -> None:
    wrong = {"modalities": {"audio": "eyes", "image": "ears"}}
    with pytest.raises(
        CollapsekitError, match=r"encoder 'eyes' .* does not move with 'audio', and moves with image: .*"
    ) as e:
        run(ARRAYS, tmp_path, **wrong)
    assert "give 'image' this encoder, and 'audio' that of 'image'" in str(e.value)


def test_an_encoder_that_nothing_moves_is_a_finding_and_no_error(tmp_path: Path) -> None:
    model = Two()
    nn.init.zeros_(model.ears.weight)
    how = {"probes": ["reliance"], "profile": "quick", "options": {"reliance": {"draws": 2}}, "cache": tmp_path}
    report = diagnose(model=model, config=CONFIG, data=ARRAYS, **how)
    found = report.find("reliance.shapley", "audio")
    assert found is not None
    assert found.value == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("gone", ["test/audio", "test/label"])
def test_a_file_without_an_array_shows_forward_of_what_the_factory_builds(gone: str, tmp_path: Path) -> None:
    arrays = {f"test/{k}": v.numpy() for k, v in ARRAYS["test"].items()}
    arrays["test/other"] = arrays.pop(gone)
    np.savez(tmp_path / "d.npz", **arrays)
    torch.save(Two().state_dict(), tmp_path / "ckpt.pt")
    config = {**CONFIG, "model": {"factory": f"{__name__}:Two"}, "data": {"path": str(tmp_path / "d.npz")}}
    with pytest.raises(CollapsekitError, match=TAKES + r"; write .*other") as caught:
        diagnose(tmp_path / "ckpt.pt", config=config, cache=tmp_path)
    assert f"no '{gone.split('/')[1]}'" in str(caught.value)


class Picture:
    """As an image of PIL shows itself to NumPy: no `__array__`, no public field that tells two apart."""

    def __init__(self, values: np.ndarray[Any, Any]) -> None:
        self._values = values
        self.mode = "L"

    @property
    def __array_interface__(self) -> dict[str, Any]:
        return self._values.__array_interface__


class Pictures(Dataset[Any]):
    def __len__(self) -> int:
        return N

    def __getitem__(self, i: int) -> Any:
        return PARTS[0][i], Picture((PARTS[1][i].numpy() * 20 + 128).astype(np.uint8)), int(PARTS[2][i])


class WithPictures(Two):
    """Makes tensors of images itself."""

    def forward(self, audio: Tensor, image: Any, scale: float = 1.0) -> Tensor:
        return super().forward(audio, torch.stack([torch.from_numpy(np.asarray(one)).float() for one in image]), scale)


def test_images_that_are_no_tensors_are_told_from_one_another(tmp_path: Path) -> None:
    config = {"modalities": {"audio": "ears", "image": {}}, "batch": list(NAMES)}
    how = {"probes": ["reliance"], "profile": "quick", "options": {"reliance": {"draws": 2}}, "cache": tmp_path}
    found = diagnose(model=WithPictures(), config=config, data={"test": Pictures()}, **how)
    assert len(ObjectStore("image").add([Pictures()[i][1] for i in range(N)]).unique()) == N
    credit = found.find("reliance.shapley", "image")
    assert credit is not None
    assert abs(float(credit.value or 0)) > 1e-4  # were all taken for one, to exchange them would change nothing


def test_images_for_a_model_that_takes_tensors(tmp_path: Path) -> None:
    message = said({"test": Pictures()}, tmp_path, batch=list(NAMES))
    assert "image came as images" in message
    assert "torch.from_numpy(numpy.array(image))" in message
