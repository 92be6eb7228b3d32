"""What a model gets from each coalition of modalities, and Shapley credit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer
from torch import Tensor

from collapsekit.adapters.base import Adapter
from collapsekit.config.schema import Config
from collapsekit.context import Options, Progress
from collapsekit.features.features import Features
from collapsekit.games.draws import CoalitionValue, MeanOverDraws, score, score_draws
from collapsekit.games.flips import FlipCounter
from collapsekit.games.seed_noise import SeedNoise, measure_seed_noise
from collapsekit.interventions.edits import Edit
from collapsekit.interventions.marginal import marginal_samples
from collapsekit.interventions.replay import by_row, predict, predict_many
from collapsekit.readouts.calibration import fit_calibration
from collapsekit.stats import shapley
from collapsekit.stats.threads import threads_for
from collapsekit.tasks.base import Task

SCORING = 100.0  # operations that scoring takes for every number the model puts out


SUBSETS = "modality subsets"  # what is counted of coalitions
KEPT = 1 << 27  # bytes of answers at most that a game keeps for the calibrated model, which is asked the same
EXACT_UP_TO = 6  # modalities; beyond, Shapley credit is sampled


class GameOptions(Options):
    """How coalitions are valued; set under the name of the probe reliance."""

    draws: Annotated[int, Field(gt=0)] | Literal["enough"] | None = Field(
        default=None,
        description="other examples an absent modality is taken from; default: 8 a class, 32 at least, 256 at most; enough: "
        "half of these or fewer, where no share of the credit would move",
    )
    permutations: int = Field(default=64, gt=1, description="sampled orders beyond 6 modalities")
    flips: bool | None = Field(
        default=None,
        description="also say how often answers become others without a modality; default: where the task is "
        "tokens, or data.category is set",
    )

    @model_serializer(mode="wrap")
    def _without_default_flips(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """As it was written before there were flips, where nothing is said of them."""
        written: dict[str, Any] = write(self)
        if written["flips"] is None:
            del written["flips"]
        return written

    def wants_flips(self, config: Config) -> bool:
        """Tell whether it is asked how often answers become others without a modality, of a subject's config."""
        unasked = config.task == "tokens" or config.data.category is not None
        return unasked if self.flips is None else self.flips


def draws_for(adapter: Adapter, features: Features, wanted: int | Literal["enough"] | None) -> int:
    """Choose how many other examples an absent modality is taken from.

    The loss of a mean over few draws is biased up, most of all where no draw happens to hold the right class, so the
    default grows with the number of classes.

    Args:
        adapter: the model, for its task.
        features: the examples, for the number of classes.
        wanted: how many; else the default, of which fewer may be enough (``choose_draws``).

    Returns:
        ``wanted``, or the default.
    """
    if isinstance(wanted, int):
        return wanted
    return min(256, max(32, 8 * adapter.task.choices_of(features.outputs)))


Expected = Callable[[Tensor], Tensor]


class KeptAnswers:
    """Outputs (n, ...) by the name of a question, as many as there is room for: the calibrated model is asked the same, and
    so are games of more draws."""

    def __init__(self) -> None:
        self.answers: dict[tuple[int, int, int], Tensor] = {}
        self.room = KEPT

    def __contains__(self, name: tuple[int, int, int]) -> bool:
        return name in self.answers

    def reserve(self, size: int) -> bool:
        """Take room for so many bytes, where there is as much."""
        fits = size <= self.room
        self.room -= size if fits else 0
        return fits

    def pop(self, name: tuple[int, int, int], *, again: bool) -> Tensor:
        """Give an answer (n, ...); it is kept on where it may be asked for ``again``."""
        return self.answers[name] if again else self.answers.pop(name)

    def ask(
        self,
        questions: Sequence[Edit],
        names: Sequence[tuple[int, int, int]],
        model: Callable[[Iterator[Edit]], Iterator[Tensor]],
        size: int,
        *,
        again: bool,
    ) -> Iterator[Tensor]:
        """Answer questions, by what is kept where that is possible.

        Args:
            questions: what is asked.
            names: of the questions.
            model: answers those that are not kept, one after another.
            size: bytes of an answer.
            again: whether they may be asked once more.

        Yields:
            Outputs (n, ...) of each question.
        """
        known = {name: self.pop(name, again=again) for name in names if name in self}
        fresh = model(q for q, name in zip(questions, names, strict=True) if name not in known)
        room = again and self.reserve(size * (len(names) - len(known)))
        for name in names:
            if name in known:
                yield known[name]
                continue
            outputs = next(fresh)
            if room:
                self.answers[name] = outputs
            yield outputs


