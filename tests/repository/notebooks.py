"""Runs the notebooks of ``examples/notebooks`` from start to end in a fresh kernel.

``python -m tests.repository.notebooks [NAME ...]`` writes them with new outputs: do so after a change of what they show.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[2] / "examples" / "notebooks"
PATHS = sorted(FOLDER.glob("*.ipynb"))
SECONDS = 600  # of a cell
_METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def execute(path: Path, folder: Path) -> Any:
    """Run a copy of a notebook in ``folder``, where it also keeps what it trains, and return it with its outputs."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    root = str(FOLDER.parents[1])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    env = {**os.environ, "COLLAPSEKIT_CACHE": str(folder / "cache"), "PYTHONPATH": os.pathsep.join(paths)}
    resources = {"metadata": {"path": str(folder)}}
    client = NotebookClient(notebook, timeout=SECONDS, kernel_name="python3", resources=resources, record_timing=False)
    client.execute(env=env, cwd=str(folder))
    notebook.metadata = _METADATA
    return notebook


def main(names: list[str]) -> None:
    """Write the notebooks of these names, or all, with the outputs of a run here."""
    import nbformat

    for path in (p for p in PATHS if not names or p.stem in names):
        with tempfile.TemporaryDirectory() as folder:
            done = execute(path, Path(folder))
        nbformat.write(done, path)
        sys.stderr.write(f"{path.name}: {path.stat().st_size:,} bytes\n")


if __name__ == "__main__":
    main(sys.argv[1:])
