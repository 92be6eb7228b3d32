"""``python -m collapsekit``."""

from collapsekit.cli import main

if __name__ == "__main__":
    main()
