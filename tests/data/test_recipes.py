"""Every recipe of docs/data.md, run as it stands there: it gives the numbers that the same tensors in a file give."""

from __future__ import annotations

import io
import re
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from collapsekit import diagnose
from collapsekit.autoconfig.running.text import Named
from collapsekit.autoconfig.running.write import write_observed
from collapsekit.checkpoint.read import read_checkpoint
from collapsekit.config.load import check_config
from collapsekit.io.yaml import parse_yaml
from collapsekit.registry import load_builtins
from collapsekit.report.diagnosis import Report

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
SIZES = {"train": 60, "test": 48}
MODEL = """
import torch
from torch import nn

class Two(nn.Module):
    def __init__(self, image=12):
        super().__init__()
        self.audio = nn.Linear(6, 8)
        self.image = nn.Sequential(nn.Flatten(), nn.Linear(image, 8))
        self.fusion = nn.Sequential(nn.Linear(16, 12), nn.Tanh())
        self.head = nn.Linear(12, 3)

    def forward(self, audio, image):
        return self.head(self.fusion(torch.cat([self.audio(audio), self.image(image)], 1)))

class Stacked(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.Conv2d(4, 6, 2), nn.Linear(6, 3)

    def forward(self, image):
        return self.head(torch.tanh(self.layer(image)).mean((2, 3)))
"""
HEAD = """
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, StackDataset, TensorDataset
from safetensors.torch import load_file
"""
ARRAYS = """
def arrays(split):
    held = load_file("all.safetensors")
    return [held[f"{split}/{name}"] for name in ("audio", "image", "label")]
"""


def section(title: str) -> str:
    """A part of the page, from its heading to the next."""
    return re.split(r"\n##+ ", PAGE.split(f"### {title}\n", 1)[1])[0]


def blocks(title: str, kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", section(title), re.DOTALL)


def make_arrays() -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(0)
    found: dict[str, Tensor] = {}
    for split, n in SIZES.items():
        label = torch.randint(0, 3, (n,), generator=g)
        found[f"{split}/audio"] = torch.randn(n, 6, generator=g) + label[:, None]
        found[f"{split}/image"] = torch.randn(n, 12, generator=g) - label[:, None]
        found[f"{split}/label"] = label
    return found


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Path:
    """An empty working directory with a model of two modalities, its weights, and data in one file of tensors."""
    from safetensors.torch import save_file

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "my_models.py").write_text(MODEL)
    torch.manual_seed(1)
    space: dict[str, Any] = {}
    exec(MODEL, space)
    torch.save(space["Two"]().state_dict(), tmp_path / "ckpt.pt")
    torch.save(space["Stacked"]().state_dict(), tmp_path / "stacked.pt")
    save_file(make_arrays(), tmp_path / "all.safetensors")
    return tmp_path


def diagnosed(folder: Path, yaml: str, *, factory: str = "my_models:Two", checkpoint: str = "ckpt.pt") -> Report:
    raw = {"modalities": {"audio": "audio", "image": "image"}, **parse_yaml(yaml, "the recipe")}
    raw["model"] = {"factory": factory, "checkpoint": checkpoint}
    return diagnose(
        config=check_config(raw, base=folder),
        probes=["reliance"],
        profile="quick",
        options={"reliance": {"draws": 3}},
        cache=folder / "cache",
    )


def plain(folder: Path) -> Report:
    """What the same tensors in a file give."""
    return diagnosed(folder, "data: {path: all.safetensors}")


def assert_same(found: Report, wanted: Report) -> None:
    assert [(r.name, r.modality) for r in found.results] == [(r.name, r.modality) for r in wanted.results]
    for one, other in zip(found.results, wanted.results, strict=True):
        assert (one.value is None) == (other.value is None)
        if other.value is not None:
            assert one.value == pytest.approx(other.value, rel=1e-6), one.name


def write_data(folder: Path, title: str, head: str = "") -> str:
    """The recipe's Python as my_data.py; its YAML."""
    (folder / "my_data.py").write_text(HEAD + ARRAYS + head + blocks(title, "python")[0])
    return blocks(title, "yaml")[0]


def test_tensor_datasets_and_loaders(folder: Path) -> None:
    yaml = write_data(folder, "A TensorDataset, or a DataLoader of one")
    assert_same(diagnosed(folder, yaml), plain(folder))


