"""Arrays in files and users' loaders as batches by split; what they get wrong is named."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from collapsekit.config.load import check_config
from collapsekit.data.arrays import ArraySource, by_split, read_arrays
from collapsekit.data.base import Source
from collapsekit.data.factory import make_source
from collapsekit.data.loaders import LoaderSource
from collapsekit.data.memory import with_data
from collapsekit.errors import CollapsekitError, ConfigError, DataError, NothingEvaluatedError, RefusedError
from tests.problems import Problem, make_problem

pytestmark = pytest.mark.usefixtures("brief_joint")

RNG = np.random.default_rng(0)
ARRAYS = {
    "train/x": RNG.normal(size=(7, 3)).astype(np.float32),
    "train/y": np.arange(7),
    "test/x": np.asfortranarray(RNG.normal(size=(5, 3, 2))),
    "test/y": np.array([True, False, True, True, False]),
    "test/bytes": RNG.integers(0, 256, (5, 4)).astype(np.uint8),
    "test/depth": RNG.integers(0, 60_000, (5, 4)).astype(np.uint16),
    "test/big": RNG.normal(size=(5, 2)).astype(">f4"),
    "test/none": np.empty((0, 3), np.float32),
    "test/version": np.array(3),
}


def everything(
    source: Source, split: str, keys: list[str], size: int = 2, limit: int | None = None
) -> dict[str, Tensor]:
    batches = list(source.batches(split, keys, size, limit, 0))
    return {k: torch.cat([b[k] for b in batches]) for k in keys}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_is_what_numpy_reads(save: Callable[..., None], tmp_path: Path) -> None:
    path = tmp_path / "d.npz"
    save(path, **ARRAYS)
    found = read_arrays(path)
    assert found.keys() == ARRAYS.keys()
    for name, value in ARRAYS.items():
        assert found[name].numpy().astype(np.float64).tolist() == value.astype(np.float64).tolist()
        if value.ndim and len(value):
            _ = (found[name] > 0)[torch.tensor([0, 2])]  # of a kind that can be compared and indexed
    found["train/x"][0, 0] = 99.0  # a mapping of the file, but never written through
    assert float(read_arrays(path)["train/x"][0, 0]) == ARRAYS["train/x"][0, 0]


def test_text_arrays_are_left_out_and_objects_refused(tmp_path: Path) -> None:
    path = tmp_path / "d.npz"
    np.savez(path, **{"test/x": np.zeros(2), "test/id": np.array(["a", "b"])})
    assert read_arrays(path).keys() == {"test/x"}
    np.savez(path, **{"test/x": np.zeros(2), "test/id": np.array([{}, None], object)})
    with pytest.raises(RefusedError, match=r"Python objects|[Oo]bject arrays"):
        read_arrays(path)
    np.savez_compressed(path, **{"test/id": np.array([{}, None], object)})
    with pytest.raises(RefusedError, match=r"[Oo]bject arrays"):
        read_arrays(path)


@pytest.mark.parametrize("cut", [3, 40, 200, 500])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_damaged_files_are_refused(save: Callable[..., None], cut: int, tmp_path: Path) -> None:
    path = tmp_path / "d.npz"
    save(path, **{"test/x": RNG.normal(size=(30, 3))})
    whole = path.read_bytes()
    path.write_bytes(whole[:cut])
    with pytest.raises(RefusedError):
        read_arrays(path)
    # Length fields of the member's header overwritten.
    path.write_bytes(whole[:26] + b"\xff\xff\xff\xff" + whole[30:])
    with pytest.raises(RefusedError):
        read_arrays(path)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_never_crash(content: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        for head in (b"", b"PK", b"PK\x03\x04"):
            path = Path(folder) / "d.npz"
            path.write_bytes(head + content)
            with pytest.raises(RefusedError):
                read_arrays(path)


def test_other_files_in_a_zip_are_no_arrays(tmp_path: Path) -> None:
    path = tmp_path / "d.npz"
    np.savez(path, **{"test/x": np.zeros(2)})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("README.txt", "hello")
        archive.writestr("folder/", "")
    assert read_arrays(path).keys() == {"test/x"}


def test_safetensors_and_missing_files(tmp_path: Path) -> None:
    tensors = {"test/x": torch.randn(4, 2), "test/y": torch.arange(4)}
    save_file(tensors, tmp_path / "d.safetensors")
    found = read_arrays(tmp_path / "d.safetensors")
    assert all(torch.equal(found[k], v) for k, v in tensors.items())
    with pytest.raises(ConfigError, match="is not a file"):
        read_arrays(tmp_path / "no.npz")
    with pytest.raises(ConfigError, match="is not a file"):
        read_arrays(tmp_path)


def test_a_split_tensor_is_the_same_as_names_by_split() -> None:
    which = torch.tensor([2, 0, 1, 0, 2, 2])
    x, y = torch.randn(6, 2), torch.arange(6)
    found = by_split({"x": x, "y": y, "split": which, "classes": torch.arange(3), "t": torch.tensor(1)}, Path("d"))
    assert list(found) == ["train", "val", "test"]
    assert torch.equal(found["test"]["x"], x[[0, 4, 5]])
    assert torch.equal(found["train"]["y"], y[[1, 3]])
    assert found["test"].keys() == {"x", "y"}
    with pytest.raises(DataError, match=r"no 'classes'.*another length than a `split` tensor"):
        everything(ArraySource(found, "d"), "test", ["classes"])
    only = by_split({"x": x, "split": torch.zeros(6)}, Path("d"))
    with pytest.raises(ConfigError, match=r"no split 'test'.*the data has train"):
        ArraySource(only, "d").need("test")


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"x": torch.zeros(3)}, "neither SPLIT/NAME keys"),
        ({}, "it has nothing"),
        ({"x": torch.zeros(3), "split": torch.tensor([0, 1, 3])}, "found 3"),
        ({"x": torch.zeros(3), "split": torch.zeros(3, 1)}, r"found shape \(3, 1\)"),
    ],
)
def test_files_without_splits(arrays: dict[str, Tensor], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        by_split(arrays, Path("d.npz"))


def test_wrong_names_and_shapes_of_arrays_are_refused() -> None:
    source = ArraySource({"test": {"image": torch.zeros(3), "label": torch.zeros(4), "v": torch.tensor(1)}}, "d.npz")
    with pytest.raises(DataError, match=r"no 'imgae' .did you mean 'image'"):
        everything(source, "test", ["imgae"])
    with pytest.raises(DataError, match=r"unequal numbers of examples: \{'image': 3, 'label': 4\}"):
        everything(source, "test", ["image", "label"])
    with pytest.raises(DataError, match=r"'v' in split 'test' of d.npz is one number"):
        everything(source, "test", ["v"])
    with pytest.raises(ConfigError, match=r"no split 'tset'.*did you mean 'test'"):
        everything(source, "tset", ["image"])
    assert source.count("test") == 4  # an array without rows does not break the count


def test_an_empty_split_exits_5(tmp_path: Path) -> None:
    problem = make_problem(tmp_path, steps=0)
    problem.saved({k: v[:0] if k.startswith("test/") else v for k, v in problem.arrays.items()})
    with pytest.raises(NothingEvaluatedError) as caught:
        problem.diagnose(probes=["vif"])
    assert caught.value.exit_code == 5
    problem.saved({k: v[:0] if k.startswith("val/") else v for k, v in make_problem(tmp_path).arrays.items()})
    report = problem.diagnose(probes=["utilisation"])  # an empty val split is as none: a part of train chooses
    assert report.find("utilisation.ratio", "image") is not None


@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 3))
def test_limit_draws_rows_alike_whatever_the_batch(total: int, limit: int, seed: int) -> None:
    x = torch.arange(total)
    source = ArraySource({"test": {"x": x, "y": x * 2}}, "d")
    drawn = [torch.cat([b["x"] for b in source.batches("test", ["x"], size, limit, seed)]) for size in (1, 3, 64)]
    assert all(torch.equal(drawn[0], d) for d in drawn)
    assert len(drawn[0]) == min(limit, total) == len(drawn[0].unique())
    both = everything(source, "test", ["x", "y"], 3, limit)
    assert torch.equal(both["x"] * 2, both["y"])


class Rows(Dataset[dict[str, Any]]):
    def __init__(self, n: int = 9) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> dict[str, Any]:
        return {"x": np.full(2, i, np.float32), "label": i % 3, "text": "words"}


class Stream(IterableDataset[dict[str, Any]]):
    def __iter__(self) -> Iterator[dict[str, Any]]:
        yield from (Rows()[i] for i in range(9))


@pytest.mark.parametrize(
    "loader",
    [
        Rows(),
        Stream(),
        DataLoader(Rows(), batch_size=4),
        [{"x": torch.arange(9.0)[:, None].expand(9, 2), "label": torch.arange(9) % 3}],
    ],
)
def test_datasets_loaders_and_lists_of_batches(loader: Any) -> None:
    source = LoaderSource({"test": loader}, "mine")
    found = everything(source, "test", ["x", "label"], 2)
    assert found["x"][:, 0].tolist() == list(range(9))
    assert found["label"].tolist() == [i % 3 for i in range(9)]
    few = everything(source, "test", ["x", "label"], 2, limit=4)
    assert len(few["x"]) == 4
    assert torch.equal(few["x"][:, 0].long() % 3, few["label"])
    if isinstance(loader, Rows):  # where any row can be had, the limit draws from all
        assert few["x"][:, 0].tolist() != [0, 1, 2, 3]


class Breaks(Rows):
    def __getitem__(self, i: int) -> dict[str, Any]:
        raise OSError("disk on fire")


@pytest.mark.parametrize(
    ("loader", "keys", "says"),
    [
        (DataLoader(TensorDataset(torch.zeros(3))), ["x"], r"it has 0; name its parts with `batch: \[\.\.\.\]`"),
        ([torch.zeros(3)], ["x"], "yields Tensor"),
        (Rows(), ["lable"], "no 'lable'.*did you mean 'label'"),
        ([{"x": object()}], ["x"], "'x' in mine is object, expected a tensor or numbers"),
        ([{"x": 5}], ["x"], "one number"),
        ([{"x": torch.zeros(2), "y": torch.zeros(3)}], ["x", "y"], "unequal numbers of rows"),
        (Breaks(), ["x"], "reading split 'test' from mine failed: OSError: disk on fire"),
        (7, ["x"], "must be a DataLoader"),
        (Rows(0), ["x"], "is empty"),
        ([], ["x"], "is empty"),
    ],
)
def test_loaders_that_give_something_else(loader: Any, keys: list[str], says: str) -> None:
    with pytest.raises(CollapsekitError, match=says):
        everything(LoaderSource({"test": loader}, "mine"), "test", keys)


FACTORY = """
import torch
from torch.utils.data import DataLoader, Dataset
from pathlib import Path
from safetensors.torch import load_file

