"""Records of inserts: copies, saved weights, and the inserts file alone in a folder."""

from __future__ import annotations

import ast
import copy
import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from collapsekit.adapters import inserts
from collapsekit.adapters.inserts import insert, posts_of, substitute_missing
from collapsekit.repairs.export import export_weights
from tests.adapters.inserting import (
    ORDERS,
    PATTERNS,
    WORLD,
    Encoder,
    Model,
    inserted,
    masks,
    records,
    world,
)


def _pairs() -> list[tuple[str, Callable[[Model], Model]]]:
    return [("deepcopy", copy.deepcopy), ("pickle", lambda m: pickle.loads(pickle.dumps(m)))]


@pytest.mark.parametrize(("how", "copied"), _pairs(), ids=lambda v: v if isinstance(v, str) else "")
def test_a_copy_is_independent(how: str, copied: Callable[[Model], Model]) -> None:
    model, x = world()
    inserted(model, orders=ORDERS)
    gone = masks(*PATTERNS)
    with substitute_missing(model, gone):
        one = model(**x)
        twin = copied(model)
    plain = model(**x)
    if how == "deepcopy":  # begun while something was absent, the copy is not held to it
        assert torch.equal(twin(**x), plain)
    twin = copied(model)
    assert torch.equal(twin(**x), plain)
    with substitute_missing(twin, gone):
        assert torch.equal(twin(**x), one)
        assert torch.equal(model(**x), plain)
    with substitute_missing(model, gone):
        assert torch.equal(twin(**x), plain)
    with torch.no_grad():
        for p in twin.parameters():
            p.zero_()
    assert torch.equal(model(**x), plain)
    junctions = {id(p.junction) for made in (model, twin) for p in posts_of(made, "basis").values()}
    assert len(junctions) == 2  # one a model, shared by its heads


def test_weights_pass_into_a_fresh_model_with_heads(tmp_path: Path) -> None:
    model, x = world(dict.fromkeys(WORLD, "tokens"))
    inserted(model, orders=ORDERS)
    torch.save(model.state_dict(), tmp_path / "state.pt")
    torch.manual_seed(99)
    fresh = Model({m: Encoder(d, "tokens") for m, d in WORLD.items()}).eval()
    insert(fresh, records(fresh))
    fresh.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert torch.equal(fresh(**x), model(**x))
    results = []
    for made in (model, fresh):
        with substitute_missing(made, masks(*PATTERNS)):
            results.append(made(**x))
    assert torch.equal(*results)  # the order of substitutes is in the state, too
    names = set(model.state_dict()) - set(world()[0].state_dict())
    assert {n for n in names if n.endswith("order")} == {f"encoders.{m}.insert.order" for m in WORLD}


def test_the_inserts_file_imports_the_standard_library_and_torch_only() -> None:
    tree = ast.parse(Path(inserts.__file__).read_text())
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            found.add(str(node.module).split(".")[0])
        elif isinstance(node, ast.Call):
            assert getattr(node.func, "id", None) not in ("__import__", "exec", "eval")
    assert found - set(sys.stdlib_module_names) == {"torch"}


ALONE = """
import json, sys
sys.modules["collapsekit"] = None
sys.path.insert(0, sys.argv[1])
import torch
from torch import nn
from safetensors.torch import load_file
import inserts

class Mine(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoders = nn.ModuleDict({"a": nn.Linear(5, 6), "b": nn.Linear(4, 6)})
        self.head = nn.Linear(12, 3)
    def forward(self, a, b):
        return self.head(torch.cat([self.encoders["a"](a), self.encoders["b"](b)], 1))

model = inserts.insert(Mine(), json.loads(sys.argv[2])).eval()
model.load_state_dict(load_file(sys.argv[1] + "/model.safetensors"))
g = torch.Generator().manual_seed(0)
x = torch.randn(4, 5, generator=g), torch.randn(4, 4, generator=g)
with torch.no_grad():
    found = [model(*x)]
    with inserts.substitute_missing(model, {"a": torch.tensor([True, False, True, False])}):
        found.append(model(*x))
try:
    import collapsekit
except ImportError:
    print(json.dumps([f.tolist() for f in found]))
"""


class Mine(nn.Module):
    """As in ALONE."""

    def __init__(self) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict({"a": nn.Linear(5, 6), "b": nn.Linear(4, 6)})
        self.head = nn.Linear(12, 3)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.head(torch.cat([self.encoders["a"](a), self.encoders["b"](b)], 1))


def test_the_inserts_file_alone_loads_exported_weights_without_collapsekit(tmp_path: Path) -> None:
    model = Mine()
    structure = records(model)
    insert(model, structure)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    export_weights(model, tmp_path)
    shutil.copy(inserts.__file__, tmp_path / "inserts.py")
    command = [sys.executable, "-I", "-c", ALONE, str(tmp_path), json.dumps(structure)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    plain, substituted = (torch.tensor(f) for f in json.loads(done.stdout))
    g = torch.Generator().manual_seed(0)
    x = torch.randn(4, 5, generator=g), torch.randn(4, 4, generator=g)
    with torch.no_grad():
        torch.testing.assert_close(plain, model(*x), rtol=1e-6, atol=1e-6)
        with substitute_missing(model, {"a": torch.tensor([True, False, True, False])}):
            torch.testing.assert_close(substituted, model(*x), rtol=1e-6, atol=1e-6)
    assert float((plain - substituted).abs().max()) > 1e-3


def test_records_are_read_off_the_model_and_give_the_same_model() -> None:
    """The records, in an order that gives the same model."""
    model, x = world()
    inserted(model, orders=ORDERS)
    records = inserts.inserted_in(model)
    twin, _ = world()
    insert(twin, records)
    assert inserts.inserted_in(twin) == records
    twin.load_state_dict(model.state_dict())
    with substitute_missing(model, masks("a", "b")), substitute_missing(twin, masks("a", "b")):
        assert torch.equal(twin(**x), model(**x))
    assert inserts.inserted_in(world()[0]) == []