def _as_it_is(expected: Tensor) -> Tensor:
    return expected


class CoalitionGame:
    """Loss and metric of the model when it sees only some modalities.

    Absent modalities are replaced together by those of other examples (the marginal distribution) and the
    expectation is averaged over ``draws`` of them before it is scored: the restricted model of SAGE
    (Covert et al. 2020, eq. 2), which does not punish a model for contradictions it never meets.
    """

    def __init__(
        self,
        adapter: Adapter,
        features: Features,
        draws: int,
        seed: int,
        progress: Progress,
        calibration: Callable[[], Expected | None] | None = None,
        kept: KeptAnswers | None = None,
        options: GameOptions | None = None,
    ) -> None:
        """``calibration``: of the model, asked for where it is needed, as it encodes other splits; by default it is fitted
        then; ``kept``: answers that games of other draws have too."""
        self.adapter, self.features, self.progress = adapter, features, progress
        self.kept = KeptAnswers() if kept is None else kept
        self.calibration = calibration or partial(fit_calibration, adapter, features)
        self.donors = marginal_samples(len(features), draws, seed, features.alike)
        self.size = len(features.modalities)
        self.inverse = _inverses(self.donors) if moves_whole(adapter, features) else {}
        self.known: dict[int, CoalitionValue] = {}
        self.sure: dict[int, CoalitionValue] = {}
        self.counts_flips = (options or GameOptions()).wants_flips(adapter.config)
        self._flips: dict[int, dict[str | None, Tensor]] = {}

    @property
    def full(self) -> int:
        """The coalition of all modalities, as a bitmask."""
        return (1 << self.size) - 1

    def names(self, mask: int) -> tuple[str, ...]:
        """List the modalities present in ``mask``."""
        return tuple(m for i, m in enumerate(self.features.modalities) if mask >> i & 1)

    def value(self, mask: int) -> CoalitionValue:
        """Compute loss and metric of the coalition ``mask``, once."""
        if mask not in self.known:
            self._learn(mask, [(self.known, _as_it_is)])
        return self.known[mask]

    def calibrated(self, mask: int) -> CoalitionValue:
        """Compute what ``value`` gives, of the calibrated model: as sure as it is right.

        ``fit_calibration`` encodes other splits: who needs ``value`` alone does not pay for that. What the model answered
        for ``value`` is not asked again, as far as there was room to keep it.
        """
        if mask not in self.sure:
            sure = self.calibration() or _as_it_is
            self._learn(mask, [(self.known, _as_it_is), (self.sure, sure)])
        return self.sure[mask]

    def flips(self, i: int, category: str | None = None) -> Tensor | None:
        """Say which share of the choices in answers are others where the modality in place ``i`` is absent, mean over draws:
        over all examples, or those of a category, then without each jackknife group, (1+G,); None where answers do not
        choose."""
        mask = self.full & ~(1 << i)
        if mask not in self._flips:  # what an interrupted diagnosis valued comes without
            self.counts_flips = True
            self._learn(mask, [(self.known, _as_it_is)])
        return self._flips.get(mask, {}).get(category)

    @cached_property
    def seed_noise(self) -> SeedNoise:
        """How sure ``value`` is of a model that samples."""
        return self._noise_of(_as_it_is)

    @cached_property
    def calibrated_seed_noise(self) -> SeedNoise:
        """How sure ``calibrated`` is of a model that samples."""
        return self._noise_of(self.calibration() or _as_it_is)

    def _noise_of(self, kind: Expected) -> SeedNoise:
        """What seeds alone do to scores of expectations of one kind."""
        task, features = self.adapter.task, self.features

        def score(names: Sequence[str], seed: int) -> tuple[float, float]:
            answer = predict(self.adapter, features, swap=self._lenders(names, 0), seed=seed)
            expected = kind(task.expect(answer.outputs))
            return float(task.loss(expected, features.targets).mean()), task.metric(expected, features.targets)

        if self.adapter.config.model.samples == 1:
            return SeedNoise()
        return measure_seed_noise(score, features.modalities)

    @property
    def exact(self) -> bool:
        """Whether all subsets are evaluated."""
        return self.size <= EXACT_UP_TO

    def _learn(self, mask: int, kinds: Sequence[tuple[dict[int, CoalitionValue], Expected]]) -> None:
        """Worth of a coalition and of what comes with it; each kind of the model's expectations by itself before the mean
        over draws."""
        functions = [kind for _, kind in kinds]
        with threads_for(SCORING * self.features.outputs.numel()):
            if mask == self.full or (mask == 0 and self.inverse):
                values = self._ends(functions)
            else:
                values = self._drawn(min(mask, self.full & ~mask) if self.inverse else mask, functions)
            for one, found in values.items():
                for (store, _), value in zip(kinds, found, strict=True):
                    store[one] = value
        self.progress.step(SUBSETS, len(self.known), 1 << self.size if self.exact else None)

    def _ends(self, kinds: Sequence[Expected]) -> dict[int, list[CoalitionValue]]:
        """Score the model as it is and, where an example may be taken whole for another, with every modality absent."""
        task = self.adapter.task
        whole = [kind(task.expect(self.features.outputs)) for kind in kinds]
        scored = {self.full: [score(task, self.features, expected) for expected in whole]}
        if not self.inverse:
            return scored
        means = [MeanOverDraws(self.features, self.donors, self.inverse) for _ in kinds]
        for k in sorted(range(len(self.donors)), key=self._turn):
            for mean, expected in zip(means, whole, strict=True):
                mean.add(k, expected.index_select(0, self.donors[k]))
        return scored | {0: [score_draws(task, self.features, m) for m in means]}

    def _drawn(self, mask: int, kinds: Sequence[Expected]) -> dict[int, list[CoalitionValue]]:
        """Score the coalition ``mask`` by its mean expectations and, where draws have inverses, those absent from it.

        Modalities A of example i with B of j are a draw for the coalition A, as seen from i, and one for the coalition B,
        as seen from j, if some draw lends j what is of i. So nearly every draw of the one is a draw of the other.
        """
        task, rest = self.adapter.task, self.full & ~mask
        asked = self._turns(mask)
        questions = [self._edit(one, k) for one, k in asked]
        means = {
            one: [MeanOverDraws(self.features, self.donors, self.inverse) for _ in kinds]
            for one in ([mask, rest] if self.inverse else [mask])
        }
        lacking_one = [one for one in means if (self.full & ~one).bit_count() == 1]
        flips = FlipCounter(task, self.features, self.donors, self.inverse, lacking_one if self.counts_flips else ())
        names = [self._name(*one) for one in asked]
        size = answer_bytes(self.features, len(self.features), 1)
        answers = self.kept.ask(questions, names, self._outputs, size, again=len(kinds) == 1)
        for (one, k), outputs in zip(asked, answers, strict=True):
            flips.add(one, rest, k, outputs)
            for i, kind in enumerate(kinds):
                expected = kind(task.expect(outputs))
                means[one][i].add(k, expected)
                if k in self.inverse:
                    back = self.inverse[k]
                    means[rest][i].add(back, expected.index_select(0, self.donors[back]))
        self._flips |= flips.score()
        return {one: [score_draws(task, self.features, m) for m in found] for one, found in means.items()}

    def _outputs(self, questions: Iterator[Edit]) -> Iterator[Tensor]:
        """What the model answers to each question."""
        return (answer.outputs for answer in predict_many(self.adapter, self.features, questions))

    def _name(self, mask: int, k: int) -> tuple[int, int, int]:
        """A question's name: the coalition, and what tells the draw from others of this game, and from those of games with
        other draws where an example is lent the same under the same name."""
        nested = self.features.alike is None and not self.adapter.task.expects_sets
        return mask, int(self.donors[k][0]) if nested else k, 0 if nested else len(self.donors)

    def edits(self, mask: int) -> Iterator[Edit]:
        """List the questions that ``value`` of a coalition asks beside the examples as they are, each about all of them."""
        if mask == self.full or (mask == 0 and self.inverse):
            return
        for one, k in self._turns(min(mask, self.full & ~mask) if self.inverse else mask):
            yield self._edit(one, k)

    def _turns(self, mask: int) -> list[tuple[int, int]]:
        """Which coalition is asked under which draw, for ``mask`` and what comes with it."""
        rest = self.full & ~mask
        draws = range(count_draws(self.features, rest, len(self.donors)))
        asked = [(mask, k) for k in draws]
        asked += [(rest, k) for k in draws if k not in self.inverse] if self.inverse else []
        return sorted(asked, key=lambda one: self._turn(one[1]))

    def _edit(self, mask: int, k: int) -> Edit:
        present = self.names(mask)
        return Edit(absent=self._lenders([m for m in self.features.modalities if m not in present], k))

    def _lenders(self, absent: Sequence[str], k: int) -> dict[str, Tensor]:
        """Which example lends each absent modality under draw ``k``: one lends all of them, but where both sides of a pair
        would then match, each has another."""
        names = self.features.modalities
        return {m: lender_of(self.adapter.task, self.donors, k, names.index(m), len(names)) for m in absent}

    def _turn(self, k: int) -> int:
        """Draws in this order come next to their inverses."""
        return min(k, self.inverse.get(k, k))


