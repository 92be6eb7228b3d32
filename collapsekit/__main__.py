"""``python -m collapsekit``."""

import sys
from pathlib import Path

# Python puts the working directory first on the path for -m: a typer.py there would be imported in the place of typer. As
# for the command `collapsekit`, it is not searched, but where collapsekit itself lies in it.
if (
    not sys.flags.safe_path
    and sys.path
    and Path(sys.path[0]).resolve() == Path.cwd() != Path(__file__).resolve().parents[1]
):
    del sys.path[0]

from collapsekit.cli import main

if __name__ == "__main__":
    main()
