"""Configs made to hurt: each is a ConfigError of one sentence, soon and in little memory."""

from __future__ import annotations

import itertools
import json
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from collapsekit.config.discovery import find_config
from collapsekit.config.load import check_config, load_config
from collapsekit.config.schema import Config
from collapsekit.errors import ConfigError
from collapsekit.io.limits import MAX_LEVELS, check_plain
from collapsekit.io.safe_text import inline, quote
from collapsekit.io.yaml import MAX_BYTES, MAX_VALUES, parse_yaml

KWARGS = "model:\n  kwargs: "
LETTERS = "abcdefghij"


def bomb(first: str, unfold: Callable[[str], str]) -> str:
    """Nine lines, each of which names the one before ten times: 10⁹ values."""
    lines = [f"a: &a {first}"]
    for before, name in itertools.pairwise(LETTERS):
        lines.append(f"{name}: &{name} {unfold(', '.join([f'*{before}'] * 10))}")
    return "\n".join(lines)


HOSTILE: dict[str, tuple[str | bytes, str]] = {
    "alias bomb": (bomb("[x, x]", lambda t: f"[{t}]"), "aliases unfold to more than 20,000 values"),
    "alias bomb of mappings": (bomb("{x: 1}", lambda t: f"{{k: [{t}]}}"), "aliases unfold to more than 20,000"),
    "merge bomb": (
        bomb("{" + ", ".join(f"k{i}: 1" for i in range(10)) + "}", lambda t: f"{{<<: [{t}]}}"),
        "aliases unfold to more than 20,000 values",
    ),
    "wide aliases": ("a: &a [" + "1," * 5000 + "]\nb: [" + "*a," * 5000 + "]", "aliases unfold to more than 20,000"),
    "deep aliases": (
        "a: &a " + "[" * 40 + "]" * 40 + "\nb: " + "[" * 40 + "*a" + "]" * 40,
        "aliases nest more than 50",
    ),
    "list in itself": ("&a [*a]", "aliases nest more than 50 levels deep"),
    "mapping in itself": ("a: &a {b: *a}", "aliases nest more than 50 levels deep"),
    "kwargs in themselves": (KWARGS + "{x: &a [*a]}", "aliases nest more than 50 levels deep"),
    "merged into itself": ("a: &a {<<: *a}", "aliases nest more than 50 levels deep"),
    "key of itself": ("&a {*a : 1}", "keys must be plain names"),
    "nested lists": ("[" * 200_000, "nested more than 50 levels deep"),
    "nested mappings": ("{a: " * 200_000, "nested more than 50 levels deep"),
    "nested dashes": ("- " * 200_000, "nested more than 50 levels deep"),
    "nested questions": ("? " * 200_000, "nested more than 50 levels deep"),
    "many values": (KWARGS + "[" + "1," * 490_000 + "]", "holds more than 20,000 values"),
    "many keys": ("".join(f"k{i}: 1\n" for i in range(90_000)), "holds more than 20,000 values"),
    "many aliases": ("a: &a 1\nb: [" + "*a," * 300_000 + "]", "holds more than 20,000 values"),
    "too large": (" " * (MAX_BYTES + 1), "1,000,001 bytes, more than the 1,000,000 that are read"),
    "comment": ("#" * MAX_BYTES, "holds NoneType"),
    "newlines": ("\n" * MAX_BYTES, "holds NoneType"),
    "directives": ("%a\n" * 333_000 + "a", "more than 10 lines begin with %"),
    "escapes": ('"' + "\\n" * 499_000 + '"', "holds str"),
    "long name": ("k" * 900 + ": 1", "unknown key 'kkk"),
    "long value": ("call: " + "x" * 900_000, "found 'xxx"),
    "long anchor": ("&" + "a" * 900_000 + " b", "holds str"),
    "long alias": ("*" + "a" * 900_000, "found undefined alias"),
    "long tag": ("!" + "a" * 900_000 + " b", "the tag !aaa"),
    "integer of a million digits": ("a: " + "9" * 999_000, "a number of 999,000 digits is too long"),
    "hexadecimal": ("a: 0x" + "f" * 900_000, "is too long"),
    "base 60": ("a: 1" + ":59" * 300_000, "unknown key 'a'"),
    "leading zeros": ("a: 0" + "0" * 900_000, "begins with a zero"),
    "underscores": ("a: 1" + "_0" * 450_000, "a number of 900,001 digits is too long"),
    "underscores and no number": ("a: 1" + "_0" * 450_000 + "_", "unknown key 'a'"),
    "over 64 bits": (
        "data: {batch_size: 0x" + "f" * 90 + "}",
        "must fit 64 bits, found one of 360 at 'data.batch_size'",
    ),
    "under 64 bits": ("a: -9223372036854775809", "must fit 64 bits"),
    "key over 64 bits": (KWARGS + "{0x" + "f" * 90 + ": 1}", "must fit 64 bits"),
    "no digits": ("a: 0x_", "'0x_' is not a number"),
    "infinite": (KWARGS + "{x: [1, .inf]}", "finite, found inf at 'model.kwargs.x.1'"),
    "not a number": ("temperature: .nan", "finite, found nan at 'temperature'"),
    "overflow": ("temperature: 1e999", "finite, found inf at 'temperature'"),
    "half a character": (KWARGS + '{x: "\\ud800"}', "half of one (U+D800) at 'model.kwargs.x'"),
    "half a character in a key": (KWARGS + '{"\\udfff": 1}', "half of one (U+DFFF) at 'model.kwargs'"),
    "beyond Unicode": ('a: "\\U00110000"', "out of range"),
    "far beyond Unicode": ('a: "\\UFFFFFFFF"', "out of range"),
    "version": ("%YAML 1." + "9" * 10_000 + "\n--- a", "out of range"),
    "NUL": (b"a: \0", "the character U+0000 is not allowed"),
    "escape character": (b"a: \x1b[31m", "the character U+001B is not allowed"),
    "surrogate bytes": (b'a: "\xed\xa0\x80"', "not UTF-8 text (byte 0xed at position 4)"),
    "UTF-16": ("a: b".encode("utf-16"), "not UTF-8 text"),
    "junk": (random.Random(0).randbytes(100_000), "not UTF-8 text"),
    "empty": ("", "holds NoneType"),
    "equals sign": ("=: a", "unknown key '='"),
    "merge of a number": ("a: {<<: 3}", "is not valid YAML"),
    "two documents": ("a: 1\n---\nb: 2", "line 2 is not valid YAML"),
    "no name": ("~: a", "keys must be plain names"),
    "control characters": ('"a\\nb\\e[31m": 3', r"unknown key 'a\nb\x1b[31m'"),
    "bidirectional": ('call: "\u202e"', r"found '\u202e'"),
}
TOML = "[tool.collapsekit]\n"
HOSTILE_TOML: dict[str, tuple[str | bytes, str]] = {
    "nested lists": (TOML + "a = " + "[" * 200_000, "nested too deeply"),
    "nested tables": (TOML + "a = " + "{a = " * 190_000, "nested too deeply"),
    "closed lists": (TOML + "model.kwargs.x = " + "[" * 60 + "]" * 60, "nested more than 50 levels deep"),
    "dotted key": (TOML + "a." * 400_000 + "a = 1", "dotted key of more than 32 parts, 'a.a.a"),
    "spaced key": (TOML + "a . " * 200_000 + "a = 1", "dotted key of more than 32 parts"),
    "quoted key": (TOML + "' '.\"!\"." * 100_000 + "a = 1", "dotted key of more than 32 parts"),
    "dotted table": ("[" + "a." * 400_000 + "a]", "dotted key of more than 32 parts"),
    "one long word": (TOML + "a" * 900_000, "not valid TOML"),
    "quotes": ('"' * 900_000, "not valid TOML"),
    "integer of a million digits": (TOML + "a = " + "9" * 900_000, "not valid TOML"),
    "hexadecimal": (TOML + "temperature = 0x" + "f" * 900_000, "must fit 64 bits"),
    "infinite": (TOML + "temperature = inf", "finite, found inf at 'temperature'"),
    "overflow": (TOML + "temperature = 1e999", "finite, found inf at 'temperature'"),
    "half a character": (TOML + 'fusion = "\\ud800"', "not valid TOML"),
    "date": (TOML + "model.kwargs.x = 2024-01-01", "found date"),
    "many values": (TOML + "model.kwargs.x = [" + "1," * 400_000 + "]", "unfolds to more than 20,000 values"),
    "too large": (TOML + "#" * MAX_BYTES, "more than the 1,000,000 that are read"),
    "tool is a number": ("tool = 5", "has no [tool.collapsekit] table"),
    "ours is a number": ("[tool]\ncollapsekit = 5", "holds int"),
    "NUL": (b"a = '\0'", "not valid TOML"),
    "junk": (random.Random(1).randbytes(10_000), "not UTF-8 text"),
}
CASES = [("c.yaml", n, *c) for n, c in HOSTILE.items()] + [("c.toml", n, *c) for n, c in HOSTILE_TOML.items()]


