"""Losses and learning rates of training as TensorBoard shows them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from collapsekit.errors import ConfigError
from collapsekit.io.files import reason
from collapsekit.user_code.frames import one_line


def summary_writer() -> Any:
    """Import torch's SummaryWriter. Raises ConfigError where TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except (ImportError, TypeError) as e:  # the latter: of another protobuf than it was made for
        raise ConfigError(
            f"--tensorboard needs TensorBoard, which cannot be imported ({one_line(e)}): "
            "pip install 'collapsekit[tensorboard]'."
        ) from None
    return SummaryWriter


class Curves:
    """What one stage writes: ``loss/training``, ``loss/held_out`` and ``learning_rate`` by epoch; nothing where
    ``folder`` is None."""

    def __init__(self, folder: Path | None, number: int, stage: str) -> None:
        name = re.sub(r"[^\w.-]+", "-", stage, flags=re.ASCII).strip("-")[:100]
        self.folder = None if folder is None else folder / f"{number}-{name}"
        self._writer: Any = None

    def start(self, epoch: int) -> None:
        """Go on at ``epoch``: what was written of it and later ones is no longer shown. Raises ConfigError where the
        folder cannot be written."""
        if self.folder is None:
            return
        self.close()
        try:
            self._writer = summary_writer()(str(self.folder), purge_step=epoch)
        except OSError as e:
            raise ConfigError(
                f"{self.folder} cannot be written ({reason(e)}): name another folder with --tensorboard."
            ) from None

    def add(self, epoch: int, training: float | None, held: float, rate: float | None) -> None:
        """Add an epoch's losses, and the learning rate of its last step.

        Args:
            epoch: The number of the epoch; 0 is before training.
            training: The mean training loss; None: not written.
            held: The held-out loss.
            rate: The learning rate; None: not written.
        """
        if self._writer is None:
            return
        for tag, value in (("loss/training", training), ("loss/held_out", held), ("learning_rate", rate)):
            if value is not None:
                self._writer.add_scalar(tag, value, epoch)
        self._writer.flush()

    def close(self) -> None:
        """Close the file, where one is open."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
