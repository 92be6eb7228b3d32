"""What a command says beside the terminal: a log file, and more where ``--verbose`` asks for it."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import TextIO


class Log:
    """The log of the command that runs in this process; without a file nothing is written."""

    def __init__(self) -> None:
        self.verbose = False
        self.file: TextIO | None = None

    def start(self, path: Path | None, *, verbose: bool) -> None:
        """Begin to write to a file, after what is in it; None: to none.

        Args:
            path: The file.
            verbose: Whether the terminal is told more than is needed.

        Raises:
            ConfigError: Where the file cannot be written.
        """
        self.stop()
        self.verbose = verbose
        if path is not None:
            from collapsekit.errors import ConfigError
            from collapsekit.io.files import reason
            from collapsekit.io.writable import check_file

            check_file(path, "--log")
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NONBLOCK", 0)
                self.file = os.fdopen(os.open(path, flags, 0o644), "a", encoding="utf-8", errors="backslashreplace")
            except OSError as e:
                raise ConfigError(
                    f"--log {path} cannot be written: {reason(e)}; choose another place for it."
                ) from None

    def add(self, kind: str, text: str) -> None:
        """Write lines with the time and what kind they are of. A full disk is no error: the command goes on."""
        if self.file is None:
            return
        from collapsekit.io.safe_text import clean

        now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        with contextlib.suppress(OSError, ValueError):
            self.file.writelines(f"{now} {kind:<7} {clean(line, limit=4000)}\n" for line in text.splitlines())
            self.file.flush()

    def stop(self) -> None:
        """Write no more."""
        if self.file is not None:
            with contextlib.suppress(OSError, ValueError):
                self.file.close()
        self.file, self.verbose = None, False


LOG = Log()