@pytest.mark.parametrize(
    ("file", "text", "says"), [(f, t, s) for f, _, t, s in CASES], ids=[f"{f}-{n}" for f, n, *_ in CASES]
)
def test_hostile_configs_are_one_sentence_and_soon(file: str, text: str | bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / file
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    began = time.process_time()
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert time.process_time() - began < 5  # 0.8 s at worst; what is refused here would take minutes, or for ever
    said = str(caught.value)
    assert says in said
    assert said.replace(str(path), "").isprintable()
    assert len(said) < 1000 + len(str(path))
    assert said.endswith(".")


MEASURED = """
import resource, sys
from collapsekit.config.load import load_config
from collapsekit.errors import ConfigError
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sys.argv[1:]:
    try:
        load_config(path)
    except ConfigError:
        pass
print(before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_hostile_configs_take_little_memory(tmp_path: Path) -> None:
    """In a process of its own, under a limit: with the bounds taken away, this test and not the machine fails."""
    resource = pytest.importorskip("resource", reason="no limits on memory here")
    paths = []
    heavy = ("bomb", "many", "itself", "aliases", "hexadecimal", "directives", "escapes", "dotted")
    for i, (file, _, text, _) in enumerate(c for c in CASES if any(word in c[1] for word in heavy)):
        paths.append(tmp_path / str(i) / file)
        paths[-1].parent.mkdir()
        paths[-1].write_bytes(text if isinstance(text, bytes) else text.encode())
    (tmp_path / "huge.yaml").write_bytes(b"")
    os.truncate(tmp_path / "huge.yaml", 100_000_000)

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31))
        resource.setrlimit(resource.RLIMIT_CPU, (120, 120))

    command = [sys.executable, "-c", MEASURED, *map(str, paths), str(tmp_path / "huge.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=limited, check=True)
    before, most = map(int, done.stdout.split())
    assert (most - before) / 1024 < 300  # MiB


def test_what_is_no_regular_file_is_never_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    os.mkfifo(tmp_path / "pipe.toml")
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    for name, says in (("pipe.yaml", "regular"), ("pipe.toml", "regular"), ("loop.yaml", "symbolic"), (".", "regular")):
        with pytest.raises(ConfigError, match=f"cannot be read: .*{says}"):
            load_config(tmp_path / name)
    for name in ("pipe.yaml", "loop.yaml", ".", "x" * 300, "a\0b"):
        with pytest.raises(ConfigError, match="is not a file"):
            find_config(tmp_path / name, None)


def test_a_checkpoint_s_name_cannot_break_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "collapsekit.yaml")  # not a config, and not waited for
    for name in ("loop", "a\0b", "x" * 300, "none"):
        with pytest.raises(ConfigError, match=r"there is no collapsekit\.yaml in"):
            find_config(None, tmp_path / name)


def test_files_at_the_bounds_are_read_and_beyond_them_refused(tmp_path: Path) -> None:
    inner = MAX_LEVELS - 3
    text = KWARGS + "{x: " + "[" * inner + "]" * inner + "}"
    assert check_config(parse_yaml(text, "c"), base=tmp_path).model.kwargs["x"] is not None
    with pytest.raises(ConfigError, match="nested more than"):
        parse_yaml(KWARGS + "{x: " + "[" * (inner + 1) + "]" * (inner + 1) + "}", "c")
    assert len(parse_yaml("[" + "1," * (MAX_VALUES - 1) + "]", "c")) == MAX_VALUES - 1
    with pytest.raises(ConfigError, match="more than 20,000 values"):
        parse_yaml("[" + "1," * MAX_VALUES + "]", "c")
    for number in (-(2**63), 2**64 - 1):
        assert parse_yaml(f"x: {number}", "c") == {"x": number}
    with pytest.raises(ConfigError, match="1,000,001 characters"):
        parse_yaml(" " * (MAX_BYTES + 1), "c")
    parts = ".".join(["a"] * 32)
    assert parse_yaml(f"x: {parts}", "c") == {"x": parts}
    (tmp_path / "p.toml").write_text(f'[tool.x.{parts}]\ny = ["{parts}.{parts}"]\n[tool.collapsekit]\nfusion = "f"\n')
    with pytest.raises(ConfigError, match="dotted key"):
        load_config(tmp_path / "p.toml")
    dots = ", ".join(f'"file{i}.py"' for i in range(100))
    (tmp_path / "p.toml").write_text(f'[tool.x]\ny = [{dots}]\n[tool.collapsekit]\nfusion = "f"\n')
    assert load_config(tmp_path / "p.toml").fusion == "f"


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (".inf", "numbers must be finite, found inf"),
        ("[0, {a: .nan}]", "numbers must be finite, found nan at '1.a'"),
        (str(2**64), "must fit 64 bits"),
        ('"\\ud800"', "half of one"),
        ("\udcff", "the character U+DCFF is not allowed"),  # a byte of the command line that is not UTF-8
        ("&a [*a]", "line 1 is not valid YAML: its aliases nest"),
        ("!!python/name:os.system", "line 1 is not valid YAML: the tag"),
        ("[" * 100, "line 1 is not valid YAML: it is nested"),
        ("010", "line 1 is not valid YAML: '010' begins with a zero"),
        ("yes", "line 1 is not valid YAML: 'yes' is true to some"),
    ],
)
def test_values_of_set_are_held_to_the_same(value: str, says: str) -> None:
    from collapsekit.cli.options import parse_set

    with pytest.raises(ConfigError) as caught:
        parse_set([f"vif.x={value}"])
    assert str(caught.value).startswith("--set vif.x ")
    assert says in str(caught.value)


# -- values are what they look like -------------------------------------------------------------------------------------

READ: list[tuple[str, Any]] = [
    *[("0", 0), ("-0", 0), ("+7", 7), ("12", 12), ("-12", -12), ("1_000", 1000), ("1_000_000", 1_000_000)],
    *[("0x1F", 31), ("-0x1f", -31), ("0o10", 8), ("+0o17", 15), ("0b1", 1), ("0b1010", 10), ("0b1_0", 2)],
    *[(".5", 0.5), ("-.5", -0.5), ("5.", 5.0), ("1.5", 1.5), ("0.5", 0.5), ("00.5", 0.5), ("1_000.5", 1000.5)],
    *[("1e3", 1000.0), ("1E-3", 1e-3), ("1.e3", 1000.0), ("+1.5e+3", 1500.0), (".5e1", 5.0), ("01e3", 1000.0)],
    *[("true", True), ("True", True), ("TRUE", True), ("false", False), ("FALSE", False)],
    *[("~", None), ("null", None), ("Null", None), ("NULL", None), ("", None)],
]
# What neither looks like a number nor like a truth value is text, letter for letter.
TEXTS = [
    *("1:30:00", "1:30", "16:9", "-1:30", "1:30.5", "190:20:30.15", "08:15", "00:30"),  # base 60 to YAML 1.1
    *("2020-01-01", "2020-01-01T10:00:00Z", "2020-01-01 10:00:00", "2020-1-1"),  # dates
    *("=", "<<", "y", "n", "Y", "N", "t", "yEs", "nO", "oN", "tRUE", "nULL", "none", "None", "nan", "inf", "Infinity"),
    *(
        "1_",
        "_1",
        "1__0",
        "1_.5",
        "1._5",
        "._5",
        ".",
        "+",
        "e3",
        "1e",
        "1e1_0",
        "1e3.5",
        "1.2.3",
        "0b2",
        "0o8",
        "0xg",
    ),
    *("١", "1٢", "1٢e3", "½", "0.1.", "1 000", "12px", "v1", "+-1", "--1", ".5.", "08a", "0-1"),
]


def parsed(text: str) -> list[Any]:
    """The value as it stands in a mapping, a list, at the top, in --set and behind an alias."""
    from collapsekit.cli.options import parse_set

    found = [
        parse_yaml(f"x: {text}", "c")["x"],
        parse_yaml(f"- {text}\n", "c")[0],
        parse_set([f"vif.x={text}"])["vif"]["x"],
        *parse_yaml(f"x: [&a {text}\n, *a]", "c")["x"],
    ]
    if text != "<<":  # in flow, a merge
        found.append(parse_yaml(f"{{x: {text}\n}}", "c")["x"])
    return found


@pytest.mark.parametrize(("text", "value"), READ)
def test_numbers_and_truth_values_look_like_it(text: str, value: Any) -> None:
    for found in parsed(text):
        assert (type(found), found) == (type(value), value)


@pytest.mark.parametrize("text", TEXTS)
def test_what_looks_like_text_is_text(text: str) -> None:
    assert parsed(text) == [text] * len(parsed(text))
    if ":" not in text:
        assert parse_yaml(f"{text}: 1" if text != "<<" else '"<<": 1', "c") == {text: 1}


@pytest.mark.parametrize(
    ("text", "write"),
    [
        *[
            ("010", "10"),
            ("-010", "-10"),
            ("+07", "7"),
            ("08", "8"),
            ("00", "0"),
            ("0_1", "1"),
            ("0000", "0"),
        ],
        *[(t, "true") for t in ("yes", "Yes", "YES", "on", "On", "ON")],
        *[(t, "false") for t in ("no", "No", "NO", "off", "Off", "OFF")],
    ],
)
def test_what_has_two_meanings_is_refused_with_what_to_write(text: str, write: str) -> None:
    from collapsekit.cli.options import parse_set

    for yaml in (f"x: {text}", f"- {text}", f"{{x: [{text}]}}", f"x: 1\n{text}: 1", text):
        with pytest.raises(
            ConfigError, match=rf"^c line \d is not valid YAML: '{re.escape(text)}' .*write {write}, or put"
        ):
            parse_yaml(yaml, "c")
        assert parse_yaml(yaml.replace(text, f'"{text}"'), "c") is not None
    with pytest.raises(ConfigError, match=r"^--set vif\.x line 1 is not valid YAML"):
        parse_set([f"vif.x={text}"])
    assert parse_set([f'vif.x="{text}"']) == {"vif": {"x": text}}


@given(st.from_regex(r"\A[-+]?[0-9][0-9_:.xobe]{0,7}\Z"))
def test_a_number_is_python_s_or_text_or_refused(text: str) -> None:
    """Nothing is read as a number other than the one that Python reads in it."""
    try:
        found = parse_yaml(f"x: [{text}]", "c")["x"][0]
    except ConfigError:
        return
    if isinstance(found, str):
        assert found == text
    elif isinstance(found, int):
        assert found == int(text, 0)
    elif isinstance(found, float):
        assert found == float(text)
    else:
        assert isinstance(found, dict)  # 1: and nothing behind it


def test_aliases_that_stay_small_work_however_deep(tmp_path: Path) -> None:
    """A merge inside a merge, named again later: the keys it overrides do not count as standing twice."""
    text = KWARGS + "{l: {<<: &b {<<: &c {x: 1, y: 1}, x: 2}}, again: *b, both: {<<: [*b, *c], y: 3}}"
    assert check_config(parse_yaml(text, "c"), base=tmp_path).model.kwargs == {
        "l": {"x": 2, "y": 1},
        "again": {"x": 2, "y": 1},
        "both": {"x": 2, "y": 3},
    }


@pytest.mark.parametrize("make", [lambda deep: {"x": deep}, lambda deep: [deep]], ids=["mapping", "list"])
def test_python_s_own_bombs_are_refused(make: Callable[[Any], Any], tmp_path: Path) -> None:
    """What diagnose(config=...) may be handed."""
    deep: Any = []
    for _ in range(100_000):
        deep = make(deep)
    itself: dict[str, Any] = {}
    itself["x"] = make(itself)
    wide: Any = "x"
    for _ in range(9):
        wide = [wide] * 10
    for value in (deep, itself, wide):
        with pytest.raises(ConfigError, match=r"config cannot be used: it (is nested|unfolds)"):
            check_config({"model": {"kwargs": {"x": value}}}, base=tmp_path)


def test_paths_no_file_can_have(tmp_path: Path) -> None:
    config = Config(base=tmp_path, origin="c.yaml")
    assert config.resolve("d/e.npz") == tmp_path / "d" / "e.npz"
    assert config.resolve(str(tmp_path / "f")) == tmp_path / "f"
    for path, why in (("a\0b", "NUL"), ("x" * 300, "File name too long"), ("~no-such-user/x", "home directory")):
        with pytest.raises(ConfigError, match=rf"c\.yaml names the path '.*', which cannot be used: .*{why}"):
            config.resolve(path)


# -- any text at all ---------------------------------------------------------------------------------------------------

WORDS = [
    *("model", "modalities", "data", "kwargs", "factory", "subsets", "a", "b", "<<", "=", "~", "null", "yes", "1e-3"),
    *(": ", "- ", "? ", "[", "]", "{", "}", ", ", "\n", "  ", "&a ", "*a", "!!str ", "!", "|\n", ">\n", "'", '"', "#"),
    *(
        "%YAML 1.1\n",
        "---\n",
        "...\n",
        "\\x",
        "\\ud800",
        "0x_",
        "0b",
        "1:30",
        ".inf",
        "\t",
        "\r\n",
        "\0",
        "\ufeff",
        "β",
    ),
]
yaml_like = st.lists(st.sampled_from(WORDS), max_size=30).map("".join)
toml_like = st.lists(st.sampled_from([*WORDS, " = ", "[tool.collapsekit]\n", "'''", '"""', "."]), max_size=30).map(
    "".join
)


