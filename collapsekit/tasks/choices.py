"""What an answer chooses: nothing, or one of several, at one place or at many."""

from __future__ import annotations

from torch import Tensor


class ChoiceReader:
    """What a task says of choices in answers; one whose answers choose nothing leaves all of it as it is."""

    def classes_of(self, outputs: Tensor) -> int:
        """Count how many classes outputs (n, ...) choose one of; 1 where they do not choose."""
        del outputs
        return 1

    def choices_of(self, outputs: Tensor) -> int:
        """Count how many answers outputs (n, ...) choose among: the more, the more draws an absent modality takes."""
        return self.classes_of(outputs)

    def choose(self, expected: Tensor) -> Tensor | None:
        """Name what each answer chooses, int64 (n, k), of expectations (n, ...): one class, or one at each place; None where
        answers do not choose."""
        del expected
        return None

    def share_changed(self, chosen: Tensor, other: Tensor, targets: Tensor) -> Tensor:
        """Say which share of an answer's choices are others.

        Args:
            chosen: what answers choose, int64 (n, k), as ``choose`` gives it.
            other: what other answers to the same examples choose, likewise.
            targets: of the examples, (n, ...): a task may leave places out.

        Returns:
            Shares, float64 (n,), 0 to 1.
        """
        del targets
        return (chosen != other).double().mean(1)
