"""describe_beside: what the files beside weights say of them, whoever made them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from collapsekit.checkpoint.sidecars.described import Described
from collapsekit.checkpoint.sidecars.document import folder_of
from collapsekit.checkpoint.sidecars.hugging_face import read_hugging_face
from collapsekit.checkpoint.sidecars.lerobot import read_lerobot
from collapsekit.checkpoint.sidecars.monai import read_monai
from collapsekit.checkpoint.sidecars.nnunet import read_nnunet

# The first that knows a folder's files says what they are. Another maker is one more file here, and one more line.
READERS: Sequence[Callable[[Path], Described | None]] = (read_lerobot, read_monai, read_nnunet, read_hugging_face)


def describe_beside(path: Path) -> Described | None:
    """Read what lies beside weights: in their folder, or the one above, where bundles and folds have it.

    Nothing of it is executed. Returns None where nobody's files are there. Raises RefusedError where one is damaged.
    """
    folder = folder_of(path)
    above = folder.resolve().parent
    for place in (folder, above):
        for read in READERS if place is folder else (read_monai, read_nnunet):
            found = read(place)
            if found is not None:
                return found
    return None
