"""README, docs, --help and code say the same."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from collapsekit import registry
from collapsekit.adapters.validate import FEW
from collapsekit.cli import app
from collapsekit.config.load import check_config
from collapsekit.io.yaml import parse_yaml
from collapsekit.report.diagnosis import ModalityVerdict

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
README_LINES = 150  # it says what this is and where to read on; the rest stands on pages of docs


def read(page: str) -> str:
    """A page of docs."""
    return (ROOT / "docs" / page).read_text(encoding="utf-8")


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= README_LINES


def test_every_page_of_docs_can_be_reached_from_the_readme() -> None:
    found, left = set(), [ROOT / "README.md"]
    while left:
        page = left.pop()
        if page not in found and page.suffix == ".md":
            found.add(page)
            links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
            left += [p for link in links if "://" not in link and (p := (page.parent / link).resolve()).is_file()]
    assert {*(ROOT / "docs").glob("*.md"), *(ROOT / "docs").glob("*/README.md"), ROOT / "CODE_OF_CONDUCT.md"} <= found


def _commands() -> set[str]:
    return {str(c.name) for c in (*app.registered_commands, *app.registered_groups)}


def test_every_command_is_documented_and_no_other() -> None:
    table = read("commands.md").partition("## Exit codes")[0]
    assert set(re.findall(r"^\| `collapsekit (\w+)`", table, re.M)) == _commands()


def test_every_probe_is_documented_and_no_other() -> None:
    registry.load_builtins()
    builtin = {n for n, s in registry.PROBES.items() if s.run.__module__.startswith("collapsekit.")}
    for page, row in (("reference.md", r"^\| `(\w+)` \|"), ("probes/README.md", r"^\| \[(\w+)\]\(")):
        table = read(page)
        begin = table.index("## Probes") if "## Probes" in table else 0
        assert set(re.findall(row, table[begin : table.index("<!-- end", begin)], re.M)) == builtin


def test_every_repair_is_documented_and_no_other() -> None:
    registry.load_builtins()
    builtin = {n for n, s in registry.REPAIRS.items() if s.stages.__module__.startswith("collapsekit.")}
    table = read("reference.md").partition("<!-- generated: repairs -->")[2].partition("<!-- end")[0]
    assert set(re.findall(r"^\| `(\w+)`", table, re.M)) == builtin
    page = (ROOT / "docs" / "repair-methods.md").read_text()
    own = {p.stem: p.read_text() for p in (ROOT / "docs" / "repairs").glob("*.md")}  # a page of its own will do
    chosen = re.findall(r"^\| `(\w+)`", (ROOT / "docs" / "repairs.md").read_text(), re.M)
    assert {*chosen, *own} == builtin
    assert {*re.findall(r"^## `(\w+)`", page, re.M), *own} == builtin
    for name in builtin:
        for option, field in registry.REPAIRS[name].options.model_fields.items():
            assert f"`{option}` ({field.default})" in own.get(name, page), (name, option)
            assert field.description, (name, option)  # as `list repairs --verbose` shows it


def test_every_warning_is_documented() -> None:
    page = (ROOT / "docs" / "warnings.md").read_text()
    code = "\n".join(p.read_text() for p in sorted((ROOT / "collapsekit").rglob("*.py")))
    made = set(re.findall(r"ReportWarning\(\s*name=\"(\w+)\"", code))
    listed = set(re.findall(r"^\| `(\w+)` \|", page, re.M))
    assert made
    assert made <= listed
    assert f"first {FEW} examples" in page


def test_what_a_repair_is_accepted_by_is_documented() -> None:
    from collapsekit.repairs import acceptance as accept
    from collapsekit.repairs.training import loop
    from collapsekit.repairs.training.job import Training

    page = (ROOT / "docs" / "repairs.md").read_text()
    assert f"at most {accept.METRIC_MARGIN:g}" in page
    assert f"falls by at least {accept.MIN_SCORE_FALL:g}" in page
    page = (ROOT / "docs" / "training.md").read_text()
    assert f"every {loop.ROUND} optimiser steps" in page
    for name, field in Training.model_fields.items():
        assert f"`{name}` ({field.default})" in page, name


def test_every_verdict_is_documented() -> None:
    states = ModalityVerdict.model_fields["verdict"].annotation.__args__  # type: ignore[union-attr]
    pages = (
        README.partition("## What a verdict says")[2],
        read("verdicts.md").partition("## What each verdict means")[2],
    )
    tables = [re.findall(r"^\| (`\w+`) \| (.+) \|$", text.partition("\n## ")[0], re.M) for text in pages]
    assert tables[0] == tables[1]
    assert {name.strip("`") for name, _ in tables[0]} == set(states)


def test_every_option_in_the_readme_exists() -> None:
    from typer.main import get_command

    known = {"--install-completion", "--force-reinstall"}
    root = get_command(app)
    for command in root.commands.values():  # type: ignore[attr-defined]
        for one in (command, *getattr(command, "commands", {}).values()):
            known |= {o for p in one.params for o in p.opts}
    names = (
        "verdicts.md",
        "gate.md",
        "tutorial.md",
        "repairs.md",
        "compare.md",
        "python.md",
        "config.md",
        "errors/README.md",
    )
    pages = [read(name) for name in (*names, "reading.md", "limits.md")]
    # Options of benchmarks and of launchers are not ours.
    text = re.sub(r"python -m benchmarks[^`]*|torchrun [^`\n]*?(?=-m collapsekit)", "", "".join([README, *pages]))
    shown = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text))
    assert shown <= known, shown - known


def test_the_yaml_in_the_readme_is_a_config(tmp_path: Path) -> None:
    for block in re.findall(r"```yaml\n(.*?)```", README, re.S):
        config = check_config(parse_yaml(block, "README"), base=tmp_path)
        assert len(config.modalities) == 2
        assert config.modalities["audio"].encoder == "encoders.audio"


@pytest.mark.parametrize("section", ["", "model", "modalities", "data", "subsets", "gate"])
def test_every_key_of_the_config_is_documented_with_its_default(section: str) -> None:
    from collapsekit.config import schema

    kinds: dict[str, type[BaseModel]] = {
        "": schema.Config,
        "model": schema.ModelConfig,
        "modalities": schema.ModalityConfig,
        "data": schema.DataConfig,
        "subsets": schema.SubsetConfig,
        "gate": schema.GateConfig,
    }
    text = (
        read("config.md").partition(f"\n## `{section}`\n" if section else "\n## At the top\n")[2].partition("\n## ")[0]
    )
    rows = {key: default.strip() for key, default in re.findall(r"^\| `(\w+)` \|(.*?)\|", text, re.M)}
    fields = {name: field for name, field in kinds[section].model_fields.items() if not field.exclude}
    assert list(rows) == list(rows | fields)  # each key, and no other
    assert rows == {name: _yaml_default(field) for name, field in fields.items()}


def _yaml_default(field: FieldInfo) -> str:
    """A default as the table has it: nothing for none, else as YAML writes it."""
    if field.is_required():
        return "needed"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        value = {}
    return "" if value is None else f"`{value if isinstance(value, str) else json.dumps(value)}`"


def test_the_api_example_runs_names_that_exist() -> None:
    import collapsekit

    for name in set(re.findall(r"collapsekit\.([A-Za-z_]+)\(", README)):
        assert hasattr(collapsekit, name), name


def test_exit_codes_are_the_codes() -> None:
    from collapsekit import errors
    from collapsekit.cli import terminal
    from collapsekit.report.gate import EXIT_CODES

    assert errors.ConfigError("x").exit_code == 2
    assert errors.RefusedError("x").exit_code == 3
    assert terminal.INTERNAL == 4
    assert errors.NothingEvaluatedError("x").exit_code == 5
    assert terminal.INTERRUPTED == 130
    kinds = [e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, errors.CollapsekitError)]
    raised = {kind.exit_code for kind in kinds} | {terminal.INTERNAL, terminal.INTERRUPTED} | set(EXIT_CODES.values())
    assert raised == set(errors.EXIT_CODES)  # which README and docs/commands.md are generated from


def test_version_is_said_once() -> None:
    import tomllib

    import collapsekit

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == collapsekit.__version__
    assert f"## {collapsekit.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_the_thresholds_in_the_docs_are_the_codes() -> None:
    from collapsekit.report import verdicts as verdict

    text = (ROOT / "docs" / "verdicts.md").read_text()
    assert f"under {verdict.COLLAPSED:g}" in text
    assert f"from a ratio of {verdict.USED:g}" in text
    assert f"at least {verdict.INFORMATIVE:.0%} of the prior loss".replace("%", " %") in text
    assert f"{verdict.KEPT:.0%}".replace("%", " %") in text


def test_what_the_gate_decides_by_is_documented() -> None:
    from collapsekit.cli.commands.gate import KINDS
    from collapsekit.gating.criteria import EFFECTS, MARGINS
    from collapsekit.gating.regression import MIN_RUNS
    from collapsekit.render import formats_of

    page = " ".join(read("gate.md").split())
    assert set(KINDS) - {"text"} | {"terminal"} <= set(formats_of("gate"))
    for kind in KINDS:
        assert f"| `{kind}` |" in page
    for name, values in (("margin", MARGINS), ("effect", EFFECTS)):
        said = (
            f"{values['metric']:g} of the metric, {values['use']:g} of use, {values['missing']:g} of the metric without"
        )
        assert said in page, name
    assert f"at least {MIN_RUNS} runs" in page


def test_every_rule_in_the_docs_can_be_read() -> None:
    from collapsekit.gating.rules.parser import parse_rule

    text = read("tutorial.md") + read("gate.md") + (ROOT / "examples" / "ci" / "README.md").read_text()
    found = re.findall(r"--require '([^']+)'", text) + re.findall(r'"([^"\n]* <= [^"\n]*)"', text)
    found += re.findall(r"`((?:modalities|verdict|results)[^`\n]* (?:<=|!=) [^`\n]*)`", text)
    assert len(found) >= 4
    for rule in found:
        parse_rule(rule)