def answer_bytes(features: Features, n: int, count: int) -> int:
    """Count the bytes of answers.

    Args:
        features: examples such as are asked about.
        n: how many are.
        count: questions about each.

    Returns:
        Bytes.
    """
    return count * n * features.outputs[0].numel() * features.outputs.element_size()


def lender_of(task: Task, donors: Sequence[Tensor], k: int, i: int, size: int) -> Tensor:
    """Say which example lends the modality in place ``i`` under draw ``k``.

    Args:
        task: what is answered.
        donors: by draw, other examples (n,).
        k: the draw.
        i: the modality's place.
        size: how many modalities there are.

    Returns:
        Example numbers (n,). Where each modality has a lender of its own, which of them meet is another thing in each draw.
    """
    count = len(donors)
    if not task.expects_sets or not i or count < 2:
        return donors[k]
    apart = (k + (i - 1) * max(1, (count - 1) // size)) % (count - 1)
    return donors[(k + 1 + apart) % count]


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


def count_draws(features: Features, absent: int, draws: int) -> int:
    """Count the draws of absent modalities that differ.

    Args:
        features: the examples, and what stands in absent modalities' places.
        absent: the modalities, as a bitmask.
        draws: how many are drawn.

    Returns:
        ``draws``, or 1 where the same stands there each time.
    """
    stands = [features.substitutes.get(m) for i, m in enumerate(features.modalities) if absent >> i & 1]
    return 1 if stands and all(stand is not None and stand.count == 1 for stand in stands) else draws


def moves_whole(adapter: Adapter, features: Features) -> bool:
    """Tell whether every raw input is of one modality and moves with it, and the model answers each row by itself: then it
    does not matter which modalities of an example are its own."""
    # An example that lacks a modality lends none, a stand-in is nobody's own, small groups lend the same again, and where
    # sets are expected each side of a pair has a lender of its own.
    there = features.present or features.substitutes
    if there or features.alike is not None or adapter.task.expects_sets:
        return False
    parted = adapter.fields.filled({k: v[:2] for k, v in features.inputs.items()})
    readers = [
        sum(key in adapter.input_keys(m) for m in features.modalities) for key in features.inputs.keys() - parted
    ]
    return all(count == 1 for count in readers) and by_row(adapter, features)


def shapley_values(worth: Callable[[int], Tensor], size: int, permutations: int, seed: int) -> tuple[Tensor, Tensor]:
    """Compute Shapley credit of each modality: exactly for up to EXACT_UP_TO of them, else from sampled orders.

    Args:
        worth: of a coalition, by bitmask; of any shape.
        size: how many modalities there are.
        permutations: how many orders are sampled.
        seed: of the orders.

    Returns:
        Credit, and its sampling standard error (zero where exact): each (size, ...), in the unit of a worth.
    """
    if size <= EXACT_UP_TO:
        exact = shapley.exact(torch.stack([worth(mask) for mask in range(1 << size)]))
        return exact, torch.zeros_like(exact)
    return shapley.sampled(worth, size, permutations, torch.Generator().manual_seed(seed))
