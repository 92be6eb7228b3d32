"""Write what the docs take from the code, between marker comments in any Markdown page.

``python docs/generate.py`` rewrites what is stale; with ``--check`` it writes nothing and ends with 1 where a page is
stale. A region is one function below: put its two markers into a page, and the page has it.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import inspect
import re
import sys
import textwrap
import typing
from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from collapsekit.render.glossary import THEMES

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PACKAGE = ROOT / "collapsekit"
REGIONS: dict[str, Callable[[], str]] = {}
_REGION = re.compile(r"(<!-- generated: ([\w-]+) -->\n)(.*?)(<!-- end: ([\w-]+) -->)", re.S)
NEW_ERROR = (
    "# {name}\n\n<!-- generated: {name} -->\n<!-- end: {name} -->\n\nHow errors are raised: [errors](README.md).\n"
)
_COST = {"nothing": "nothing", "heads": "linear heads", "models": "linear heads; models unless `--profile quick`"}


def pages() -> list[Path]:
    """Every Markdown page that may hold generated regions."""
    folders = [ROOT, DOCS, ROOT / "examples", ROOT / "plugins", ROOT / "benchmarks"]
    found = [*ROOT.glob("*.md"), *(page for folder in folders[1:] for page in folder.rglob("*.md"))]
    return sorted(found)


def generate(text: str) -> str:
    """The page with every region written anew. Raises ValueError where a marker is unknown or has no partner."""

    def fill(match: re.Match[str]) -> str:
        begin, name, _, end, closing = match.groups()
        make = partial(error_page, name) if name.endswith("Error") else REGIONS.get(name)
        if make is None or closing != name:
            raise ValueError(f"region {name!r} ends as {closing!r}; known regions: {', '.join(sorted(REGIONS))}")
        return f"{begin}{make()}\n{end}"

    outside = _REGION.sub("", text)
    if re.search(r"<!-- (generated|end): ", outside):
        raise ValueError("a marker of a generated region has no partner")
    return _REGION.sub(fill, text)


def region(name: str) -> Callable[[Callable[[], str]], Callable[[], str]]:
    """Register a function whose text stands between the markers of that name."""

    def register(make: Callable[[], str]) -> Callable[[], str]:
        REGIONS[name] = make
        return make

    return register


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; bars within cells are escaped."""
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    lines += [f"| {' | '.join(_cell(c) for c in row)} |" for row in rows]
    return "\n".join(lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _first_sentence(text: str) -> str:
    """The first sentence of a docstring, without its stop."""
    paragraph = " ".join(text.split("\n\n")[0].split())
    return re.split(r"(?<=[A-Za-z)`])\. (?=[A-Z`])", paragraph)[0].removesuffix(".")


# --- where things lie


def layers() -> list[str]:
    """Modules and folders of the package in the order in which imports may go, as the test of it has them."""
    tree = ast.parse((ROOT / "tests" / "repository" / "test_layering.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "ORDER":
            return list(ast.literal_eval(node.value))
    raise ValueError("tests/repository/test_layering.py has no ORDER")


def _docstring(path: Path) -> str:
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    if not text:
        raise ValueError(f"{path.relative_to(ROOT)} has no docstring")
    return _first_sentence(text).replace("``", "`")


@region("layout")
def layout() -> str:
    """The package's tree: a line a module or folder, in the order of imports, each with its own docstring."""
    entries: list[tuple[str, str]] = []
    for name in layers():
        folder, module = PACKAGE / name, PACKAGE / f"{name}.py"
        if module.is_file():
            entries.append((f"  {name}.py", _docstring(module)))
            continue
        entries.append((f"  {name}/", _docstring(folder / "__init__.py")))
        inner = sorted(p.parent.name for p in folder.glob("*/__init__.py"))
        entries += [(f"    {i}/", _docstring(folder / i / "__init__.py")) for i in inner]
    lines = ["collapsekit/"]
    for name, text in entries:
        lines += textwrap.wrap(text, 120, initial_indent=f"{name:<19} ", subsequent_indent=" " * 20)
    return "```\n" + "\n".join(lines) + "\n```"


@region("pages")
def docs_pages() -> str:
    """A row a page of docs, and a row a folder of pages: its title, and the first sentence under it."""
    found = [p for p in [*DOCS.glob("*.md"), *DOCS.glob("*/README.md")] if p != DOCS / "README.md"]
    rows = []
    for page in sorted(found, key=lambda p: str(p.relative_to(DOCS)).lower()):
        title, _, rest = page.read_text(encoding="utf-8").removeprefix("# ").partition("\n\n")
        rows.append(
            (
                f"[{title}]({page.relative_to(DOCS)})",
                re.sub(r"\[([^]]+)\]\([^)]*\)", r"\1", _first_sentence(rest)) + ".",
            )
        )
    return table(("page", "it begins"), rows)


@region("decisions")
def decisions() -> str:
    """A line a page of docs/decisions, by its title."""
    return _titles(DOCS / "decisions")


@region("research")
def research() -> str:
    """A line a page of docs/research, by its title."""
    return _titles(DOCS / "research")


def _titles(folder: Path) -> str:
    found = {p.name: p.read_text(encoding="utf-8").splitlines()[0] for p in sorted(folder.glob("*.md"))}
    return "\n".join(f"- [{title.removeprefix('# ')}]({name})" for name, title in found.items() if name != "README.md")


# --- the command line


def _commands() -> dict[str, Any]:
    from typer.main import get_command

    from collapsekit.cli import app

    return dict(get_command(app).commands)  # type: ignore[attr-defined]


def _summary(command: Any) -> str:
    return _first_sentence(command.help)


@region("commands")
def commands() -> str:
    """A row a command, as its own help begins."""
    return table(("command", "what it does"), ((f"`collapsekit {n}`", _summary(c)) for n, c in _commands().items()))


@region("options")
def options() -> str:
    """A section a command, with its arguments and options as `--help` has them."""
    parts = []
    for name, command in _commands().items():
        inner = getattr(command, "commands", None)
        parts.append(f"## {name}\n\n{_prose(command.help)}")
        if inner is None:
            parts.append(_parameters(name, command))
        for subname, sub in (inner or {}).items():
            parts += [f"### {name} {subname}\n\n{_prose(sub.help)}", _parameters(f"{name} {subname}", sub)]
    return "\n\n".join(parts)


def _prose(text: str) -> str:
    return "\n\n".join(textwrap.fill(" ".join(p.split()), 120) for p in text.split("\n\n"))


def _parameters(name: str, command: Any) -> str:
    context = command.make_context(name, [], resilient_parsing=True)
    records = [p.get_help_record(context) for p in command.params if not p.hidden]
    rows = [(f"`{left}`", right) for left, right in records]
    return table(("argument or option", "meaning"), rows) if rows else "It has no options."


@region("exit-codes")
def exit_codes() -> str:
    """A row an exit code."""
    from collapsekit.errors import EXIT_CODES

    return table(("code", "meaning"), ((str(code), text) for code, text in EXIT_CODES.items()))


@region("exit-codes-line")
def exit_codes_line() -> str:
    """The exit codes in one sentence."""
    from collapsekit.errors import EXIT_CODES

    return textwrap.fill("Exit codes: " + " · ".join(f"{code} {text}" for code, text in EXIT_CODES.items()) + ".", 120)


# --- errors, the API, and the files that are written


@region("errors")
def errors() -> str:
    """A row an error class, wherever in the package it stands."""
    rows = [(f"[{name}]({name}.md)", str(kind.exit_code), _about(kind)) for name, kind in error_classes().items()]
    return table(("class", "exit code", "what happened"), rows)


def error_page(name: str) -> str:
    """The page of one error class: its docstring, and the exit code."""
    kind = error_classes()[name]
    parts = [" ".join(p.split()) for p in inspect.cleandoc(kind.__doc__ or "").split("\n\n")[1:]]
    said = dict(p.split(": ", 1) for p in parts if ": " in p)
    if set(said) != {"Causes", "What to do"}:
        raise ValueError(f"the docstring of {name} needs two paragraphs, Causes: and What to do:")
    parent = kind.__mro__[1].__name__
    above = f". It is a [{parent}]({parent}.md), too." if parent in error_classes() else ""
    below = [f"[{other}]({other}.md)" for other, one in error_classes().items() if one.__mro__[1] is kind]
    lines = [
        textwrap.fill(f"{_about(kind)}.", 120),
        "",
        f"- **Exit code:** {kind.exit_code}{above}",
        f"- **Causes:** {said['Causes'].replace('``', '`')}",
        f"- **What to do:** {said['What to do'].replace('``', '`')}",
        f"- **From Python:** `{_import_of(kind)}`",
        *([f"- **More exact:** {', '.join(below)}"] if below else []),
    ]
    return "\n".join(lines)


def _about(kind: Any) -> str:
    """The first sentence of a class's docstring, without its exit code."""
    first = " ".join(inspect.cleandoc(kind.__doc__ or "").split("\n\n")[0].split())
    return str(first.replace("``", "`").removesuffix(".").removesuffix(f" (exit {kind.exit_code})"))


def _import_of(kind: Any) -> str:
    """The line that imports a class from where users may."""
    for module in ("collapsekit", "collapsekit.ext"):
        if kind.__name__ in importlib.import_module(module).__all__:
            return f"from {module} import {kind.__name__}"
    return f"from {kind.__module__} import {kind.__name__}"


@cache
def error_classes() -> dict[str, Any]:
    """Every class of the package that is a CollapsekitError, by name: those of errors.py first, in their order."""
    from collapsekit import errors as base

    bases = re.compile(r"^class (\w+)\((\w*Error)\b", re.M)
    names = dict.fromkeys(
        ["CollapsekitError", *(n for n, _ in bases.findall((PACKAGE / "errors.py").read_text("utf-8")))]
    )
    found = {name: getattr(base, name) for name in names if issubclass(getattr(base, name), base.CollapsekitError)}
    for path in sorted(PACKAGE.rglob("*.py")):
        for name, _ in bases.findall(path.read_text(encoding="utf-8")):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            kind = getattr(importlib.import_module(module), name, None)
            if isinstance(kind, type) and issubclass(kind, base.CollapsekitError):
                found.setdefault(name, kind)
    return found


@region("api")
def api() -> str:
    """A row a name that the package itself offers."""
    return _names_of("collapsekit")


@region("api-ext")
def api_ext() -> str:
    """A row a name that plugins may import."""
    return _names_of("collapsekit.ext")


def _names_of(module: str) -> str:
    surface = importlib.import_module(module)
    rows = [(f"`{name}`", *_kind_and_summary(getattr(surface, name))) for name in surface.__all__]
    return table(("name", "kind", "what it is"), rows)


def _kind_and_summary(value: Any) -> tuple[str, str]:
    if typing.get_origin(value) is not None:
        return "type", f"`{str(value).replace('typing.', '')}`"
    if not callable(value):
        return "constant", str(value)
    kind = "function" if not isinstance(value, type) else "error" if issubclass(value, BaseException) else "class"
    return kind, _first_sentence(value.__doc__ or "").replace("``", "`").replace(":func:", "")


@region("report-schema")
def report_schema() -> str:
    """A section an object of report.json: its fields, their types, and the glossary's word for each."""
    from collapsekit.report.diagnosis import Report

    schema, words = Report.model_json_schema(), _glossary()
    objects = {"Report": {k: v for k, v in schema.items() if k != "$defs"}, **schema["$defs"]}
    parts = []
    for name, held in objects.items():
        required = set(held.get("required", ()))
        rows = []
        for key, kind in held["properties"].items():
            there = "always" if key in required else "may be left out"
            rows.append((f"`{key}`", _json_type(kind), there, _meaning(kind, words.get(key, ""))))
        held_as = any(name.lower() in other["properties"] for other in objects.values())
        own = words.get(name.lower(), "") if held_as else ""
        about = f"{held.get('description', '')} {own}".strip().replace("``", "`")
        parts.append(f"### {name}\n\n{_prose(about)}\n\n")
        parts[-1] += table(("field", "type", "is there", "meaning"), rows)
    return "\n\n".join(parts)


def _meaning(kind: dict[str, Any], word: str) -> str:
    return str(kind.get("description") or word).replace("``", "`")


def _glossary() -> dict[str, str]:
    """The glossary's sentence by each name in code type at the head of its row."""
    words = (DOCS / "glossary.md").read_text(encoding="utf-8").partition("## Where each result is explained")[0]
    rows = re.findall(r"^\| (?!word|---)(.+?) \| (.+) \|$", words, re.M)
    return {word: text for head, text in rows for word in re.findall(r"`(\w+)`", head)}


def _json_type(kind: dict[str, Any]) -> str:
    """A type of JSON Schema in words."""
    if "$ref" in kind:
        name = kind["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in kind:
        return " or ".join(dict.fromkeys(_json_type(k) for k in kind["anyOf"]))
    if "enum" in kind:
        return ", ".join(f"`{v}`" for v in kind["enum"])
    if "const" in kind:
        return f"`{kind['const']}`"
    if kind.get("type") == "array":
        inner = kind.get("items") or (kind.get("prefixItems") or [{}])[0]
        return f"list of {_json_type(inner)}" if inner else "list"
    if kind.get("type") == "object" and isinstance(kind.get("additionalProperties"), dict):
        return f"by name: {_json_type(kind['additionalProperties'])}"
    return str(kind.get("type", "anything"))


# --- what is registered


def _registry() -> Any:
    registry = importlib.import_module("collapsekit.registry")
    registry.load_builtins()
    return registry


def _builtin(specs: dict[str, Any], function: str) -> dict[str, Any]:
    """Those of the package itself, by name."""
    return {n: s for n, s in sorted(specs.items()) if getattr(s, function).__module__.startswith("collapsekit.")}


def _probes() -> dict[str, Any]:
    return _builtin(_registry().PROBES, "run")


def _repairs() -> dict[str, Any]:
    return _builtin(_registry().REPAIRS, "stages")


@region("probes")
def probes() -> str:
    """A row a probe: what it measures and its source."""
    rows = [(f"`{n}`", s.summary + _only_named(s), s.source) for n, s in _probes().items()]
    return table(("probe", "what it measures", "source"), rows)


def _only_named(spec: Any) -> str:
    said = f"only with `-p {spec.name}`"
    if spec.tasks:
        return f"; {said}, or where the task is {' or '.join(f'`{t}`' for t in spec.tasks)}"
    return "" if spec.default or said in spec.summary else f"; {said}"


@region("probe-pages")
def probe_pages() -> str:
    """A row a probe: the question at the head of its page, and what it trains."""
    rows = []
    for name, spec in _probes().items():
        question = re.search(r"^\*\*(.+?)\*\*$", (DOCS / "probes" / f"{name}.md").read_text(encoding="utf-8"), re.M)
        if question is None:
            raise ValueError(f"docs/probes/{name}.md has no question in bold at its head")
        rows.append((f"[{name}]({name}.md)", question[1], _COST[spec.trains]))
    return table(("probe", "question", "trains"), rows)


_READS = {
    "fused sums": "sums of the fused representation",
    "sums": "sums of it and of each modality's features",
    "rows": "features of each example",
}


@region("probe-reads")
def probe_reads() -> str:
    """A row for each thing that probes read of features: which ones they are, and whether features travel for them."""
    rows = []
    for reads, words in _READS.items():
        names = ", ".join(f"[{n}](probes/{n}.md)" for n, s in _probes().items() if s.reads == reads)
        rows.append((words, names or "none of these; a probe of your own may", "yes" if reads == "rows" else "no"))
    return table(("what is read", "by", "features travel"), rows)


@region("pictures")
def pictures() -> str:
    """A row a figure: whose it is, what is drawn as what, and what may be said of it where its intervals allow."""
    from collapsekit.measures import headings, lookup

    rows = []
    for head in headings(_probes()):
        for picture in head.pictures:
            drawn = []
            for panel in picture.panels:
                made = lookup(next(iter(panel.series.values())))
                shown = ", ".join(f"`{name.partition('.')[2]}`" for name in panel.series.values())
                drawn.append(f"{shown} ({made.figure if made is not None else 'bars'})")
            says = next(iter(picture.findings[0].says.values())) if picture.findings else ""
            said = re.sub(r"\{(\w+)\}", r"*\1*", says)
            rows.append((f"`{picture.name}`", f"[{head.probe}]({head.probe}.md)", "; ".join(drawn), said))
    return table(("figure", "probe", "results drawn", "for example, it says"), rows)


@region("result-names")
def result_names() -> str:
    """A row a probe: the names of its results, as the table on its page has them."""
    rows = []
    for name in _probes():
        results = (DOCS / "probes" / f"{name}.md").read_text(encoding="utf-8").split("## Options")[0]
        found = re.findall(rf"^\| `{name}\.([\w.]+)` \|", results, re.M)
        rows.append((f"[`{name}`](probes/{name}.md)", ", ".join(f"`{n}`" for n in found)))
    return table(("probe", "results"), rows)


def _terms_of(theme: str) -> str:
    """A row a term of pages."""
    texts = ((e.head, e.meaning.removesuffix("."), f" ({e.more})" if e.more else "") for e in THEMES[theme])
    return table(("word", "meaning"), ((head, f"{meaning}{more}.") for head, meaning, more in texts))


REGIONS |= {f"glossary-{theme}": partial(_terms_of, theme) for theme in THEMES}


@region("repairs")
def repairs() -> str:
    """A row a repair."""
    rows = [(f"`{name}`", spec.summary, spec.source) for name, spec in _repairs().items()]
    return table(("method", "what it does", "source"), rows)


@region("probe-options")
def probe_options() -> str:
    """A row an option of a probe."""
    return _spec_options(_probes())


@region("repair-options")
def repair_options() -> str:
    """A row an option of a repair."""
    return _spec_options(_repairs())


def _spec_options(specs: dict[str, Any]) -> str:
    rows = [
        (f"`{name}.{option}`", _default(field.default), field.description or "")
        for name, spec in specs.items()
        for option, field in spec.options.model_fields.items()
    ]
    return table(("option", "default", "meaning"), rows)


def _default(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(f"{v:g}" if isinstance(v, float) else str(v) for v in value)
    return "" if value is None else str(value)


@region("tasks")
def tasks() -> str:
    """A row a task, and one for the user's own, as `collapsekit list tasks` has them."""
    from typer.testing import CliRunner

    from collapsekit.cli import app

    listed = CliRunner().invoke(app, ["list", "tasks"], prog_name="collapsekit").stdout
    entries = re.findall(r"^(\S+) +(.*(?:\n +.*)*)", listed, re.M)
    return table(("task", "targets, loss and metric"), ((f"`{name}`", text) for name, text in entries))


@region("items")
def items() -> str:
    """A row a table or figure of the two papers: what it shows, and whether it runs."""
    from collapsekit.reproduce.item import load_items

    rows = [
        (f"`{i.name}`", i.title, f"{i.state}{f': {i.why}' if i.why else ''}", ", ".join(i.data))
        for i in load_items().values()
    ]
    return table(("item", "what it shows", "state", "data"), rows)


@region("reproduced")
def reproduced() -> str:
    """A row an outcome that is kept: its seeds, and whether each order is the paper's."""
    from collapsekit.report.reproduction import Reproduction
    from collapsekit.reproduce.item import load_items

    rows = []
    for name in load_items():
        path = DOCS / "reproduced" / name / "reproduction.json"
        if path.exists():
            found = Reproduction.load(path)
            orders = "<br>".join(f"{o.text}: **{o.same}** ({o.seeds_in_order} of {o.seeds})" for o in found.orders)
            data = ", ".join(d.name for d in found.data)
            rows.append((f"[{name}]({name}/reproduction.md)", found.title, data, str(len(found.seeds)), orders))
    return table(("item", "what it shows", "data", "seeds", "same order? (in seeds)"), rows)


@region("data-sources")
def data_sources() -> str:
    """A row a file of data that items read: what it is, where it is from, how it is known."""
    from collapsekit.reproduce.studies.datasets import SOURCES

    rows = [(f"`{s.file}`", s.about, s.source, f"`{s.sha256[:16]}`") for s in SOURCES.values()]
    return table(("file", "what it is", "from", "SHA-256 begins"), rows)


@region("measures")
def measures() -> str:
    """A row a measured quantity: what the default comparison shows of it and which way is better, where that is agreed."""
    rows = [
        (f"`{m.name}`", m.unit or "", m.better or "", m.title or "", m.definition, m.source)
        for m in _declared_measures()
    ]
    return table(("measure", "unit", "better", "title", "definition", "source"), rows)


def _declared_measures() -> list[Any]:
    """All that the package's probes declare, by probe as shown, then in their order."""
    from collapsekit.measures import headings, measures_of

    return [m for head in headings(_probes()) for m in measures_of(head.probe)]


@region("adapters")
def adapters() -> str:
    """A row an adapter, and one for the user's own."""
    rows = [(f"`{n}`", s.summary) for n, s in _builtin(_registry().ADAPTERS, "build").items()]
    return table(
        ("adapter", "what it is for"), [*rows, ("`module:Class`", "your own subclass of `collapsekit.Adapter`")]
    )


@region("formats")
def formats() -> str:
    """The formats of checkpoints, in the order in which they are tried."""
    from collapsekit.checkpoint.formats.detect import FOLDERS, FORMATS

    rows = [*((f.name, "file") for f in FORMATS), *((name, "folder") for name in FOLDERS)]
    return table(("format", "kind"), rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Rewrite stale pages, or with ``--check`` name them. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--check", action="store_true", help="write nothing; end with 1 where a page is stale")
    check = parser.parse_args(arguments).check
    stale = []
    for name in error_classes():
        page = DOCS / "errors" / f"{name}.md"
        if not page.exists():
            stale.append(str(page.relative_to(ROOT)))
            if not check:
                page.write_text(NEW_ERROR.format(name=name), encoding="utf-8")
    for page in pages():
        text = page.read_text(encoding="utf-8")
        fresh = generate(text)
        if fresh != text:
            stale.append(str(page.relative_to(ROOT)))
            if not check:
                page.write_text(fresh, encoding="utf-8")
    if stale:
        sys.stdout.write(f"{'stale, run `make doc`' if check else 'written'}: {', '.join(stale)}\n")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