class Rows(Dataset):
    def __init__(self, split):
        arrays = load_file(Path(__file__).parent / "data.safetensors")
        self.x = {k.split("/")[1]: v for k, v in arrays.items() if k.startswith(split)}
    def __len__(self):
        return len(self.x["label"])
    def __getitem__(self, i):
        return {k: v[i] for k, v in self.x.items()}

def loaders(kind="dataset"):
    import srct_lazy
    made = {s: Rows(s) for s in srct_lazy.SPLITS}
    if kind == "loader":
        return {s: DataLoader(d, batch_size=17, shuffle=True) for s, d in made.items()}
    return made

class Module:
    def __init__(self):
        self.train, self.val, self.test = (Rows(s) for s in ("train", "val", "test"))

def none(): return {}
class LitBase:
    # stands in for lightning.LightningDataModule
    def prepare_data(self): raise NotImplementedError
    def setup(self, stage): raise NotImplementedError
    def val_dataloader(self): raise NotImplementedError
    def test_dataloader(self): raise NotImplementedError
for method in vars(LitBase).values():
    if callable(method): method.__module__ = "lightning.pytorch.core.hooks"

class LitData(LitBase):
    def __init__(self, kind="all"): self.kind, self.stages = kind, []
    def setup(self, stage):
        if self.kind == "fails": raise ValueError("no such bucket")
        self.stages.append(stage)
    def train_dataloader(self):
        return DataLoader(Rows("train"), batch_size=17, shuffle=True) if self.kind != "empty" else None
    def test_dataloader(self):
        assert self.stages == ["fit", "test"]
        return DataLoader(Rows("test"), batch_size=17) if self.kind != "empty" else None
