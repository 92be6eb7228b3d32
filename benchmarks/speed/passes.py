"""What a diagnosis costs beside one plain pass over the split, on a model whose encoders are what costs.

python -m benchmarks.speed.passes

The model: two transformer encoders of 21 million weights each (12 layers, 384 wide, the mean of 64 and of 48 tokens: a
picture of 128 x 128 in patches of 16), a fusion and head of 0.05 million. A plain pass is what a user's evaluation loop
does: batches of 64 through the model, accuracy of what comes out. The diagnosis runs every probe that trains nothing, in
turn with plain passes, in one process. Training and validation examples are there, more than are diagnosed: a diagnosis
that trains nothing has to leave them alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor, nn

from collapsekit import diagnose, registry
from collapsekit.adapters.build import preserve_rng_state, seed_everything

MODALITIES = {"image": 64, "audio": 48}  # tokens
WIDTH, LAYERS, PATCH, FUSED, CLASSES = 384, 12, 192, 64, 10
BATCH = 64
CONFIG = {
    "modalities": {m: {"encoder": f"encoders.{m}"} for m in MODALITIES},
    "fusion": "fusion",
    "head": "head",
    "data": {"path": "memory", "batch_size": BATCH},
}


class Encoder(nn.Module):
    """A transformer over tokens (n, t, PATCH); their mean, (n, WIDTH)."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.embed = nn.Linear(PATCH, WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, 6, 4 * WIDTH, batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens to features."""
        found: Tensor = self.blocks(self.embed(x)).mean(1)
        return found


class Heavy(nn.Module):
    """Two encoders, a small fusion, a head."""

    def __init__(self, layers: int = LAYERS) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict({m: Encoder(layers) for m in MODALITIES})
        self.fusion = nn.Sequential(nn.Linear(WIDTH * len(MODALITIES), FUSED), nn.ReLU())
        self.head = nn.Linear(FUSED, CLASSES)

    def forward(self, image: Tensor, audio: Tensor) -> Tensor:
        given = {"image": image, "audio": audio}
        logits: Tensor = self.head(self.fusion(torch.cat([e(given[m]) for m, e in self.encoders.items()], 1)))
        return logits


def subject(examples: int, layers: int = LAYERS, elsewhere: int = 4) -> tuple[nn.Module, dict[str, dict[str, Tensor]]]:
    """The model, as initialised, and examples drawn at random: what a diagnosis costs does not depend on what was
    learned. ``elsewhere``: how many times as many examples there are to train on."""
    with preserve_rng_state():
        seed_everything(0)
        model = Heavy(layers).eval()
        sizes = {"train": elsewhere * examples, "val": examples, "test": examples}
        data = {
            split: {m: torch.randn(n, t, PATCH) for m, t in MODALITIES.items()}
            | {"label": torch.randint(CLASSES, (n,))}
            for split, n in sizes.items()
        }
    return model, data


def plain_pass(model: nn.Module, data: dict[str, Tensor]) -> float:
    """The user's own evaluation loop: accuracy."""
    right = 0
    with torch.no_grad():
        for start in range(0, len(data["label"]), BATCH):
            batch = {k: v[start : start + BATCH] for k, v in data.items()}
            label = batch.pop("label")
            right += int((model(**batch).argmax(1) == label).sum())
    return right / len(data["label"])


def training_free() -> list[str]:
    """Names of the probes that run by default and train nothing."""
    registry.load_builtins()
    return [n for n, s in registry.PROBES.items() if s.default and s.trains == "nothing"]


def timed(what: Callable[[], object]) -> float:
    """Wall seconds of one call."""
    start = time.perf_counter()
    what()
    return time.perf_counter() - start


def ratio(examples: int = 1024, repeats: int = 3, layers: int = LAYERS) -> tuple[float, float]:
    """Seconds of a plain pass and of a diagnosis, medians of ``repeats`` taken in turn."""
    model, data = subject(examples, layers)
    probes = training_free()
    passes, diagnoses = [], []
    plain_pass(model, {k: v[:BATCH] for k, v in data["test"].items()})  # first calls set things up
    for _ in range(repeats):
        passes.append(timed(lambda: plain_pass(model, data["test"])))
        diagnoses.append(timed(lambda: diagnose(config=CONFIG, model=model, data=data, probes=probes)))
    return median(passes), median(diagnoses)


if __name__ == "__main__":
    one, all_probes = ratio()
    print(f"plain pass {one:.2f} s, diagnosis {all_probes:.2f} s: {all_probes / one:.2f} passes")
