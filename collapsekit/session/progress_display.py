"""How far a call from Python is: silent in a script, a bar that is updated in place in a notebook.

rich and tqdm draw bars in notebooks by ipywidgets, which is not everywhere, and of which a saved notebook keeps a dead
reference. IPython itself can replace an output that it has shown, by its id; that is all a bar takes.
"""

from __future__ import annotations

import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import escape
from typing import Any, Literal

from collapsekit.context import Progress
from collapsekit.io.safe_text import clean

_SECONDS = 0.2  # between two updates, so that the notebook is not flooded
_NOTES = 8  # sentences that stay in the output; what was before them is dropped
_SENTENCE = 1000

ProgressChoice = (
    Progress | Literal[False] | None
)  # of the caller: False is silent everywhere, None only outside notebooks


class NotebookProgress(Progress):
    """A bar in the output of a notebook's cell, replaced as the work goes on; sentences stay above it, the bar does not."""

    def __init__(self, display: Callable[..., Any], clock: Callable[[], float] = time.monotonic) -> None:
        self._display, self._clock = display, clock
        self._id = f"collapsekit-{uuid.uuid4().hex}"
        self._notes: list[str] = []
        self._what: str | None = None
        self._bar: tuple[str, int, int | None] | None = None
        self._shown_at: float | None = None

    def step(self, what: str, done: int, total: int | None, *standing: str, **named: str) -> None:
        """See :meth:`Progress.step`, whose last argument may be named or not; a new ``what`` is shown at once."""
        how = "".join((*standing, *named.values()))
        new, self._what = what != self._what, what
        self._bar = (f"{what} ({how})" if how else what, done, total)
        if new or self._shown_at is None or self._clock() - self._shown_at >= _SECONDS:
            self._show()

    def note(self, text: str) -> None:
        """Add a sentence, which stays."""
        self._notes = [*self._notes, clean(text, _SENTENCE)][-_NOTES:]
        self._show()

    def announce(self, text: str) -> None:
        """Add a sentence, which stays."""
        self.note(text)

    def close(self) -> None:
        """Take the bar away and leave the sentences."""
        if self._shown_at is not None:
            self._bar = None
            self._show()

    def _show(self) -> None:
        notes = "".join(f'<div style="opacity:.7">{escape(note)}</div>' for note in self._notes)
        plain = [*self._notes]
        bar = ""
        if self._bar is not None:
            text, done, total = self._bar
            count = f"{done:,} of {total:,}" if total is not None else f"{done:,}" * (done > 0)
            size = f' value="{done}" max="{max(total, 1)}"' if total is not None else ""
            bar = f"<div><progress{size}></progress> {escape(clean(text))} {count}</div>"
            plain.append(f"{clean(text)} {count}".strip())
        html = {"text/html": notes + bar, "text/plain": "\n".join(plain)}
        self._display(html, raw=True, display_id=self._id, update=self._shown_at is not None)
        self._shown_at = self._clock()


@contextmanager
def shown_progress(choice: ProgressChoice) -> Iterator[Progress]:
    """Give the progress that the caller chose: their own; none, for False; else a bar where this is a notebook.

    What is no Progress is handed on, for :func:`collapsekit.session.checks.check_call` to refuse.
    """
    if choice is False:
        yield Progress()
        return
    display = notebook_display() if choice is None else None
    if display is None:
        yield Progress() if choice is None else choice
        return
    bar = NotebookProgress(display)
    try:
        yield bar
    finally:
        bar.close()


def notebook_display() -> Callable[..., Any] | None:
    """Return IPython's ``display`` where this process is a notebook's kernel; None elsewhere, as in a terminal.

    IPython is not imported for it: in a notebook it is there.
    """
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None and hasattr(ipython, "get_ipython") else None
    if shell is None or getattr(shell, "kernel", None) is None:
        return None
    from IPython.display import display

    return display
