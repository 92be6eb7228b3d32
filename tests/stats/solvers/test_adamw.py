"""AdamW is torch's to the bit, and does not bring torch's compiler along."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from collapsekit.stats.solvers.adamw import LightAdamW


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.ReLU(), nn.Linear(7, 2), nn.Linear(2, 2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights_are_those_of_torch(dtype: torch.dtype) -> None:
    ours, theirs = network().to(dtype), network().to(dtype)
    pairs = (
        (ours, LightAdamW(ours.parameters(), rate=3e-3, weight_decay=1e-2)),
        (theirs, torch.optim.AdamW(theirs.parameters(), lr=3e-3, weight_decay=1e-2)),
    )
    x = torch.randn(20, 16, 5, generator=torch.Generator().manual_seed(1)).to(dtype)
    for net, optimizer in pairs:
        for i, batch in enumerate(x):
            out = net[:4](batch) if i % 3 else net(batch)  # the last layer has no gradient in most steps
            optimizer.zero_grad()
            out.square().mean().backward()
            optimizer.step()
    for (name, a), (_, b) in zip(ours.state_dict().items(), theirs.state_dict().items(), strict=True):
        assert torch.equal(a, b), name
    assert not torch.equal(ours.state_dict()["4.weight"], network().to(dtype).state_dict()["4.weight"])


def test_sparse_gradients_are_refused() -> None:
    net = nn.Embedding(4, 2, sparse=True)
    optimizer = LightAdamW(net.parameters(), rate=1e-3, weight_decay=0.0)
    net(torch.tensor([1])).sum().backward()
    with pytest.raises(RuntimeError, match="sparse"):
        optimizer.step()


def test_the_compiler_is_not_imported() -> None:
    code = (
        "import sys, torch\n"
        "from collapsekit.stats.solvers.adamw import LightAdamW\n"
        "p = torch.nn.Parameter(torch.ones(2)); o = LightAdamW([p], rate=0.1, weight_decay=0.0)\n"
        "o.zero_grad(); p.sum().backward(); o.step()\n"
        "print('torch._dynamo' in sys.modules, p.tolist())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("False [0.9")
