"""One user's model seen as encode → fuse → head, plus its data."""

from collapsekit.adapter.base import Adapter, Pass, Prediction, Recorded
from collapsekit.adapter.module import ModuleAdapter

__all__ = ["Adapter", "ModuleAdapter", "Pass", "Prediction", "Recorded"]
