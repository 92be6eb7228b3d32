"""Models as strangers write them: small, with their configs and with examples drawn at random.

What a diagnosis costs does not depend on what was learned, so none of them is trained.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import module_from_spec, spec_from_file_location
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from collapsekit.adapters.build import preserve_rng_state, seed_everything

HEADS, READ = 1020, 17  # outputs of the model with many heads, and the one that is read
SIZES = {"train": 1, "val": 1, "test": 1}  # times the examples
CLASSES = 4
PEPTIDES = Path(__file__).parents[2] / "examples" / "public_checkpoint" / "model.py"


@dataclass(frozen=True)
class Stranger:
    """One subject: how it is built, its inputs by name, and its config."""

    build: Callable[[], nn.Module]
    shapes: Mapping[str, tuple[int, ...]]
    modalities: Mapping[str, Any]
    config: Mapping[str, Any] = field(default_factory=dict)
    kind: str = "classification"

    def make(self, examples: int, seed: int = 0) -> tuple[nn.Module, dict[str, dict[str, Tensor]], dict[str, Any]]:
        """The model as initialised, so many examples of each split, and the config."""
        with preserve_rng_state():
            seed_everything(seed)
            model = self.build().eval()
            data = {}
            for split, times in SIZES.items():
                n = times * examples
                data[split] = {name: torch.randn(n, *shape) for name, shape in self.shapes.items()}
                label = torch.randint(CLASSES, (n,)) if self.kind == "classification" else torch.randn(n, 1)
                data[split]["label"] = label
        config = {
            "modalities": dict(self.modalities),
            "task": self.kind,
            "data": {"path": "memory", "batch_size": 32},
            **self.config,
        }
        return model, data, config


class Layer(nn.Module):
    """A dense layer and a rectifier."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inside, outside)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.linear(x))


WIDE = (24, 256, 256, 16)
INPUT = WIDE[:1]


def stack(*widths: int) -> list[Layer]:
    """Layers from width to width."""
    return [Layer(a, b) for a, b in pairwise(widths)]


def dead_end() -> nn.Sequential:
    """A branch whose answer is lost."""
    return nn.Sequential(*stack(*WIDE))


class Lists(nn.Module):
    """A list of layers a modality, called one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.branches = nn.ModuleDict({m: nn.ModuleList(stack(*WIDE)) for m in "abcd"})
        self.fusion, self.head = Layer(4 * WIDE[-1], 16), nn.Linear(16, CLASSES)

    def encoded(self, given: Mapping[str, Tensor]) -> list[Tensor]:
        """What each branch makes of its input."""
        made = []
        for m, layers in self.branches.items():
            x = given[m]
            for layer in layers:  # type: ignore[union-attr]
                x = layer(x)
            made.append(x)
        return made

    def forward(self, **given: Tensor) -> Any:
        return self.head(self.fusion(torch.cat(self.encoded(given), 1)))


class Heads(Lists):
    """Many heads, of which one is read."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleList([nn.Linear(16, CLASSES) for _ in range(HEADS)])

    def forward(self, **given: Tensor) -> Any:
        fused = self.fusion(torch.cat(self.encoded(given), 1))
        return [head(fused) for head in self.heads]


class DeadEnd(Lists):
    """A decoder and a second tower that nobody reads: one of what was fused, one of the inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder, self.tower = nn.Sequential(*stack(16, 256, 256, 24)), dead_end()

    def forward(self, **given: Tensor) -> Any:
        fused = self.fusion(torch.cat(self.encoded(given), 1))
        return {"logits": self.head(fused), "rebuilt": self.decoder(fused), "beside": self.tower(given["a"])}


class Whole(nn.Module):
    """An encoder in one piece a modality."""

    def __init__(self) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict({m: nn.Sequential(*stack(*WIDE)) for m in "abcd"})
        self.fusion, self.head = Layer(4 * WIDE[-1], 16), nn.Linear(16, CLASSES)

    def forward(self, **given: Tensor) -> Tensor:
        made = [encoder(given[m]) for m, encoder in self.encoders.items()]
        out: Tensor = self.head(self.fusion(torch.cat(made, 1)))
        return out


class Shared(nn.Module):
    """One trunk that reads both modalities, an end for each."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(*stack(*WIDE))
        self.ends = nn.ModuleDict({m: Layer(WIDE[-1], 16) for m in "ab"})
        self.fusion, self.head = Layer(32, 16), nn.Linear(16, CLASSES)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        made = [self.ends["a"](self.trunk(a)), self.ends["b"](self.trunk(b))]
        out: Tensor = self.head(self.fusion(torch.cat(made, 1)))
        return out


