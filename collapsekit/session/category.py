"""A session on the examples of one category: what was measured of all examples, scored on these."""

from __future__ import annotations

from collapsekit.errors import NumericsError
from collapsekit.features.categories import Category
from collapsekit.features.features import Features
from collapsekit.games.category import IN_SETS, CategoryGame, CategoryReference
from collapsekit.games.coalitions import CoalitionGame
from collapsekit.games.fitted_reference import FittedReference
from collapsekit.readouts.calibration import Calibration
from collapsekit.readouts.linear import FitSplit
from collapsekit.readouts.strength import ReferenceStrength
from collapsekit.session.session import Session


class CategorySession(Session):
    """The model on all examples, of which those of one category are scored.

    Readouts, calibration and reference are those that were fitted for all examples, and absent modalities are taken from all
    of them: a category asks nothing of the model.
    """

    def __init__(self, whole: Session, category: Category) -> None:
        self.__dict__.update(whole.__dict__)
        self.whole, self.category = whole, category
        self.features = whole.features.of_category(category)
        self._reference: FittedReference | None = None

    def on(self, features: Features) -> Session:
        return self.whole.on(features)

    @property
    def fit_split(self) -> FitSplit:
        return self.whole.fit_split

    @property
    def calibration(self) -> Calibration | None:
        return self.whole.calibration

    def reference(self, modality: str) -> ReferenceStrength:
        return self.whole.reference(modality)

    @property
    def balanced_reference(self) -> FittedReference:
        if self.task.embeddings > 1:
            raise NumericsError(IN_SETS)
        if self._reference is None:
            found = self.whole.balanced_reference
            summed, whole = (CategoryReference(r, self.category, self.features) for r in (found.summed, found.whole))
            self._reference = FittedReference(summed, whole, found.described)
        return self._reference

    @property
    def game(self) -> CoalitionGame:
        return CategoryGame(self.whole.game, self.category, self.features)
