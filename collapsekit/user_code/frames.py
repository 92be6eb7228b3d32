"""Where a user's own code raised: its frames of a traceback, without collapsekit's, torch's and other libraries'."""

from __future__ import annotations

import re
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path

_PACKAGE = str(Path(__file__).parents[1])
_INSTALLED = re.compile(r"[\\/](site|dist)-packages[\\/]|^<")
_IN_TEXT = re.compile(r'File "([^"\n]+)", line (\d+), in (\S+)')  # as torch tells of what a loader's worker raised
LONGEST = 300  # characters of an exception's text


def one_line(error: BaseException) -> str:
    """Tell kind and text of an exception from the user's own code, short enough to stand in a sentence, and where it was
    raised where that is a line of theirs."""
    place = place_of(error)
    return f"{kind_and_text(error)}{f' ({place})' if place else ''}"


def kind_and_text(error: BaseException) -> str:
    """Tell kind and text of an exception, short enough to stand in a sentence."""
    text = " ".join(str(error).split())
    text = text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
    return f"{type(error).__name__}: {text.rstrip('.')}" if text else type(error).__name__


def place_of(error: BaseException) -> str:
    """Name the last line of the user's own code that an exception went through, as FILE:LINE; an empty string where it went
    through none."""
    frames = user_frames(error)
    return f"{short_path(frames[-1].filename)}:{frames[-1].lineno}" if frames else ""


def user_frames(error: BaseException) -> list[traceback.FrameSummary]:
    """List the frames of an exception that are of the user's own files, the outermost first."""
    found = [f for f in traceback.extract_tb(error.__traceback__) if is_user_file(f.filename)]
    if not found:
        told = (traceback.FrameSummary(f, int(n), name) for f, n, name in _IN_TEXT.findall(str(error)))
        found = [frame for frame in told if is_user_file(frame.filename)]
    return found


def user_traceback(error: BaseException) -> str:
    """Write the traceback of the user's own code behind an error of ours; an empty string where none of it raised."""
    for cause in _causes(error):
        frames = user_frames(cause)
        if frames:
            lines = traceback.format_list(frames)
            return f"Traceback of your code:\n{''.join(lines)}{kind_and_text(cause)}"
    return ""


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """What an error came from, the first cause first."""
    chain: list[BaseException] = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return reversed(chain)


def is_user_file(file: str) -> bool:
    """Tell whether a file of code is the user's own, and of no library."""
    torch = getattr(sys.modules.get("torch"), "__file__", None)
    libraries = (_PACKAGE, sysconfig.get_paths()["stdlib"], *([str(Path(torch).parent)] if torch else []))
    return not (_INSTALLED.search(file) or file.startswith(libraries))


def short_path(file: str) -> str:
    """Write a path from the working directory where the file lies below it."""
    try:
        return Path(file).relative_to(Path.cwd()).as_posix()
    except (ValueError, OSError):
        return file
