"""collapsekit inspect."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from collapsekit.cli.output import write
from collapsekit.cli.terminal import Ended, guarded, need_working_directory, say
from collapsekit.errors import RefusedError

if TYPE_CHECKING:
    from collapsekit.checkpoint.describe import Description

SHOWN = 40  # tensors listed without --all
_WIDTH = 80


@guarded
def inspect(
    path: Annotated[
        Path, typer.Argument(metavar="FILE", help="Checkpoint file or directory; nothing of it is executed.")
    ],
    all_: Annotated[bool, typer.Option("--all", "-a", help=f"List every tensor, not the first {SHOWN}.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="All of it as JSON on stdout.")] = False,
    values: Annotated[
        bool | None,
        typer.Option(
            "--values/--no-values",
            help="Read the numbers too: SHA-256, norms, NaN and Inf; default: of files of at most 2 GB together.",
            show_default=False,
        ),
    ] = None,
) -> Ended:
    """Show what a checkpoint is and holds, without executing it; exits 3 where it would be refused."""
    need_working_directory()
    from collapsekit.checkpoint.describe import describe
    from collapsekit.io.json import json_text

    found = describe(path, values=values)
    text = json_text(asdict(found), default=str) if json_ else "\n".join(_lines(found, None if all_ else SHOWN))

    def show() -> None:
        write(f"{text}\n", "json" if json_ else "text")
        if found.refused is not None:
            say(f"error: {found.refused}")

    return Ended(0 if found.refused is None else RefusedError.exit_code, show)


def _lines(found: Description, most: int | None) -> list[str]:
    from collapsekit.io.safe_text import clean

    lines = [clean(str(found.path), 400), f"  format: {found.format or 'not told'}"]
    if found.sha256 is not None:
        lines.append(f"  sha256:{found.sha256}")
    if found.tensors and not found.values:
        lines.append("  SHA-256, norms, NaN and Inf: not read (--values reads the files whole)")
    if found.note is not None:
        lines += ["", *_wrapped(clean(found.note, 2000), "  ")]
    if found.names:
        lines += ["", "Unpickling it would import (none of it was):"]
        lines += _wrapped(", ".join(clean(n, 120) for n in found.names[:100]), "  ")
    if found.beside:
        lines += ["", "Beside the weights"]
        lines += [line for told in found.beside for line in _wrapped(clean(told, 2000), "  ")]
    if found.tensors:
        lines += ["", *_structure(found), "", *_table(found, most)]
    return lines


def _wrapped(text: str, indent: str) -> list[str]:
    import textwrap

    return textwrap.wrap(text, _WIDTH, initial_indent=indent, subsequent_indent=indent)


def _structure(found: Description) -> list[str]:
    """The modules nearest the root that the names imply, then what `collapsekit init` would take them for."""
    from collapsekit.autoconfig.guess import propose
    from collapsekit.autoconfig.modules import module_tree, unwrapped
    from collapsekit.io.safe_text import clean

    shapes = {row.name: row.shape for row in found.tensors}
    plain, _ = unwrapped(shapes)
    node = module_tree(plain)
    while len(node.children) == 1:
        node = next(iter(node.children.values()))
    parts = list(node.children.values()) or [node]
    rows = [
        [
            clean(part.path, 48) or "(no module)",
            _count(len(part.tensors)),
            f"{sum(math.prod(s) for _, s in part.tensors):,} numbers",
        ]
        for part in parts[:SHOWN]
    ]
    lines = ["Structure, from the names", *_columns(rows, left=1)]
    if len(parts) > SHOWN:
        lines.append(f"  and {len(parts) - SHOWN} more")
    guess = propose(shapes)
    told = [f"modality {clean(m)}: {clean(path)}" for m, path in guess.modalities.items()]
    told += [f"{what}: {clean(path)}" for what, path in (("fusion", guess.fusion), ("head", guess.head)) if path]
    return [*lines, *(_wrapped("Guessed: " + "; ".join(told), "  ") if told else [])]


def _table(found: Description, most: int | None) -> list[str]:
    from collapsekit.io.safe_text import clean

    header = ["tensor", "shape", "dtype", "size", *(["norm", "NaN", "Inf"] if found.values else [])]
    rows = [header]
    for row in found.tensors[:most]:
        shape = "×".join(map(str, row.shape)) or "one number"
        norm = "too large" if row.norm is None else f"{row.norm:.4g}"
        name = clean(row.name, 200)
        short = name if len(name) <= 36 else "…" + name[-35:]
        numbers = [norm, str(row.nan), str(row.inf)] if found.values else []
        rows.append([short, clean(shape, 24), row.dtype, _size(row.bytes), *numbers])
    lines = _columns(rows, left=3)
    left = len(found.tensors) - (len(rows) - 1)
    total = sum(row.bytes for row in found.tensors)
    bad = sum(bool(row.nan or row.inf) for row in found.tensors)
    lines.append(
        f"  {f'and {left} more (--all lists them); ' if left else ''}{_count(len(found.tensors))}, {_size(total)}"
    )
    if bad:
        lines.append(f"  {bad} of them hold NaN or Inf: norms are of the finite elements")
    return lines


def _columns(rows: list[list[str]], left: int) -> list[str]:
    """Aligned columns, the first ``left`` of them to the left."""
    from rich.cells import cell_len

    widths = [max(cell_len(row[i]) for row in rows) for i in range(len(rows[0]))]

    def cell(text: str, i: int) -> str:
        pad = " " * (widths[i] - cell_len(text))
        return text + pad if i < left else pad + text

    return ["  " + "  ".join(cell(text, i) for i, text in enumerate(row)).rstrip() for row in rows]


def _count(tensors: int) -> str:
    return f"{tensors} tensor{'s' * (tensors != 1)}"


def _size(count: int) -> str:
    size, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
