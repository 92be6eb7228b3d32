"""Results of a report by name, as ``report["reliance.shapley", "image"]`` looks them up."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from collapsekit.errors import ResultKeyError, did_you_mean
from collapsekit.io.safe_text import clean, quote

if TYPE_CHECKING:
    from collapsekit.report.parts import Result

# A name; or with the modality that the result is about; or with the other modality, too. None: the whole model.
ResultKey = str | tuple[str, str | None] | tuple[str, str | None, str | None]
_LISTED = 8  # keys that a message lists


def look_up(results: Sequence[Result], key: object) -> Result:
    """Return the one result that a key is of.

    The result that has exactly the modalities of the key goes first; what the key leaves out may be anything where that
    leaves one result. Raises ResultKeyError where there is none, or several.
    """
    name, *of = parts_of(key)
    named = [r for r in results if r.name == name]
    if not named:
        near = did_you_mean(name, dict.fromkeys(r.name for r in results))
        raise ResultKeyError(f"the report has no result {quote(name)}{near}: list(report.names()) has all names.")
    wanted = (*of, None, None)[:2]
    exact = [r for r in named if (r.modality, r.versus) == wanted]
    fitting = exact or [r for r in named if (r.modality, r.versus)[: len(of)] == tuple(of)]
    if len(fitting) == 1:
        return fitting[0]
    listed = _written(fitting or named)
    if fitting:
        raise ResultKeyError(f"the report has {len(fitting)} results {quote(name)}: write one of {listed}.")
    asked = _key_text(name, *of)
    near = did_you_mean(str(of[0]), dict.fromkeys(r.modality for r in named if r.modality is not None))
    raise ResultKeyError(f"the report has no result {asked}{near}, but it has {listed}.")


def parts_of(key: object) -> tuple[str, *tuple[str | None, ...]]:
    """Split a key. Raises ResultKeyError where it is none."""
    parts = key if isinstance(key, tuple) else (key,)
    if 1 <= len(parts) <= 3 and isinstance(parts[0], str) and all(isinstance(p, str | None) for p in parts):
        return parts
    raise ResultKeyError(
        f"a report is asked by the name of a result, or by (name, modality) or (name, modality, versus), not by "
        f"{quote(repr(key))}."
    )


def names_of(results: Sequence[Result]) -> Iterator[str]:
    """Yield the name of every result, each once, in the report's order."""
    yield from dict.fromkeys(r.name for r in results)


def completions(results: Sequence[Result]) -> list[str | tuple[str, str]]:
    """List the keys that an interactive shell offers: names, and names with a modality where there is one."""
    pairs = dict.fromkeys((r.name, r.modality) for r in results if r.modality is not None)
    return [*names_of(results), *pairs]


def _key_text(name: str, *of: str | None) -> str:
    """A key as it is written between brackets."""
    return ", ".join(None.__repr__() if part is None else quote(part) for part in (name, *of))


def _written(results: Sequence[Result]) -> str:
    """Every result as the expression that gives it."""
    texts = []
    for r in results:
        of = (r.modality, r.versus) if r.versus is not None else (r.modality,)
        texts.append(f"report[{_key_text(r.name, *of)}]")
    more = f" and {len(texts) - _LISTED} more" * (len(texts) > _LISTED)
    return clean(", ".join(texts[:_LISTED]), 2000) + more
