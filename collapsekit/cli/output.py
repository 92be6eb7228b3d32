"""The one place that prints: whatever becomes of stdout and stderr, a command runs to its end and keeps its exit code.

Every command decides its code first. Then text is handed to :func:`write` (data, on stdout) and :func:`message` (on stderr).
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import io
import os
import re
import sys
from collections.abc import Iterator
from typing import Literal, TextIO

Form = Literal["text", "json", "markup"]
INTERNAL, INTERRUPTED = 4, 130
# What stands for a character that a stream cannot take; any other becomes an escape such as \u03b2.
PLAIN = {
    **{"✓": "+", "✗": "x", "●": "*", "…": "...", "→": "->", "·": ".", "•": "*", "×": "x", "−": "-", "–": "-", "—": "-"},
    **{"±": "+/-", "²": "^2", "ᵀ": "^T", "≤": "<=", "≥": ">=", "≠": "!=", "≈": "~", "∞": "inf", "∪": "u", "’": "'"},
    **{"β": "beta", "σ": "sigma", "Σ": "sum", "Δ": "delta", "ε": "eps", "λ": "lambda", "ρ": "rho", "α": "alpha"},
    **dict.fromkeys("─━═╌┄╴╶╸╺", "-"),
    **dict.fromkeys("│┃║╎┆", "|"),
    **dict.fromkeys("┌┐└┘├┤┬┴┼╭╮╯╰╞╡╪┏┓┗┛┣┫┳┻╋┡┩╇", "+"),
}
_GONE = {errno.EPIPE, errno.ECONNRESET} | ({errno.EINVAL} if os.name == "nt" else set())
_NOT_ASCII = re.compile(r"[^\x00-\x7f]")


def _plainly(error: UnicodeError) -> tuple[str, int]:
    """An error handler for encoders, as codecs has them."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    characters = error.object[error.start : error.end]
    return "".join(PLAIN.get(c) or c.encode("ascii", "backslashreplace").decode() for c in characters), error.end


codecs.register_error("collapsekit", _plainly)


class _Sink(io.RawIOBase):
    """Bytes to a file that may be gone, full or closed: the first failure is kept, and what comes after it dropped."""

    def __init__(self, file: io.RawIOBase | None) -> None:
        self._file = file
        self.failure: OSError | ValueError | None = None

    @property
    def name(self) -> str:
        """As files have it."""
        return str(getattr(self._file, "name", "closed"))

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        with contextlib.suppress(OSError, ValueError):
            return self._file is not None and self._file.isatty()
        return False

    def fileno(self) -> int:
        if self._file is None:
            raise io.UnsupportedOperation("fileno")
        return self._file.fileno()

    def write(self, data: bytes) -> int:  # type: ignore[override]
        left = memoryview(data).cast("B")
        whole = len(left)
        while left and self.failure is None:
            try:
                if self._file is None:
                    raise OSError(errno.EBADF, os.strerror(errno.EBADF))
                done = self._file.write(left)
            except (OSError, ValueError) as e:
                self.failure = e
                break
            if done is None:  # it would block: somebody set the pipe so
                self._wait()
            else:
                left = left[done:]
        return whole

    def _wait(self) -> None:
        import select

        with contextlib.suppress(OSError, ValueError):
            select.select([], [self.fileno()], [], 1)


class _Safe(io.TextIOWrapper):
    """A text stream that raises nothing when it is written to."""

    def __init__(self, sink: _Sink, encoding: str, line_buffering: bool) -> None:
        super().__init__(sink, encoding=encoding, errors="collapsekit", line_buffering=line_buffering)
        self.sink = sink