@settings(max_examples=250, deadline=None)
@given(st.binary(max_size=200) | yaml_like.map(str.encode))
@example(b"\xff\xfe")
def test_any_bytes_are_a_config_or_a_config_error(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(data)
    _config_or_error(path)


@settings(max_examples=150, deadline=None)
@given(toml_like)
def test_any_toml_is_a_config_or_a_config_error(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_bytes(b"[tool.collapsekit]\n" + text.encode())
    _config_or_error(path)


def _config_or_error(path: Path) -> None:
    try:
        config = load_config(path)
    except ConfigError as e:
        assert "\n" not in str(e)  # noqa: PT017 - either outcome is fine, a traceback is not
        return
    json.dumps(config.model_dump(mode="json"), allow_nan=False).encode()


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(alphabet=st.characters(exclude_categories=[])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=4),
    max_leaves=20,
)
FIELDS = [*Config.model_fields, "modalities", "subsets", "no such"]


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(FIELDS), plain, min_size=1, max_size=3))
def test_any_mapping_is_a_config_or_a_config_error(raw: dict[str, Any]) -> None:
    try:
        config = check_config(raw, base=Path())
    except ConfigError as e:
        assert str(e).isprintable()  # noqa: PT017 - either outcome is fine, a traceback is not
        return
    json.dumps(config.model_dump(mode="json"), allow_nan=False, ensure_ascii=False).encode()