class LitEmpty(LitData):
    def __init__(self): super().__init__("empty")
class LitFails(LitData):
    def __init__(self): super().__init__("fails")
class LitWhole(LitData):
    def val_dataloader(self): return DataLoader(Rows("val"), batch_size=17)
def fails(): raise ValueError("no such bucket")
constant = 5
"""


def factory_config(problem: Problem, spec: str, **kwargs: Any) -> Any:
    (problem.folder / "srct_data.py").write_text(FACTORY)
    (problem.folder / "srct_lazy.py").write_text("SPLITS = ('train', 'val', 'test')")
    raw = {**problem.config, "data": {"factory": f"srct_data:{spec}", "kwargs": kwargs}}
    return check_config(raw, base=problem.folder)


def test_every_way_of_giving_the_same_data_gives_the_same_report(problem: Problem, tmp_path: Path) -> None:
    wanted = problem.diagnose(probes=["reliance", "utilisation"])
    for spec, kwargs in (("loaders", {}), ("loaders", {"kind": "loader"}), ("Module", {}), ("LitWhole", {})):
        found = problem.diagnose(config=factory_config(problem, spec, **kwargs), probes=["reliance", "utilisation"])
        assert found.results == wanted.results
        assert found.modalities == wanted.modalities
    arrays = {k: v.numpy() for k, v in problem.arrays.items()}
    np.savez(tmp_path / "d.npz", **arrays)
    which = np.concatenate([np.full(len(arrays[f"{s}/label"]), i) for i, s in enumerate(("train", "val", "test"))])
    joined = {
        n: np.concatenate([arrays[f"{s}/{n}"] for s in ("train", "val", "test")]) for n in ("image", "audio", "label")
    }
    np.savez_compressed(tmp_path / "s.npz", split=which, **joined)
    for name in ("d.npz", "s.npz"):
        config = {**problem.config, "data": {"path": str(tmp_path / name)}}
        assert problem.diagnose(config=config, probes=["reliance", "utilisation"]).results == wanted.results


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("none", "gave an empty mapping, which has no splits: return .*, or a LightningDataModule\\.$"),
        ("LitEmpty", r"the data module of data.factory 'srct_data:LitEmpty' \(LitEmpty\) gave no loader"),
        ("LitFails", r"the data module of .* \(LitFails\) failed: ValueError: no such bucket \(.*srct_data.py:\d+\)"),
        ("fails", "failed with data.kwargs .*ValueError: no such bucket"),
        ("constant", "is int, expected a function"),
        ("loader", "did you mean 'loaders'"),
    ],
)
def test_factories_that_do_not_work(spec: str, says: str, problem: Problem) -> None:
    with pytest.raises(ConfigError, match=says):
        make_source(factory_config(problem, spec))


def test_a_data_module_is_taken_by_its_methods(problem: Problem) -> None:
    source = make_source(factory_config(problem, "LitData"))
    assert source.splits() == ["train", "test"]  # what Lightning's own class would raise at is no split
    import srct_data

    module = srct_data.LitData()
    _, held = with_data(factory_config(problem, "LitData"), module)
    assert held is not None
    assert held.splits() == ["train", "test"]
    assert module.stages == ["fit", "test"]


def test_path_and_factory_exclude_one_another() -> None:
    for data in ({}, {"path": "a", "factory": "b:c"}):
        with pytest.raises(ConfigError, match=r"exactly one of data.path and data.factory"):
            make_source(check_config({"data": data}, base=Path()))


def test_shuffling_loaders_do_not_change_a_limited_report(problem: Problem) -> None:
    config = factory_config(problem, "loaders", kind="loader")
    first = problem.diagnose(config=config, probes=["reliance"], limit=60)
    torch.rand(1)  # another random state of the caller's
    second = problem.diagnose(config=config, probes=["reliance"], limit=60)
    assert first.to_json() == second.to_json()
    assert first.subject.examples == 60


class EndsEarly(Dataset[dict[str, Any]]):
    """Raises StopIteration at an item, which DataLoader takes for the end of the data."""

    def __len__(self) -> int:
        return 20

    def __getitem__(self, i: int) -> dict[str, Any]:
        if i == 13:
            raise StopIteration
        return {"a": torch.zeros(2), "label": i % 2}


@pytest.mark.parametrize("loader", [EndsEarly(), DataLoader(EndsEarly(), batch_size=4)], ids=["dataset", "loader"])
def test_data_that_ends_early_is_no_smaller_split(loader: Any) -> None:
    source = LoaderSource({"test": loader}, "mine")
    with pytest.raises(DataError, match=r"split 'test' of mine gave 3 of its 5 batches"):
        list(source.batches("test", ["a", "label"], 4, None, 0))
