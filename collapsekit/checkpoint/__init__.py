"""Any file -> named tensors, safely: nothing in the file is executed, and what is damaged is refused."""

from collapsekit.checkpoint.match import match_state_dict
from collapsekit.checkpoint.read import Checkpoint, read_checkpoint

__all__ = ["Checkpoint", "match_state_dict", "read_checkpoint"]