def save_parquet(folder: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="the library datasets is not installed (it brings 170 MB)")
    held = make_arrays()
    for split in SIZES:
        columns = {name: held[f"{split}/{name}"].numpy() for name in ("audio", "image", "label")}
        datasets.Dataset.from_dict(columns).to_parquet(str(folder / f"{split}.parquet"))


@pytest.mark.parametrize("form", [".with_format('torch')", "", ".with_format('numpy')"])
def test_hugging_face_datasets(form: str, folder: Path) -> None:
    save_parquet(folder)
    title = "Hugging Face datasets"
    yaml = write_data(folder, title, "import datasets\n")
    code = (folder / "my_data.py").read_text()
    assert '.with_format("torch")' in code
    (folder / "my_data.py").write_text(code.replace('.with_format("torch")', form))
    assert_same(diagnosed(folder, yaml), plain(folder))


class Duck:
    """What a datasets.Dataset is to torch: no class of torch's, examples by number, and several at once."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> dict[str, Any]:
        return self.rows[i]

    def __getitems__(self, places: list[int]) -> list[dict[str, Any]]:
        return [self.rows[i] for i in places]


def ducks() -> dict[str, Duck]:
    held = make_arrays()
    names = ("audio", "image", "label")
    return {s: Duck([{n: held[f"{s}/{n}"][i].tolist() for n in names} for i in range(SIZES[s])]) for s in SIZES}


def test_rows_of_lists_of_numbers_are_read_without_the_library(folder: Path) -> None:
    wanted = plain(folder)
    config = {"modalities": {"audio": "audio", "image": "image"}, "model": {"factory": "my_models:Two"}}
    how = {"probes": ["reliance"], "profile": "quick", "options": {"reliance": {"draws": 3}}, "cache": folder / "cache"}
    found = diagnose("ckpt.pt", config=check_config(config, base=folder), data=ducks(), **how)
    assert_same(found, wanted)
    limited = diagnose("ckpt.pt", config=check_config(config, base=folder), data=ducks(), limit=20, **how)
    assert limited.subject.examples == 20


def save_shards(folder: Path, extra: dict[str, bytes] | None = None) -> None:
    """Shards as webdataset writes them: members KEY.audio.npy, KEY.image.npy, KEY.cls."""

    def npy(value: Tensor) -> bytes:
        stream = io.BytesIO()
        np.save(stream, value.numpy())
        return stream.getvalue()

    held = make_arrays()
    (folder / "shards").mkdir()
    for split, n in SIZES.items():
        count = 2 if split == "train" else 1
        for shard in range(count):
            with tarfile.open(folder / "shards" / f"{split}-{shard:06}.tar", "w") as archive:
                for i in range(shard, n, count):
                    parts = {f"{k}.npy": npy(held[f"{split}/{k}"][i]) for k in ("audio", "image")}
                    parts["cls"] = str(int(held[f"{split}/label"][i])).encode()
                    for name, data in {**parts, **(extra or {})}.items():
                        info = tarfile.TarInfo(f"{i:06}.{name}")
                        info.size = len(data)
                        archive.addfile(info, io.BytesIO(data))


class Acts:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (Path(self.path),)


def test_shards_of_webdataset_and_nothing_in_them_is_run(folder: Path) -> None:
    import pickle

    pytest.importorskip("webdataset", reason="the library webdataset is not installed")
    mark = folder / "was run"
    save_shards(folder, {"pyd": pickle.dumps(Acts(str(mark))), "pickle": pickle.dumps(Acts(str(mark)))})
    yaml = write_data(folder, "A folder of webdataset shards", "import webdataset as wds\n")
    assert_same(diagnosed(folder, yaml), plain(folder))
    assert not mark.exists()


PAIRS = """
class Pictures(Dataset):
    def __init__(self, split, transform=None):
        _, self.images, self.labels = arrays(split)
        self.transform = transform
    def __len__(self):
        return len(self.labels)
    def __getitem__(self, i):
        image = self.images[i].numpy()
        return self.transform(image), int(self.labels[i])

class Sounds(Pictures):
    def __init__(self, split):
        self.images, _, self.labels = arrays(split)
        self.transform = torch.from_numpy

to_tensor = torch.from_numpy
"""


def test_two_datasets_of_image_and_target(folder: Path) -> None:
    yaml = write_data(folder, "Datasets of (image, target)", PAIRS)
    raw = parse_yaml(yaml, "the recipe")
    for m in raw["modalities"]:
        raw["modalities"][m]["encoder"] = m
    import yaml as writer

    assert_same(diagnosed(folder, writer.safe_dump(raw, sort_keys=False)), plain(folder))


def test_channels_of_one_image(folder: Path) -> None:
    (folder / "my_data.py").write_text(
        HEAD
        + """
