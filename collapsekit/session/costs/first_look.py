"""FirstLook: what is known of a session that holds the first few examples only, and how many there are in all."""

from __future__ import annotations

from collections.abc import Callable

from collapsekit.adapters.base import Adapter
from collapsekit.context import Kind, Profile
from collapsekit.features.features import Features
from collapsekit.session.costs.cost import Cost
from collapsekit.session.session import Session


class FirstLook:
    """A real session on the first examples (``session``), and the sizes of the splits that a diagnosis would read."""

    def __init__(self, session: Session, count: Callable[[str], int]) -> None:
        """``count``: how many examples of a split a diagnosis would read."""
        self.session, self._count = session, count
        self._sizes: dict[str, int] = {}
        self._counted: set[object] = set()
        self._rooms: dict[tuple[str, int], int] = {}  # bytes that are left to games for answers, by split and draws
        self.shared = Cost()  # of what was measured once: also where whoever asked then measures nothing

    @property
    def adapter(self) -> Adapter:
        """The model."""
        return self.session.adapter

    @property
    def features(self) -> Features:
        """The first examples of the split to diagnose, as their encoders left them."""
        return self.session.features

    @property
    def modalities(self) -> tuple[str, ...]:
        """The model's modalities."""
        return self.session.modalities

    @property
    def profile(self) -> Profile:
        """How much may be trained."""
        return self.session.profile

    @property
    def seed(self) -> int:
        """Of everything that is drawn."""
        return self.session.seed

    def options_of(self, probe: str, kind: type[Kind]) -> Kind:
        """Give the options that are set under a probe's name, as ``kind``: the type it registered or a base of that."""
        return self.session.options_of(probe, kind)

    @property
    def size(self) -> int:
        """How many examples are diagnosed."""
        return self.size_of(self.features.split)

    def size_of(self, split: str) -> int:
        """Count the examples of a split that a diagnosis would read."""
        if split not in self._sizes:
            self._sizes[split] = self._count(split)
        return self._sizes[split]

    @property
    def read(self) -> dict[str, int]:
        """The examples of every split that is read by what was previewed until now."""
        there = (
            self.features.split,
            *(name[1] for name in self._counted if isinstance(name, tuple) and name[0] == READ),
        )
        return {split: self.size_of(split) for split in there}

    def once(self, name: object, cost: Callable[[], Cost]) -> Cost:
        """Compute the cost of what is measured once, under a name for it: nothing for all who ask after the first."""
        if name in self._counted:
            return Cost()
        found = cost()
        self._counted.add(name)
        self.shared += found
        return found

    def reckon(self, **more: float) -> None:
        """Hear of what takes time and asks nothing of the model, by the names of ``pricing.PricedPart``: here it has no
        price."""


READ = "read"  # names the pass over a split