class Block(nn.Module):
    """A transformer's block, of plain linear layers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mixed, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.norms = nn.ModuleList([nn.LayerNorm(width) for _ in range(2)])

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.mixed(self.norms[0](x)).chunk(3, -1)
        x = x + self.out(nn.functional.scaled_dot_product_attention(q, k, v))
        return x + self.narrow(torch.relu(self.wide(self.norms[1](x))))


class Transformer(nn.Module):
    """Two token encoders of several blocks, a summary of each, a block over both summaries; a mask of a field."""

    def __init__(self, width: int = 32, depth: int = 4) -> None:
        super().__init__()
        self.embed = nn.ModuleDict({m: nn.Linear(8, width) for m in "ab"})
        self.blocks = nn.ModuleDict({m: nn.ModuleList([Block(width) for _ in range(depth)]) for m in "ab"})
        self.summary = nn.ModuleDict({m: nn.LayerNorm(width) for m in "ab"})
        self.together, self.head = Block(width), nn.Linear(width, CLASSES)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        made = []
        for m, x in (("a", a), ("b", b)):
            x = self.embed[m](x)
            for block in self.blocks[m]:  # type: ignore[union-attr]
                x = block(x)
            made.append(self.summary[m](x.mean(1)))
        out: Tensor = self.head(self.together(torch.stack(made, 1)).mean(1))
        return out


class Early(nn.Module):
    """One network over both inputs side by side: nothing is there to be named."""

    def __init__(self) -> None:
        super().__init__()
        self.layers, self.head = nn.Sequential(*stack(2 * WIDE[0], 64, 64)), nn.Linear(64, CLASSES)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        out: Tensor = self.head(self.layers(torch.cat([a, b], 1)))
        return out


def peptides() -> nn.Module:
    """The network of examples/public_checkpoint."""
    spec = spec_from_file_location("peptides_network", PEPTIDES)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    made: nn.Module = module.build()
    return made


class PeptideLists(nn.Module):
    """The same with its branches as lists, as IM2Deep itself has them."""

    BRANCHES = ("ConvAtomComp", "ConvDiatomComp", "OneHot", "ConvGlobal")

    def __init__(self) -> None:
        super().__init__()
        whole = peptides()
        for name in self.BRANCHES:
            self.add_module(name, nn.ModuleList(whole.get_submodule(name)))  # type: ignore[arg-type]
        self.Concat = whole.get_submodule("Concat")

    def forward(self, atoms: Tensor, pairs: Tensor, whole: Tensor, one_hot: Tensor) -> Tensor:
        given = (atoms.transpose(1, 2), pairs.transpose(1, 2), one_hot.transpose(1, 2), whole)
        made = []
        for name, x in zip(self.BRANCHES, given, strict=True):
            for layer in self.get_submodule(name):  # type: ignore[attr-defined]
                x = layer(x)
            made.append(x)
        out: Tensor = self.Concat(torch.cat(made, 1))
        return out


def _peptides(build: Callable[[], nn.Module], last: Mapping[str, str]) -> Stranger:
    names = dict(
        zip(
            ("atoms", "pairs", "whole", "one_hot"),
            ("ConvAtomComp", "ConvDiatomComp", "ConvGlobal", "OneHot"),
            strict=True,
        )
    )
    return Stranger(
        build,
        {"atoms": (60, 6), "pairs": (30, 6), "whole": (60,), "one_hot": (60, 20)},
        {m: {"encoder": name + last.get(name, "")} for m, name in names.items()},
        {"fusion": "Concat.0"},
        "regression",
    )


_FOUR = dict.fromkeys("abcd", INPUT)
_LAST = {m: f"branches.{m}.2" for m in "abcd"}
STRANGERS: dict[str, Stranger] = {
    "lists of layers": Stranger(Lists, _FOUR, _LAST, {"fusion": "fusion"}),
    "many heads": Stranger(Heads, _FOUR, _LAST, {"fusion": "fusion", "output": READ}),
    "dead ends": Stranger(DeadEnd, _FOUR, _LAST, {"fusion": "fusion"}),
    "encoders in one piece": Stranger(Whole, _FOUR, {m: f"encoders.{m}" for m in "abcd"}, {"fusion": "fusion"}),
    "a shared trunk": Stranger(
        Shared, dict.fromkeys("ab", INPUT), {m: f"ends.{m}" for m in "ab"}, {"fusion": "fusion"}
    ),
    "transformers": Stranger(
        Transformer, dict.fromkeys("ab", (12, 8)), {m: f"summary.{m}" for m in "ab"}, {"fusion": "together"}
    ),
    "peptides, branches in one piece": _peptides(peptides, {}),
    "peptides, branches as lists": _peptides(
        PeptideLists, {"ConvAtomComp": ".8", "ConvDiatomComp": ".5", "ConvGlobal": ".2", "OneHot": ".3"}
    ),
    "no encoders": Stranger(Early, dict.fromkeys("ab", INPUT), {m: {"input": m} for m in "ab"}),
}
