"""What if a modality were different: fusion and head run again on altered recordings; encoders do not."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from collapsekit.adapter.base import Adapter, Prediction, Recorded
from collapsekit.adapter.build import random_state_kept, seed_everything
from collapsekit.altered import Altered, Piece, cut, gathered
from collapsekit.calibrate import calibration
from collapsekit.errors import CollapsekitError, NumericsError
from collapsekit.features import Features
from collapsekit.settings import Progress
from collapsekit.stats import shapley
from collapsekit.stats.seeds import content_seeds
from collapsekit.stats.threads import threads_for
from collapsekit.task import Classification, Task
from collapsekit.world import current

CHUNK = 512  # rows a forward; fixed, so that results do not depend on the data's batch size
SHARED, SHARED_BYTES = 2048, 4 << 20  # rows, and bytes of what is given, of a forward that answers many questions
SCORING = 100.0  # operations that scoring takes for every number the model puts out
SENDING = 400.0  # operations for every byte of an answer from which on processes answer in turn and tell one another
EXACT_UP_TO = 6  # modalities; beyond, Shapley credit is sampled


def scaled(recorded: Recorded, factor: float | Tensor) -> Recorded:
    """Recorded features times ``factor``; tensors that are not floating (masks, indices) stay."""
    return tuple(
        t * (factor.to(t.dtype) if isinstance(factor, Tensor) else factor) if t.is_floating_point() else t
        for t in recorded
    )


def predict(
    adapter: Adapter,
    features: Features,
    *,
    scale: Mapping[str, float] | None = None,
    swap: Mapping[str, Tensor] | None = None,
    hold: Collection[str] = (),
    rows: Tensor | None = None,
) -> Prediction:
    """Fusion and head on recorded features of ``rows`` (default: all), altered as in ``Altered``, in chunks."""
    index, size = torch.arange(len(features)) if rows is None else rows, chunk_of(features)
    pieces = cut([Altered(scale or {}, swap or {}, hold)], len(index), size, mixed=False)
    return next(_answers(adapter, features, index, pieces, size))


def chunk_of(features: Features) -> int:
    """Rows a forward: CHUNK, or the data's batches where an example's answer depends on the others in its batch."""
    return CHUNK if features.batch is None else features.batch


def predict_many(adapter: Adapter, features: Features, asked: Iterable[Altered]) -> Iterator[Prediction]:
    """What ``predict`` gives for each question, in order, up to rounding: rows of many questions share a forward where the
    model answers each row by itself, since entering a model costs more than a few hundred rows of a small fusion."""
    index = torch.arange(len(features))
    if not by_row(adapter, features):
        size = chunk_of(features)
        return _answers(adapter, features, index, cut(asked, len(index), size, mixed=False), size)
    size = shared_rows(features)
    return _answers(adapter, features, index, cut(asked, len(index), size, mixed=True), size)


def shared_rows(features: Features) -> int:
    """Rows of a forward that many questions share: CHUNK at least, more where an example is small."""
    tensors = [*features.inputs.values(), *(t for r in features.recorded.values() for t in r)]
    return max(CHUNK, min(SHARED, SHARED_BYTES // max(1, sum(t[:1].nbytes for t in tensors))))


def by_row(adapter: Adapter, features: Features) -> bool:
    """Whether the model answers an example alike in whatever company: a few, in two halves and together."""

    def make() -> bool:
        count = min(64, len(features) // 2 * 2)
        if count < 4 or features.batch is not None:
            return False
        index = torch.arange(count)
        try:
            whole, *halves = (predict(adapter, features, rows=r) for r in (index, *index.chunk(2)))
        except CollapsekitError:  # a model that wants whole batches, say
            return False
        parts = ((whole.fused, [h.fused for h in halves]), (whole.outputs, [h.outputs for h in halves]))
        return all(torch.allclose(torch.cat(b), a, rtol=0, atol=1e-4 * float(a.abs().max())) for a, b in parts)

    return features.once("answers by row", make)


def _answers(
    adapter: Adapter, features: Features, index: Tensor, forwards: Iterator[list[Piece]], size: int
) -> Iterator[Prediction]:
    """The prediction for each question, its pieces put together again; ``size``: rows of a full forward."""
    a_row = 2.0 * sum(p.numel() for p in adapter.fusion_parameters())

    def answer(pieces: list[Piece]) -> tuple[Tensor, Tensor, list[tuple[int, int]]]:
        with torch.no_grad(), threads_for(size * a_row), random_state_kept():
            recorded, inputs = gathered(adapter, features, index, pieces)
            seed_everything(0)  # a model that is random in eval mode still answers the same question the same way
            result = adapter.rerun(recorded, inputs)
        return result.fused.float().cpu(), result.outputs.float().cpu(), [(p.start, p.stop) for p in pieces]

    fused: list[Tensor] = []
    outputs: list[Tensor] = []
    sent = 4 * (features.fused[0].numel() + features.outputs[0].numel())
    worth_sharing = a_row >= SENDING * sent
    for z_all, y_all, places in (current().each if worth_sharing else map)(answer, forwards):
        sizes = [stop - start for start, stop in places]
        for (_, stop), z, y in zip(places, z_all.split(sizes), y_all.split(sizes), strict=True):
            fused.append(z)
            outputs.append(y)
            if stop == len(index):
                yield Prediction(torch.cat(fused), torch.cat(outputs))
                fused, outputs = [], []


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
    if isinstance(task, Classification) and task.metric_name == "accuracy":  # whole numbers, so that sums are exact
        return leave_out_means((expected.argmax(1) == targets).double(), groups)
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


Expected = Callable[[Tensor], Tensor]


def _as_it_is(expected: Tensor) -> Tensor:
    return expected


class _Mean:
    """A mean over draws in which a draw and its inverse are added up before they are added to the rest: of two coalitions
    that share their draws one meets each such pair the other way round, and what is equal has to come out equal."""

    def __init__(self, inverse: Mapping[int, int]) -> None:
        self.inverse, self.total, self.count = inverse, torch.zeros((), dtype=torch.float64), 0
        self.waiting: dict[int, Tensor] = {}

    def add(self, k: int, expected: Tensor) -> None:
        """Add draw ``k``; its inverse comes before or after it."""
        back = self.inverse.get(k, k)
        self.count += 1
        if back != k and back not in self.waiting:
            self.waiting[k] = expected
        else:
            self.total = self.total + (expected if back == k else self.waiting.pop(back) + expected)

    @property
    def value(self) -> Tensor:
        return self.total / self.count


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
        self.inverse = _inverses(self.donors) if _moves_whole(adapter, features) else {}
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
            self._learn(mask, [(self.known, _as_it_is)])
        return self.known[mask]

    def calibrated(self, mask: int) -> Worth:
        """The same of the calibrated model: as sure as it is right (see ``calibration``, which encodes other splits: who
        asks for ``worth`` alone does not pay for that)."""
        if mask not in self.sure:
            sure = calibration(self.adapter, self.features) or _as_it_is
            self._learn(mask, [(self.known, _as_it_is), (self.sure, sure)])
        return self.sure[mask]

    @property
    def exact(self) -> bool:
        """Whether all subsets are evaluated."""
        return self.size <= EXACT_UP_TO

    def _learn(self, mask: int, kinds: Sequence[tuple[dict[int, Worth], Expected]]) -> None:
        """Worth of a coalition and of what comes with it; each kind of the model's expectations by itself before the mean
        over draws."""
        functions = [kind for _, kind in kinds]
        with threads_for(SCORING * self.features.outputs.numel()):
            if mask == self.full or (mask == 0 and self.inverse):
                means = self._ends(functions)
            else:
                means = self._drawn(min(mask, self.full & ~mask) if self.inverse else mask, functions)
            for one, found in means.items():
                for (store, _), expected in zip(kinds, found, strict=True):
                    store[one] = self._score(expected)
        self.progress.step("modality subsets", len(self.known), 1 << self.size if self.exact else None)

    def _ends(self, kinds: Sequence[Expected]) -> dict[int, list[Tensor]]:
        """Expectations of the model as it is and, where an example may be taken whole for another, with every modality
        absent."""
        whole = [kind(self.adapter.task.expect(self.features.outputs)) for kind in kinds]
        if not self.inverse:
            return {self.full: whole}
        means = [_Mean(self.inverse) for _ in kinds]
        for k in sorted(range(len(self.donors)), key=self._turn):
            for mean, expected in zip(means, whole, strict=True):
                mean.add(k, expected.index_select(0, self.donors[k]))
        return {self.full: whole, 0: [m.value for m in means]}

    def _drawn(self, mask: int, kinds: Sequence[Expected]) -> dict[int, list[Tensor]]:
        """Mean expectations of the coalition ``mask`` and, where draws have inverses, of those absent from it.

        Modalities A of example i with B of j are a draw for the coalition A, as seen from i, and one for the coalition B,
        as seen from j, if some draw lends j what is of i. So nearly every draw of the one is a draw of the other.
        """
        rest, draws = self.full & ~mask, range(len(self.donors))
        asked = [(mask, k) for k in draws]
        asked += [(rest, k) for k in draws if k not in self.inverse] if self.inverse else []
        asked.sort(key=lambda one: self._turn(one[1]))
        absent = {one: [m for m in self.features.modalities if m not in self.names(one)] for one in (mask, rest)}
        questions = (Altered(swap=dict.fromkeys(absent[one], self.donors[k])) for one, k in asked)
        means: dict[int, list[_Mean]] = {one: [_Mean(self.inverse) for _ in kinds] for one, _ in asked}
        if self.inverse:
            means[rest] = [_Mean(self.inverse) for _ in kinds]
        answers = predict_many(self.adapter, self.features, questions)
        for (one, k), answer in zip(asked, answers, strict=True):
            for i, kind in enumerate(kinds):
                expected = kind(self.adapter.task.expect(answer.outputs))
                means[one][i].add(k, expected)
                if k in self.inverse:
                    back = self.inverse[k]
                    means[rest][i].add(back, expected.index_select(0, self.donors[back]))
        return {one: [m.value for m in found] for one, found in means.items()}

    def _turn(self, k: int) -> int:
        """Draws in this order come next to their inverses."""
        return min(k, self.inverse.get(k, k))

    def _score(self, expected: Tensor) -> Worth:
        task, features = self.adapter.task, self.features
        loss = leave_out_means(task.loss(expected, features.targets), features.groups)
        return Worth(loss, leave_out_metric(task, expected, features.targets, features.groups), expected)


def _inverses(donors: Sequence[Tensor]) -> dict[int, int]:
    """By number those draws whose inverse is a draw as well, and which that is."""
    known = {int(other[0]): k for k, other in enumerate(donors)}  # no two draws lend an example the same
    found = {}
    for k, other in enumerate(donors):
        back = other.argsort()
        which = known.get(int(back[0]))
        if which is not None and torch.equal(donors[which], back):
            found[k] = which
    return found


def _moves_whole(adapter: Adapter, features: Features) -> bool:
    """Whether every raw input is of one modality and moves with it, and the model answers each row by itself: then it does
    not matter which modalities of an example are its own."""
    readers = [sum(key in adapter.input_keys(m) for m in features.modalities) for key in features.inputs]
    return all(count == 1 for count in readers) and by_row(adapter, features)


def coalitions(adapter: Adapter, features: Features, draws: int, seed: int, progress: Progress) -> Coalitions:
    """The model's coalitions on these features, shared by all probes that ask with the same settings."""
    return features.once(("coalitions", draws, seed), lambda: Coalitions(adapter, features, draws, seed, progress))


def credits(worth: Callable[[int], Tensor], size: int, permutations: int, seed: int) -> tuple[Tensor, Tensor]:
    """Shapley credit (size, ...) of each modality and its sampling standard error (zero where exact)."""
    if size <= EXACT_UP_TO:
        exact = shapley.exact(torch.stack([worth(mask) for mask in range(1 << size)]))
        return exact, torch.zeros_like(exact)
    return shapley.sampled(worth, size, permutations, torch.Generator().manual_seed(seed))
