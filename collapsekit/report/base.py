"""The contract of every JSON file that collapsekit writes: its version, the digest of its content, and the one door by which
it is read."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator
from pydantic_core import to_jsonable_python

from collapsekit.errors import RefusedError
from collapsekit.io.json import json_text, parse_json, read_json
from collapsekit.io.limits import check_plain
from collapsekit.io.safe_text import clean, inline, quote
from collapsekit.report.display import first_screen, save_report

SCHEMA_VERSION: Final = 2  # what is written; a field that came with it says so by `since`
READ_VERSIONS = (1, SCHEMA_VERSION)
_MAX_FREE = 1_000_000  # values in settings or environment
_LINE = 200  # characters of a repr, at most
_MAX_LEVELS = 100  # a config's levels, and those around it
_DIGEST_IS = (
    "SHA-256 of the file's own content, so that a change after it was written is noticed; no proof of who wrote it. It is "
    "over the ASCII bytes of the JSON object without this key: object keys sorted by code point, no white space, every "
    "character outside ASCII as a \\uXXXX escape, numbers as Python writes them (json.dumps with sort_keys=True and "
    "separators=(',', ':')). A report inside another file carries its own, which the outer one covers."
)


def _no_text(value: Any) -> Any:
    if isinstance(value, bool | str | bytes):
        raise ValueError(
            f"a number was expected, found {inline(str(value) if isinstance(value, bool) else repr(value), 40)}"
        )
    return value


def _no_fraction(value: Any) -> Any:
    if isinstance(value, float):
        raise ValueError(f"a whole number was expected, found {value}")
    return _no_text(value)


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError("must be finite: a value that could not be had is null with `skipped`")
    return value


Number = Annotated[float, BeforeValidator(_no_text), AfterValidator(_finite)]
Interval = tuple[Number, Number]
Share = Annotated[Number, Field(ge=0, le=1)]  # a probability, or a part of a whole
Whole = Annotated[int, BeforeValidator(_no_fraction)]
Count = Annotated[Whole, Field(ge=0)]
Positive = Annotated[Whole, Field(ge=1)]
Flag = Annotated[bool, Field(strict=True)]


class Frozen(BaseModel):
    """A part of such a file: what it does not name is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")


def _needs_its_marks(schema: dict[str, Any]) -> None:
    """In the JSON Schema, what every file holds that collapsekit wrote."""
    schema["required"] = list(dict.fromkeys(["schema_version", "sha256", *schema.get("required", [])]))
    schema["properties"]["sha256"] = {"type": "string", "pattern": "^[0-9a-f]{64}$", "description": _DIGEST_IS}