@settings(max_examples=200, deadline=None)
@given(plain)
def test_what_passes_the_check_is_json_of_whole_characters(value: Any) -> None:
    try:
        check_plain(value, values=10, levels=3)
    except ValueError as e:
        assert str(e).isprintable()  # noqa: PT017
        return
    json.dumps(value, allow_nan=False, ensure_ascii=False).encode()


@given(st.text(alphabet=st.characters(exclude_categories=[])), st.integers(5, 50))
def test_what_a_message_shows_is_one_line(text: str, most: int) -> None:
    for part in (inline(text, most), quote(text, most)):
        assert part.isprintable()
        part.encode()
    if text.isprintable() and len(text) <= most:
        assert inline(text, most) == text
    assert len(quote("x" * 100, most)) == most + 2


# -- names that act, on their way to the terminal ----------------------------------------------------------------------

NAME = r"<script>\e]8;;http://evil.example\a\e[31m[/x][link=http://evil.example]\u202e\0=cmd|'/c calc'!A1"
NAME += r"\n::error::gone%0A::error::gone##[error]"


@pytest.mark.parametrize(
    "text",
    [
        '"{}": 1',
        'model: {{"{}": 1}}',
        'modalities: {{"{}": {{encodr: x}}}}',
        'modalities: {{"{}": {{pool: x}}}}',
        'modalities: {{a: {{pool: "{}"}}}}',
        'modalities: {{"{}": x, b: y, c: z}}\nsubsets: [{{modalities: [b, q], checkpoint: x}}]',
        'modalities: {{a: x, b: y, c: z}}\nsubsets: [{{modalities: ["{}", b], checkpoint: x}}]',
        'model: {{kwargs: {{"{}": .nan}}}}',
        'model: {{kwargs: {{"{0}": 1, "{0}": 2}}}}',
        'plugins: ["{}"]',
        'task: "{}"\nmodel: {{factory: "json:loads"}}\nmodalities: {{a: x, b: y}}',
        'adapter: "{}"',
        'adapter: "{}:x"',
        'model: {{factory: "{}:x", checkpoint: none.pt}}\nmodalities: {{a: x, b: y}}',
        'model: {{factory: "json:loads", checkpoint: "{}"}}\nmodalities: {{a: x, b: y}}',
        'model: {{factory: "json:loads"}}\nmodalities: {{a: x, b: y}}\ndata: {{path: "{}"}}',
    ],
)
def test_names_from_a_config_reach_the_terminal_harmless(text: str, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from collapsekit.cli import app

    path = tmp_path / "collapsekit.yaml"
    path.write_text(text.format(NAME))
    done = CliRunner().invoke(app, ["diagnose", "-c", str(path)], prog_name="collapsekit")
    assert done.exit_code in (2, 3), done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert all(c == "\n" or c.isprintable() for c in done.stderr)
    assert "::" not in done.stderr
    assert "##[" not in done.stderr