class Held:
    """stdout and stderr of this process, safe to write to; ``data`` is where data goes."""

    def __init__(self) -> None:
        self.before = (sys.stdout, sys.stderr)
        _fill_closed()
        self.data, self.messages = _safe(sys.stdout, line_buffering=False), _safe(sys.stderr, line_buffering=True)
        sys.stdout, sys.stderr = self.data, self.messages

    def code(self, decided: int, interrupted: bool) -> int:
        """Return the exit code, once all is printed: never less than what was decided."""
        self.data.flush()
        lost = self.data.sink.failure
        if interrupted:
            decided = INTERRUPTED
        elif decided == 0 and lost is not None and getattr(lost, "errno", None) not in _GONE:
            why = getattr(lost, "strerror", None) or str(lost)
            message(f"error: stdout did not take all that was to be printed ({why}), so the exit code is {INTERNAL}.")
            decided = INTERNAL
        self.messages.flush()
        return decided

    def release(self) -> None:
        """Give the streams back that were there before."""
        sys.stdout, sys.stderr = self.before


def _fill_closed() -> None:
    """Open the null device in the place of what a shell closed (``>&-``): no file that is opened later may land there."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)


def _safe(stream: TextIO | None, line_buffering: bool) -> _Safe:
    if isinstance(stream, _Safe):
        return stream
    if stream is None:  # closed when Python began
        return _Safe(_Sink(None), "utf-8", line_buffering)
    with contextlib.suppress(OSError, ValueError):
        stream.flush()
    file = getattr(stream, "buffer", None)
    return _Safe(_Sink(getattr(file, "raw", file)), stream.encoding or "utf-8", line_buffering)


_apart: list[TextIO] = []  # where data goes while sys.stdout is something else


def data_stream() -> TextIO:
    """Return the stream that data goes to."""
    return _apart[-1] if _apart else sys.stdout


@contextlib.contextmanager
def kept_apart() -> Iterator[None]:
    """Send what a user's functions print to stderr during the block: stdout carries data only."""
    _apart.append(sys.stdout)
    printed, sys.stdout = sys.stdout, sys.stderr
    try:
        yield
    finally:
        _apart.pop()
        sys.stdout = printed


def keep_apart_below() -> None:
    """Do the same for what is written past Python (by libraries in C, by processes that are started), from here on."""
    stream = data_stream()
    if isinstance(stream, _Safe) and stream.sink._file is not None:
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
            if stream.fileno() == 1:
                stream.sink._file = io.FileIO(os.dup(1), "wb")
                os.dup2(2, 1)


def write(text: str, form: Form = "text") -> None:
    """Data on stdout. On a stream that is not UTF-8, JSON, XML and HTML keep to ASCII, by escapes of their own."""
    stream = data_stream()
    if form != "text" and not _is_utf8(stream):
        text = _NOT_ASCII.sub(_in_json if form == "json" else _in_markup, text)
    stream.write(text)
    stream.flush()


def form_of(name: str) -> Form:
    """Return the form that a format of that name is written in."""
    forms: dict[str, Form] = dict.fromkeys(("json", "sarif"), "json")
    forms |= dict.fromkeys(("html", "html-interactive", "junit"), "markup")
    return forms.get(name, "text")


def message(text: str, kind: str | None = "said") -> None:
    """Print lines on stderr, made safe to print. The log has them too, under their ``kind`` (None: it has them already)."""
    from collapsekit.cli.log import LOG
    from collapsekit.io.safe_text import clean

    if kind is not None:
        LOG.add(kind, text)
    lines = [clean(line, limit=4000) for line in text.splitlines()]
    with contextlib.suppress(OSError, ValueError, AttributeError, TypeError):  # a user's function may have closed it
        sys.stderr.write("\n".join(lines) + "\n")
        sys.stderr.flush()


def internal_error(error: BaseException) -> int:
    """Say all that is known of a fault of ours; its exit code."""
    import traceback

    message(
        f"internal error: {type(error).__name__}: {error}. This is a fault of collapsekit; please report it with this:"
    )
    message("".join(traceback.format_exception(error)))
    return INTERNAL


def _is_utf8(stream: TextIO) -> bool:
    try:
        return codecs.lookup(stream.encoding or "utf-8").name == "utf-8"
    except LookupError:
        return False


def _in_json(found: re.Match[str]) -> str:
    units = found[0].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))


def _in_markup(found: re.Match[str]) -> str:
    return f"&#{ord(found[0])};"