class Contract(Frozen):
    """A whole file: as JSON text both ways, with a digest that is made when it is written and checked when it is read."""

    model_config = ConfigDict(json_schema_extra=_needs_its_marks)
    INNER: ClassVar[tuple[tuple[str, ...], ...]] = ()  # where it holds other whole files; * stands for every item

    schema_version: Literal[2] = SCHEMA_VERSION
    sha256: str | None = Field(None, json_schema_extra={"since": 2})  # of the file, not of the object: not kept

    @field_validator("sha256")
    @classmethod
    def _of_the_file(cls, value: str | None) -> None:
        """An object changes as it is renamed, cleaned or copied, so the digest is made anew at each writing."""

    def __repr__(self) -> str:
        """One line on what it says; its fields have the rest."""
        return f"<{clean(type(self).__name__ + ': ' + '; '.join(self._gist()), _LINE - 2)}>"

    __str__ = __repr__

    def __rich_repr__(self) -> Iterator[str]:
        """The same for rich, which else lists all fields."""
        yield from self._gist()

    def __dir__(self) -> list[str]:
        """Fields and methods of reports. What pydantic's own class brings works as well, and is not listed."""
        of_pydantic = {name for name in dir(BaseModel) if not name.startswith("__")}
        return sorted({*super().__dir__(), *type(self).model_fields} - of_pydantic)

    def _gist(self) -> Iterator[str]:
        """What its ``repr`` says, in a few words each, the outcome first."""
        yield f"schema_version {self.schema_version}"

    def _repr_html_(self) -> str:
        """The first screen, for notebooks: under 20 kB, without script, all names escaped."""
        return first_screen(self)

    def save(self, path: str | os.PathLike[str]) -> list[Path]:
        """Write it to a file, or to a folder with all that ``collapsekit diagnose -o`` would write there.

        Args:
            path: A name that ends in ``.json``, ``.html``, ``.md`` or ``.txt``, which says what is written; or a folder,
                which is made where it is not there. A file that is there is replaced whole.

        Returns:
            The files written. Of a diagnosis a folder gets its records, too, which pairing in the gate needs.

        Raises:
            ConfigError: Where the ending says nothing, or the file cannot be written.
        """
        return save_report(self, path)

    def contradictions(self) -> Iterator[str]:
        """Yield every place where its parts do not agree, each as a sentence without its end."""
        raise NotImplementedError

    def contradiction(self) -> str | None:
        """Return the first place where its parts do not agree; None where they all do."""
        return next(self.contradictions(), None)

    def to_json(self) -> str:
        """Write it as JSON text, keys in schema order, no NaN or Inf, with its digest.

        The same object gives the same text.
        """
        # Not mode="json", which fails for half characters, as names of files can hold; JSON has an escape for them.
        plain = json.loads(json.dumps(self.model_dump(), allow_nan=False, default=to_jsonable_python))
        return json_text(sealed(type(self), plain)) + "\n"

    @classmethod
    def from_json(cls, text: str, origin: str = "report") -> Self:
        """Parse and check. Raises RefusedError naming the first thing that is wrong."""
        return cls.from_data(parse_json(text, origin), origin)

    @classmethod
    def from_data(cls, raw: Any, origin: str = "report") -> Self:
        """Check what the file's JSON holds. Raises RefusedError naming the first thing that is wrong."""
        return checked(cls, raw, origin)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read such a file of at most 64 MB. Raises RefusedError where it cannot be read as one."""
        return cls.from_data(read_json(path), str(path))


def content_digest(content: Mapping[str, Any]) -> str:
    """Compute the digest of a file's JSON object, as its key ``sha256`` holds it (what it is over: `collapsekit schema`)."""
    rest = {k: v for k, v in content.items() if k != "sha256"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def sealed(kind: type[Contract], content: dict[str, Any]) -> dict[str, Any]:
    """Return the same content with the digests of it, and of the files within it, made anew."""
    for _, inner in _inner(kind, content):
        inner["sha256"] = content_digest(inner)
    return {**content, "sha256": content_digest(content)}


def _inner(kind: type[Contract], raw: Any) -> Iterator[tuple[str, Any]]:
    """Place and content of the files within."""
    for path in kind.INNER:
        found: list[tuple[str, Any]] = [("", raw)]
        for key in path:
            if key == "*":
                found = [(f"{at}.{i}", v) for at, some in found if isinstance(some, list) for i, v in enumerate(some)]
            else:
                found = [(f"{at}.{key}", some.get(key)) for at, some in found if isinstance(some, dict)]
        yield from ((at[1:], value) for at, value in found if value is not None)


Kind = TypeVar("Kind", bound=Contract)


def checked(kind: type[Kind], raw: Any, origin: str) -> Kind:
    """Check what a file's JSON holds, and make its model.

    In this order: a version that is read, bounds, the digest of its content, the schema, and parts that agree.

    Args:
        kind: which file it is.
        raw: its JSON.
        origin: what to call it in messages.

    Returns:
        The model, of this version whatever the file's.

    Raises:
        RefusedError: naming the first thing that is wrong.
    """
    whole = [(origin, raw), *((f"{place} in {origin}", part) for place, part in _inner(kind, raw))]
    version = _version(raw, origin)
    for where, part in whole:
        if _version(part, where) != version:
            raise RefusedError(f"{where} has another schema_version than the file around it: make it again.")
        _check_free(part, where)
    if version == SCHEMA_VERSION:
        for where, part in whole:
            _check_digest(part, where)
    try:
        found = kind.model_validate(raw if version == SCHEMA_VERSION else _of_this_version(kind, raw))
    except ValidationError as e:
        first = e.errors(include_url=False, include_input=False)[0]
        at = quote(".".join(str(p)[:80] for p in first["loc"]), 200) if first["loc"] else "the report"
        said = inline(first["msg"].removeprefix("Value error, "))
        raise RefusedError(f"{origin} does not fit the report schema at {at}: {said}.") from None
    newer = next(_newer(found, version), None)
    if newer is not None:
        raise RefusedError(
            f"{origin} has schema_version {version} and {quote(newer)}, which came later: make it again."
        )
    wrong = found.contradiction()
    if wrong is not None:
        raise RefusedError(
            f"{origin} contradicts itself: {inline(wrong, 400)}; take it as collapsekit wrote it, or make it again."
        )
    return found


def _version(raw: Any, origin: str) -> int:
    version = raw.get("schema_version") if isinstance(raw, dict) else None
    if type(version) is not int or version not in READ_VERSIONS:
        found = inline(json.dumps(version), 40) if isinstance(version, str | int | float) else type(version).__name__
        raise RefusedError(
            f"{origin} has schema_version {found}, this collapsekit reads {' and '.join(map(str, READ_VERSIONS))}: "
            "make the report again with this version, or install the version that wrote it."
        )
    return version


def _check_free(raw: Mapping[str, Any], origin: str) -> None:
    """Bounds on what the schema says nothing of."""
    try:
        for free in ("settings", "environment"):
            check_plain(raw.get(free), values=_MAX_FREE, levels=_MAX_LEVELS, whole=False)
    except ValueError as e:
        raise RefusedError(f"{origin} does not fit the report schema in its settings or environment: {e}.") from None


def _check_digest(raw: Mapping[str, Any], origin: str) -> None:
    try:
        right = content_digest(raw)
    except RecursionError:
        raise RefusedError(f"{origin} is not JSON that collapsekit wrote: it is nested too deeply.") from None
    if "sha256" not in raw:
        raise RefusedError(
            f"{origin} has no sha256 of its content, which every file of schema_version {SCHEMA_VERSION} has: take it as "
            "collapsekit wrote it, or make it again."
        )
    if raw["sha256"] != right:
        raise RefusedError(
            f"{origin} was changed after it was written: its sha256 is not that of its content; take it as collapsekit "
            "wrote it, or make it again."
        )


def _of_this_version(kind: type[Contract], raw: dict[str, Any]) -> dict[str, Any]:
    """A file of an earlier version as one of this: what came later keeps its default."""
    copy: dict[str, Any] = json.loads(json.dumps(raw, allow_nan=False))
    for _, part in [("", copy), *_inner(kind, copy)]:
        part["schema_version"] = SCHEMA_VERSION
    return copy


def _newer(value: Any, version: int) -> Iterator[str]:
    """Names of fields that are given and that came after ``version``."""
    if version == SCHEMA_VERSION:
        return
    if isinstance(value, BaseModel):
        for name in value.model_fields_set:
            extra = type(value).model_fields[name].json_schema_extra
            if isinstance(extra, dict) and int(str(extra.get("since", 1))) > version:
                yield name
            yield from _newer(getattr(value, name), version)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _newer(inner, version)
    elif isinstance(value, dict):
        for inner in value.values():
            if isinstance(inner, BaseModel):
                yield from _newer(inner, version)
