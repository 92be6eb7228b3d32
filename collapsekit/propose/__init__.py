"""A first collapsekit.yaml out of a checkpoint's tensor names and shapes; nothing is loaded or executed."""

from collapsekit.propose.guess import Proposal, propose
from collapsekit.propose.text import config_text

__all__ = ["Proposal", "config_text", "propose"]
