"""How often answers become others where a modality is absent: the flip rate."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

from collapsekit.features.features import Features
from collapsekit.games.draws import MeanOverDraws, score_means
from collapsekit.tasks.base import Task


class FlipCounter:
    """Counts, draw by draw, the share of an answer's choices that are not those of the model as it is."""

    def __init__(
        self,
        task: Task,
        features: Features,
        donors: Sequence[Tensor],
        inverse: Mapping[int, int],
        coalitions: Iterable[int],
    ) -> None:
        """``donors``: by draw, the example (n,) that each takes from; ``inverse``: by draw, the one that undoes it;
        ``coalitions``: those that are counted, none where answers do not choose."""
        self.task, self.features, self.donors, self.inverse = task, features, donors, inverse
        self.chosen = task.choose(task.expect(features.outputs))
        counted = coalitions if self.chosen is not None else ()
        self.means = {mask: MeanOverDraws(features, donors, inverse) for mask in counted}

    def add(self, mask: int, rest: int, k: int, outputs: Tensor) -> None:
        """Count what is answered for a coalition under a draw; and, as those who lent see it, for the rest, where another
        draw undoes this one.

        Args:
            mask: the coalition.
            rest: the modalities that are absent from it.
            k: the draw.
            outputs: what is answered, (n, ...).
        """
        if self.chosen is None or not self.means:
            return
        other = self.task.choose(self.task.expect(outputs))
        assert other is not None
        if mask in self.means:
            self.means[mask].add(k, self._changed(other))
        back = self.inverse.get(k)
        if back is not None and rest in self.means:
            self.means[rest].add(back, self._changed(other.index_select(0, self.donors[back])))

    def _changed(self, other: Tensor) -> Tensor:
        assert self.chosen is not None
        return self.task.share_changed(self.chosen, other, self.features.targets)

    def score(self) -> dict[int, dict[str | None, Tensor]]:
        """Average over draws and examples: by coalition, of all examples under None and by name of each category, (1+G,):
        with all groups, then without each."""
        return {mask: score_means(self.features, mean) for mask, mean in self.means.items()}
