"""What if a modality were different: fusion and head run again on altered recordings; encoders do not."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from collapsekit.adapter.base import Adapter, Prediction, Recorded
from collapsekit.adapter.build import seed_everything
from collapsekit.calibrate import calibration
from collapsekit.errors import NumericsError
from collapsekit.features import Features
from collapsekit.settings import Progress
from collapsekit.stats import shapley
from collapsekit.stats.seeds import content_seeds
from collapsekit.stats.threads import threads_for
from collapsekit.task import Task

CHUNK = 512  # rows a forward; fixed, so that results do not depend on the data's batch size
EXACT_UP_TO = 6  # modalities; beyond, Shapley credit is sampled


def scaled(recorded: Recorded, factor: float) -> Recorded:
    """Recorded features times ``factor``; tensors that are not floating (masks, indices) stay."""
    return tuple(t * factor if t.is_floating_point() else t for t in recorded)


def predict(
    adapter: Adapter,
    features: Features,
    *,
    scale: Mapping[str, float] | None = None,
    swap: Mapping[str, Tensor] | None = None,
    hold: Collection[str] = (),
    rows: Tensor | None = None,
) -> Prediction:
    """Fusion and head on recorded features of ``rows`` (default: all), some modalities multiplied (``scale``) or
    taken from other examples (``swap``: modality -> row indices (n,); their raw inputs move with them) or held at
    their mean (``hold``)."""
    index = torch.arange(len(features)) if rows is None else rows
    fused, outputs = [], []
    means = {m: tuple(_mean(t) for t in features.recorded[m]) for m in hold}
    with torch.no_grad(), threads_for(2.0 * CHUNK * sum(p.numel() for p in adapter.fusion_parameters())):
        for start in range(0, len(index), CHUNK):
            part = index[start : start + CHUNK]
            recorded: dict[str, Recorded] = {}
            inputs = {k: v[part] for k, v in features.inputs.items()}
            for m in features.modalities:
                source = swap[m][start : start + CHUNK] if swap is not None and m in swap else part
                taken = tuple(t[source] for t in features.recorded[m])
                if m in means:
                    taken = tuple(t if a is None else a.expand_as(t) for t, a in zip(taken, means[m], strict=True))
                recorded[m] = scaled(taken, scale[m]) if scale is not None and m in scale else taken
                if source is not part:
                    for key in adapter.input_keys(m):
                        inputs[key] = features.inputs[key][source]
            seed_everything(0)  # a model that is random in eval mode still answers the same question the same way
            result = adapter.rerun(recorded, inputs)
            fused.append(result.fused.float().cpu())
            outputs.append(result.outputs.float().cpu())
    return Prediction(torch.cat(fused), torch.cat(outputs))


def _mean(values: Tensor) -> Tensor | None:
    """Mean over examples, (1, ...); None for masks and indices, which have none."""
    return values.double().mean(0, keepdim=True).to(values.dtype) if values.is_floating_point() else None


def donors(n: int, draws: int, seed: int) -> list[Tensor]:
    """``draws`` assignments of another example to each of n examples, each example lent once a draw."""
    if n < 2:
        raise NumericsError(f"taking a modality from another example needs at least 2 examples, found {n}: use more")
    shuffle = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    out = []
    for k in range(min(draws, n - 1)):
        other = torch.empty(n, dtype=torch.long)
        other[shuffle] = shuffle.roll(1 + k * (n - 1) // min(draws, n - 1))
        out.append(other)
    return out


def seeds(adapter: Adapter, features: Features, seed: int) -> dict[str, int]:
    """A seed a modality that follows its inputs' content (see ``content_seeds``).

    Of the inputs, since their bits do not depend on the batch size as those of features do; modalities that read the
    same inputs are told apart by the size of their features.
    """

    def make() -> dict[str, int]:
        contents = [[features.inputs[k] for k in adapter.input_keys(m)] for m in features.modalities]
        sizes = [float(features.pooled[m].double().square().sum()) for m in features.modalities]
        return dict(zip(features.modalities, content_seeds(contents, sizes, seed), strict=True))

    return features.once(("content seeds", seed), make)


def leave_out_means(values: Tensor, groups: Tensor) -> Tensor:
    """Mean of per-example ``values`` (n,) over all, then without each group: (1 + G,), float64."""
    count = int(groups.max()) + 1
    sums = torch.zeros(count, dtype=torch.float64).index_add_(0, groups, values.double())
    sizes = torch.bincount(groups, minlength=count).double()
    total = sums.sum()
    return torch.cat([(total / len(values))[None], (total - sums) / (len(values) - sizes)])


def leave_out_metric(task: Task, expected: Tensor, targets: Tensor, groups: Tensor) -> Tensor:
    """The task metric over all examples, then without each group: (1 + G,), float64."""
    values = [task.metric(expected, targets)]
    for g in range(int(groups.max()) + 1):
        keep = groups != g
        values.append(task.metric(expected[keep], targets[keep]))
    return torch.tensor(values, dtype=torch.float64)


@dataclass(frozen=True)
class Worth:
    """Loss and metric of one coalition: over all examples, then without each jackknife group."""

    loss: Tensor  # (1 + G,)
    metric: Tensor  # (1 + G,)
    expected: Tensor  # (n, ...)


def _as_it_is(expected: Tensor) -> Tensor:
    return expected


class Coalitions:
    """Loss and metric of the model when it sees only some modalities.

    Absent modalities are replaced together by those of other examples (the marginal distribution) and the
    expectation is averaged over ``draws`` of them before it is scored: the restricted model of SAGE
    (Covert et al. 2020, eq. 2), which does not punish a model for contradictions it never meets.
    """

    def __init__(self, adapter: Adapter, features: Features, draws: int, seed: int, progress: Progress) -> None:
        self.adapter, self.features, self.progress = adapter, features, progress
        self.donors = donors(len(features), draws, seed)
        self.size = len(features.modalities)
        self.known: dict[int, Worth] = {}
        self.sure: dict[int, Worth] = {}

    @property
    def full(self) -> int:
        """The coalition of all modalities, as a bitmask."""
        return (1 << self.size) - 1

    def names(self, mask: int) -> tuple[str, ...]:
        """Names of the modalities present in ``mask``."""
        return tuple(m for i, m in enumerate(self.features.modalities) if mask >> i & 1)

    def worth(self, mask: int) -> Worth:
        """Loss and metric of the coalition ``mask``, computed once."""
        if mask not in self.known:
            (self.known[mask],) = self._learned(mask, [_as_it_is])
        return self.known[mask]

    def calibrated(self, mask: int) -> Worth:
        """The same of the calibrated model: as sure as it is right (see ``calibration``, which encodes other splits: who
        asks for ``worth`` alone does not pay for that)."""
        if mask not in self.sure:
            sure = calibration(self.adapter, self.features) or _as_it_is
            self.known[mask], self.sure[mask] = self._learned(mask, [_as_it_is, sure])
        return self.sure[mask]

    @property
    def exact(self) -> bool:
        """Whether all subsets are evaluated."""
        return self.size <= EXACT_UP_TO

    def _learned(self, mask: int, kinds: Sequence[Callable[[Tensor], Tensor]]) -> list[Worth]:
        """Worth of a coalition, each kind of the model's expectations by itself before the mean over draws."""
        totals = [torch.zeros((), dtype=torch.float64) for _ in kinds]
        count = 0
        for expected in self._expectations(mask):
            totals = [total + kind(expected) for total, kind in zip(totals, kinds, strict=True)]
            count += 1
        self.progress.step("modality subsets", len(self.known) + 1, 1 << self.size if self.exact else None)
        return [self._score(total / count) for total in totals]

    def _expectations(self, mask: int) -> Iterator[Tensor]:
        """Of the model as it is, one for each draw of what takes the absent modalities' places."""
        task = self.adapter.task
        if mask == self.full:
            yield task.expect(self.features.outputs)
            return
        absent = [m for i, m in enumerate(self.features.modalities) if not mask >> i & 1]
        for other in self.donors:
            yield task.expect(predict(self.adapter, self.features, swap=dict.fromkeys(absent, other)).outputs)

    def _score(self, expected: Tensor) -> Worth:
        task, features = self.adapter.task, self.features
        loss = leave_out_means(task.loss(expected, features.targets), features.groups)
        return Worth(loss, leave_out_metric(task, expected, features.targets, features.groups), expected)


def coalitions(adapter: Adapter, features: Features, draws: int, seed: int, progress: Progress) -> Coalitions:
    """The model's coalitions on these features, shared by all probes that ask with the same settings."""
    return features.once(("coalitions", draws, seed), lambda: Coalitions(adapter, features, draws, seed, progress))


def credits(worth: Callable[[int], Tensor], size: int, permutations: int, seed: int) -> tuple[Tensor, Tensor]:
    """Shapley credit (size, ...) of each modality and its sampling standard error (zero where exact)."""
    if size <= EXACT_UP_TO:
        exact = shapley.exact(torch.stack([worth(mask) for mask in range(1 << size)]))
        return exact, torch.zeros_like(exact)
    return shapley.sampled(worth, size, permutations, torch.Generator().manual_seed(seed))
