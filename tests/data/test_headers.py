"""Headers say what reading the whole file would find."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from collapsekit.data import arrays as sources
from collapsekit.data.arrays import by_split, read_arrays
from collapsekit.data.headers import read_sizes
from collapsekit.errors import ConfigError, RefusedError

Arrays = dict[str, Tensor]
KEYED: Arrays = {
    "train/image": torch.randn(6, 3, 2),
    "train/half": torch.randn(6, 3).to(torch.bfloat16),
    "train/label": torch.arange(6),
    "test/image": torch.randn(4, 3, 2).double(),
    "test/byte": torch.ones(4, dtype=torch.uint8),
    "test/told": torch.ones(4, dtype=torch.bool),
    "test/none": torch.zeros(0, 5),
    "stray": torch.ones(3),
}
COLUMN: Arrays = {
    "split": torch.tensor([0, 0, 2, 2, 2]),
    "image": torch.randn(5, 3),
    "odd": torch.randn(4, 3),
    "one": torch.tensor(1.0),
}


def npz(save: Callable[..., None]) -> Callable[[Mapping[str, Tensor], Path], None]:
    def write(arrays: Mapping[str, Tensor], path: Path) -> None:
        plain = {k: v.float().numpy() if v.dtype == torch.bfloat16 else v.numpy() for k, v in arrays.items()}
        words = np.array(["a"] * 4)
        with path.open("wb") as f:
            save(f, **plain, **{("test/words" if "test/image" in arrays else "words"): words})

    return write


WRITERS: dict[str, Callable[[Mapping[str, Tensor], Path], object]] = {
    "safetensors": lambda arrays, path: save_file(dict(arrays), path),
    "npz": npz(np.savez),
    "compressed npz": npz(np.savez_compressed),
}


@pytest.mark.parametrize("layout", ["keys", "column"])
@pytest.mark.parametrize("kind", WRITERS)
def test_headers_say_what_reading_all_finds(tmp_path: Path, kind: str, layout: str) -> None:
    path = tmp_path / "data"
    WRITERS[kind](KEYED if layout == "keys" else COLUMN, path)
    whole = by_split(read_arrays(path), path)
    sizes = {s: {k: v.numel() * v.element_size() for k, v in held.items()} for s, held in whole.items()}
    if kind != "safetensors" and layout == "keys":
        assert "words" not in sizes["test"]
    assert read_sizes(path) == sizes


@pytest.mark.parametrize("kind", WRITERS)
def test_no_example_is_read(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "data"
    WRITERS[kind](KEYED, path)

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("an array was read")

    monkeypatch.setattr(np.lib.format, "read_array", refuse)
    monkeypatch.setattr(sources, "read_arrays", refuse)
    assert set(read_sizes(path)) == {"train", "test"}


@pytest.mark.parametrize("content", [b"", b"PK\3\4nonsense", b"nonsense" * 9])
def test_what_cannot_be_read_is_refused_in_the_words_of_reading_it(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "data"
    path.write_bytes(content)
    with pytest.raises(RefusedError) as late:
        read_arrays(path)
    with pytest.raises(RefusedError) as early:
        read_sizes(path)
    assert str(early.value) == str(late.value)


def test_what_is_no_file_or_has_no_splits(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.path .*nothing is not a file"):
        read_sizes(tmp_path / "nothing")
    save_file({"image": torch.ones(3)}, tmp_path / "data")
    with pytest.raises(ConfigError, match="has neither SPLIT/NAME keys"):
        read_sizes(tmp_path / "data")
