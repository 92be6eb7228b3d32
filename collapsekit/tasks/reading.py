"""How a task reads what a model returns, at once, so that no more than scores is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn


class OutputReader:
    """Reads predictions; by default they are kept as they are."""

    needs_targets: ClassVar[bool] = False  # whether ``read`` asks for the targets of the very examples it reads
    learns: ClassVar[bool] = False  # whether ``learn`` is to be given the labels of all splits before anything is read

    def for_model(self, model: nn.Module) -> Self:
        """Return the task as this model answers it, where models of one task answer in several ways."""
        del model
        return self

    def learn(self, labels: Mapping[str, Tensor]) -> None:
        """Take note of the labels (n, ...) by split, as the data have them, before anything is read; where ``learns``."""
        del labels

    def pick(self, output: Any, rows: int) -> Tensor | None:
        """Find the prediction (n, ...) in whatever a model returns for ``rows`` examples; None: in the usual place."""
        del output, rows
        return None

    def classes_in(self, labels: Tensor) -> int | None:
        """Count the classes of labels (n, ...) as the data has them; None where no output has a number for each."""
        del labels
        return None

    def join(self, parts: Sequence[Any]) -> Tensor | None:
        """Make one prediction (n, ...) of the parts that ``output`` names; None: side by side along their last axis."""
        del parts
        return None

    def read(self, prediction: Tensor, targets: Tensor | None) -> Tensor:
        """Make compact scores of one forward's prediction, at once, so that no more than these are kept.

        Args:
            prediction: the model's, (n, ...), with gradient where it is trained.
            targets: labels (n, ...) of these examples, as the data have them, where the task ``needs_targets``; else None.

        Returns:
            Scores (n, ...), which every other method takes as outputs; differentiable where the prediction is.

        Raises:
            ConfigError: where the task cannot read a prediction of that shape.
            DataError: where it can, beside other labels.
        """
        del targets
        return prediction

    def to_features(self, prediction: Tensor, targets: Tensor | None) -> Tensor:
        """Take of a prediction what is read out where the whole model stands for a modality's encoder.

        Args:
            prediction: as ``read`` gets it, of a model that was given that modality alone.
            targets: likewise; they may say which places of a prediction count, never what is right there.

        Returns:
            Features (n, ...), of one shape in every batch; the whole prediction, if the task does not say otherwise.
        """
        del targets
        return prediction

    def average(self, outputs: Sequence[Tensor]) -> Tensor:
        """Make one answer of several (n, ...) to the same question, by a model that samples: outputs (n, ...)."""
        return torch.stack(list(outputs)).mean(0)

    def answers_in(self, inputs: Mapping[str, Tensor], labels: Tensor) -> tuple[str, ...]:
        """Name the inputs (n, ...) that hold the very answers which labels (n, ...) ask for, so that readouts of them would
        say nothing of a modality."""
        del inputs, labels
        return ()

    def hide_answers(self, inputs: Mapping[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
        """Put the same in the place of the answers that inputs hold, in all examples.

        Args:
            inputs: (n, ...) by key, as the model is given them.
            labels: (n, ...) of the same examples.

        Returns:
            The inputs, copies where they hold answers.
        """
        del labels
        return dict(inputs)