class Rgbd(Dataset):
    def __len__(self):
        return 40
    def __getitem__(self, i):
        g = torch.Generator().manual_seed(i)
        return torch.rand(4, 5, 5, generator=g).numpy(), i % 3

def loaders():
    return {"test": Rgbd()}
"""
    )
    yaml = blocks("Datasets of (image, target)", "yaml")[1]
    report = diagnosed(folder, yaml, factory="my_models:Stacked", checkpoint="stacked.pt")
    assert report.subject.modalities == ("colour", "depth")
    assert report.find("reliance.shapley", "depth") is not None


def test_a_flat_file_with_words_for_splits(folder: Path) -> None:
    held = make_arrays()
    audio, image, label = (torch.cat([held[f"{s}/{n}"] for s in SIZES]).numpy() for n in ("audio", "image", "label"))
    space = {"np": np, "audio": audio, "image": image, "label": label, "rng": np.random.default_rng(0)}
    exec(blocks("One file, with or without splits in its names", "python")[0], space)
    report = diagnosed(folder, blocks("One file, with or without splits in its names", "yaml")[0])
    with np.load("data.npz") as file:
        assert report.subject.examples == int((file["split"] == "test").sum()) > 20
    words = np.repeat(list(SIZES), list(SIZES.values()))
    np.savez("data.npz", audio=audio, image=image, label=label, split=words)
    assert_same(diagnosed(folder, "data: {path: data.npz}"), plain(folder))


@pytest.mark.parametrize("nested", [True, False])
def test_what_torch_save_wrote_is_read_and_not_run(nested: bool, folder: Path) -> None:
    held = make_arrays()
    by_split = {s: {k.split("/")[1]: v for k, v in held.items() if k.startswith(s)} for s in SIZES}
    flat = {n: torch.cat([by_split[s][n] for s in SIZES]) for n in ("audio", "image", "label")}
    flat["split"] = torch.tensor([2 * (s == "test") for s, n in SIZES.items() for _ in range(n)])
    torch.save(by_split if nested else flat, folder / "data.pt")
    assert_same(diagnosed(folder, "data: {path: data.pt}"), plain(folder))
    torch.save({**flat, "acts": Acts(str(folder / "was run"))}, folder / "data.pt")
    assert_same(diagnosed(folder, "data: {path: data.pt}"), plain(folder))
    assert not (folder / "was run").exists()


INIT = {
    "tensors": (
        HEAD + ARRAYS + 'def loaders():\n    return {s: TensorDataset(*arrays(s)) for s in ("train", "test")}\n'
    ),
    "batches": (
        HEAD
        + ARRAYS
        + 'def loaders():\n    return {s: DataLoader(TensorDataset(*arrays(s)), batch_size=16) for s in ("train", "test")}\n'
    ),
    "rows": "from tests.data.test_recipes import ducks as loaders\n",
    "pairs": HEAD
    + ARRAYS
    + PAIRS
    + "def loaders():\n"
    + '    return {s: StackDataset(audio=Sounds(s), image=Pictures(s, to_tensor)) for s in ("train", "test")}\n',
}


@pytest.mark.parametrize("kind", INIT)
def test_init_writes_what_runs_as_it_is(kind: str, folder: Path) -> None:
    load_builtins()
    (folder / "my_data.py").write_text(INIT[kind])
    named = Named("my_models:Two", {}, "ckpt.pt", None, "my_data:loaders")
    done = write_observed(named, folder, read_checkpoint(folder / "ckpt.pt"), None, None)
    assert done.verified.refused is None, done.text
    raw = parse_yaml(done.text, "what init wrote")
    assert {s.get("encoder") for s in raw["modalities"].values()} == {"audio", "image"}
    assert raw["task"] == "classification"
    if kind in ("tensors", "batches"):
        assert raw["batch"] == ["audio", "image", "label"]
        assert "The parts of your tuples have no names" in done.text


def test_every_recipe_of_the_page_is_run_here() -> None:
    titles = re.findall(r"^### (.+)$", PAGE, re.MULTILINE)
    own = Path(__file__).read_text(encoding="utf-8")
    with_code = [t for t in titles if blocks(t, "python")]
    assert len(with_code) >= 5
    assert not [t for t in with_code if f'"{t}"' not in own]
