"""Files read in this process, tensors compared bit by bit, and zip archives written anew with other members."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

from collapsekit.checkpoint.formats.detect import LocatedWeights, locate
from collapsekit.checkpoint.formats.layout import ITEM_BYTES
from collapsekit.checkpoint.formats.worker import as_data
from collapsekit.checkpoint.mmap import mapped
from collapsekit.errors import RefusedError

DTYPES = [getattr(torch, name) for name in ITEM_BYTES]


def tensors_of(found: LocatedWeights) -> dict[str, Tensor]:
    """As the parent process gets them: through JSON, then mapped."""
    data = json.loads(json.dumps(as_data(found)))
    return mapped(data["files"], data["tensors"])


def read(path: Path) -> dict[str, Tensor]:
    """Named tensors of a file or directory, read in this process."""
    return tensors_of(locate(path))


def bits(tensor: Tensor) -> bytes:
    """The elements' bytes in row-major order."""
    return tensor.detach().clone(memory_format=torch.contiguous_format).reshape(-1).view(torch.uint8).numpy().tobytes()


def assert_same(got: Mapping[str, Tensor], want: Mapping[str, Tensor], *, order: bool = True) -> None:
    """Names, dtypes, shapes and every bit."""
    assert (list(got) if order else sorted(got)) == (list(want) if order else sorted(want))
    for name, tensor in want.items():
        assert got[name].dtype == tensor.dtype, name
        assert got[name].shape == tensor.shape, name
        assert bits(got[name]) == bits(tensor), name
        assert not got[name].requires_grad


def refused(path: Path, *words: str) -> RefusedError:
    """The refusal of a path, which says ``words``."""
    with pytest.raises(RefusedError) as e:
        locate(path)
    for word in words:
        assert word in str(e.value)
    return e.value


def rezipped(path: Path, change: Callable[[str, bytes], bytes | None], add: Mapping[str, bytes] | None = None) -> None:
    """The archive with each member as ``change(name below the root, content)`` gives it; None leaves it out."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    root = next(iter(members)).split("/")[0] + "/"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            changed = change(name.removeprefix(root), content)
            if changed is not None:
                archive.writestr(name, changed)
        for name, content in (add or {}).items():
            archive.writestr(root + name, content)


def numbers(dtype: torch.dtype, count: int, seed: int = 0) -> Tensor:
    """``count`` elements of random bits (of 0 and 1 for bool): NaN, infinities and denormals among them."""
    g = torch.Generator().manual_seed(seed)
    raw = torch.randint(0, 2 if dtype == torch.bool else 256, (count * dtype.itemsize,), generator=g)
    return raw.to(torch.uint8).view(dtype)


@st.composite
def views(draw: st.DrawFn, base: Tensor) -> Tensor:
    """A view of a vector: 0 to 4 dimensions, empty, transposed, sliced, expanded or overlapping."""
    shape = draw(st.lists(st.integers(0, 4), max_size=4))
    stride = [draw(st.integers(0, 5)) for _ in shape]
    span = sum((n - 1) * s for n, s in zip(shape, stride, strict=True)) if all(shape) else 0
    if span >= len(base):
        shape, stride, span = [], [], 0
    offset = draw(st.integers(0, len(base) - 1 - span))
    return base.as_strided(shape, stride, offset)


def any_json(value: Any) -> bytes:
    """As UTF-8."""
    return json.dumps(value).encode()
