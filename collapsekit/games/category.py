"""The games of all examples, as those of one category score in them: nothing more is asked of the model."""

from __future__ import annotations

import math

from torch import Tensor

from collapsekit.errors import NumericsError
from collapsekit.features.categories import Category
from collapsekit.features.features import Features
from collapsekit.games.balanced_reference import BalancedReference
from collapsekit.games.coalitions import CoalitionGame, Expected
from collapsekit.games.draws import CoalitionValue
from collapsekit.games.seed_noise import SeedNoise

IN_SETS = "answers of this task are scored beside one another, so the examples of a category have no score of their own"


class CategoryGame(CoalitionGame):
    """The model's coalitions; absent modalities are taken from all examples, and those of a category are scored."""

    def __init__(self, whole: CoalitionGame, category: Category, features: Features) -> None:
        """``features``: of the examples of the category."""
        self.__dict__.update(whole.__dict__)
        for noise in ("seed_noise", "calibrated_seed_noise"):
            self.__dict__.pop(noise, None)
        self.whole, self.category, self.features = whole, category, features

    def value(self, mask: int) -> CoalitionValue:
        return score_within(self.whole.value(mask), self.category)

    def calibrated(self, mask: int) -> CoalitionValue:
        return score_within(self.whole.calibrated(mask), self.category)

    def flips(self, i: int, category: str | None = None) -> Tensor | None:
        return self.whole.flips(i, self.category.name if category is None else category)

    def _noise_of(self, kind: Expected) -> SeedNoise:
        """That of all examples, as much larger as a mean of fewer is: seeds are drawn for each example by itself."""
        noise = self.whole._noise_of(kind)
        more = math.sqrt(len(self.whole.features) / len(self.features))
        return SeedNoise(noise.loss * more, noise.metric * more)


class CategoryReference(BalancedReference):
    """The balanced reference of all examples, as those of one category score in it."""

    def __init__(self, whole: BalancedReference, category: Category, features: Features) -> None:
        """``features``: of the examples of the category."""
        evidence = {m: (here[category.rows], held) for m, (here, held) in whole.evidence.items()}
        super().__init__(whole.task, features, whole.at, whole.prior, evidence, whole.donors, whole.joint)
        self.whole, self.category = whole, category
        self.weight = whole.weight

    def contribution(self, modality: str, absent: str | None = None) -> tuple[Tensor, Tensor]:
        here, held = self.whole.contribution(modality, absent)
        return here[self.category.rows], held

    def _valued(self, mask: int) -> CoalitionValue:
        return score_within(self.whole.value(mask), self.category)


def score_within(value: CoalitionValue, category: Category) -> CoalitionValue:
    """Pick the score of a category. Raises NumericsError where its examples have none."""
    found = value.within.get(category.name)
    if found is None:
        raise NumericsError(IN_SETS)
    if isinstance(found, NumericsError):
        raise found
    return found
