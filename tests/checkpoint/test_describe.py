from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from collapsekit.checkpoint import describe as module
from collapsekit.checkpoint.describe import TensorRow, describe
from collapsekit.errors import ConfigError, RefusedError


def row(tmp_path: Path, tensor: Tensor) -> TensorRow:
    torch.save({"w": tensor}, tmp_path / "w.pt")
    (found,) = describe(tmp_path / "w.pt").tensors
    return found


@pytest.mark.parametrize(
    "tensor",
    [
        torch.randn(4, 5, dtype=torch.float64),
        torch.randn(4, 5).half(),
        torch.randn(7).bfloat16(),
        torch.randn(3, 3, dtype=torch.complex64),
        torch.randn(6, 4).t(),
        torch.arange(-5, 5),
        torch.tensor([True, False, True]),
        torch.tensor(2.5),
        torch.zeros(0, 3),
    ],
    ids=["double", "half", "bfloat16", "complex", "transposed", "integers", "bools", "scalar", "empty"],
)
def test_norms_are_those_of_numpy(tmp_path: Path, tensor: Tensor) -> None:
    got = row(tmp_path, tensor)
    wide = tensor.to(torch.complex128 if tensor.is_complex() else torch.float64).numpy()
    assert got.norm == pytest.approx(float(np.linalg.norm(wide.reshape(-1))), rel=1e-12)
    assert (got.shape, got.dtype) == (tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
    assert (got.bytes, got.nan, got.inf) == (tensor.numel() * tensor.itemsize, 0, 0)


def test_what_is_not_finite_is_counted_and_left_out_of_the_norm(tmp_path: Path) -> None:
    nan, inf = float("nan"), float("inf")
    got = row(tmp_path, torch.tensor([[3.0, nan, 4.0], [inf, -inf, nan]]))
    assert (got.norm, got.nan, got.inf) == (5.0, 2, 2)
    got = row(tmp_path, torch.tensor([complex(nan, 1), complex(0, inf), 3 + 4j]))
    assert (got.norm, got.nan, got.inf) == (5.0, 1, 1)


def test_a_norm_too_large_for_a_number_is_none(tmp_path: Path) -> None:
    assert row(tmp_path, torch.full((4,), 1e308, dtype=torch.float64)).norm is None
    assert row(tmp_path, torch.full((1,), 1e308, dtype=torch.float64)).norm == 1e308


def test_the_norm_does_not_depend_on_how_much_is_taken_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensor = torch.randn(100)
    whole = row(tmp_path, tensor)
    monkeypatch.setattr(module, "_AT_A_TIME", 7)
    parts = row(tmp_path, tensor)
    assert parts.norm == pytest.approx(whole.norm, rel=1e-12)


def test_a_file_that_is_read(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file({"a": torch.ones(2), "b": torch.ones(3)}, path)
    found = describe(str(path))
    assert (found.path, found.format, found.key, found.refused) == (path, "safetensors", None, None)
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert [r.name for r in found.tensors] == ["a", "b"]
    assert found.note is not None
    assert "2 tensors" in found.note


def test_what_is_refused_is_described_as_far_as_it_is_known(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    torch.save(nn.Linear(2, 2), path)
    found = describe(path)
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (found.format, found.tensors, found.note) == ("torch zip", (), None)
    assert "torch.nn.modules.linear.Linear" in found.names
    assert found.refused is not None
    assert "torch.nn.modules.linear.Linear" in found.refused

    path.write_text("<!doctype html><html>not found</html>")
    page = describe(path)
    assert (page.format, page.names) == (None, ())
    assert "web page" in str(page.refused)

    folder = describe(tmp_path)
    assert (folder.sha256, folder.format) == (None, None)
    assert folder.refused is not None


def test_missing_paths_and_devices_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        describe(tmp_path / "gone")
    with pytest.raises(RefusedError, match="device"):
        describe("/dev/null")


def test_tied_tensors_are_read_once_and_the_same_bytes_not_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = torch.arange(1000.0)
    torch.save({"a": base, "b": base, **{f"v{i}": base[i:] for i in range(1, 5)}}, tmp_path / "w.pt")
    looked: list[str] = []
    real = module._row

    def row_of(name: str, tensor: Tensor) -> TensorRow:
        looked.append(name)
        return real(name, tensor)

    monkeypatch.setattr(module, "_row", row_of)
    found = describe(tmp_path / "w.pt")
    assert looked == ["a", "v1", "v2", "v3", "v4"]
    assert [r.name for r in found.tensors] == ["a", "b", "v1", "v2", "v3", "v4"]
    assert found.tensors[0].norm == found.tensors[1].norm == pytest.approx(float(base.double().norm()))
    monkeypatch.setattr(module, "READ_UNASKED", 8000)  # the file's bytes are fewer, the tensors' more
    assert not describe(tmp_path / "w.pt").values
    refused = str(describe(tmp_path / "w.pt", values=True).refused)
    assert "tensors that show the same numbers many times over, 19,960 bytes in all" in refused
