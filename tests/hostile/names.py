"""Tensors with names made to act where they are shown: in a terminal, a page, a table, a log of CI."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tests.hostile.assemble import (
    beside,
    called,
    floats,
    mapping,
    plain,
    safe,
    tensor,
    tensors,
    torch_legacy,
    torch_zip,
)
from tests.hostile.assemble import storage as stored
from tests.hostile.catalogue import add

if TYPE_CHECKING:
    from collapsekit.checkpoint.read import Checkpoint

# label -> a name that "w" is given in place of its own
NAMES: dict[str, str] = {
    "html": "<script>alert(1)</script>",
    "html_attribute": "\" onmouseover=\"alert(1)' x='",
    "ansi_escape": "\x1b[31mred\x1b[0m\x1b[2J",
    "osc_title": "\x1b]0;owned\x07\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\",
    "c1_control": "\x9b31mred\x85",
    "rich_markup": "[/x][bold red]red[link=http://x]y[/link]",
    "rich_broken_markup": "[/]",
    "nul": "a\0b",
    "bidi": "\u202eevil\u2066\u200b\u2028",
    "formula": "=cmd|' /C calc'!A0",
    "ci_encoded": "%0A::error::x",
    "ci_command": "\n::error::x",
    "carriage": "fine\rerror: something else",
    "megabyte": "n" * 1_000_000,
    "empty": "",
    "format_string": "{0.__class__} %s %n $(touch canary) `id` ${HOME}",
    "jinja": "{{ 7 * 7 }}{% for x in y %}",
    "path": "../../etc/passwd",
    "combining": "z" + "\u0301" * 500,
}
SURROGATE = b"X\x03\x00\x00\x00\xed\xa0\x80"  # a lone surrogate, as pickle's "surrogatepass" writes it


def _holds(name: str) -> object:
    def check(checkpoint: Checkpoint) -> None:
        assert checkpoint.tensors[name].tolist() == [0, 1, 2, 3]

    return check


for label, name in NAMES.items():

    def _zip(folder: Path, name: str = name) -> Path:
        return torch_zip(folder / "m.pt", tensors((plain(name), tensor())))

    add(_zip, f"name_{label}", says=None, check=_holds(name))


def _all_there(checkpoint: Checkpoint) -> None:
    assert set(checkpoint.tensors) == {*NAMES.values(), "\ud800"}


def _every(folder: Path) -> Path:
    """All of these names in one file."""
    items = [(plain(name), tensor()) for name in NAMES.values()]
    return torch_zip(folder / "m.pt", tensors(*items, (SURROGATE, tensor())))


add(_every, "every_name", says=None, check=_all_there)

for label in ("osc_title", "ci_command", "rich_markup"):

    def _safe(folder: Path, name: str = NAMES[label]) -> Path:
        return safe(folder / "m.safetensors", {name: floats()})

    add(_safe, f"name_{label}_safetensors", says=None, check=_holds(NAMES[label]))


def _surrogate(folder: Path) -> Path:
    return torch_zip(folder / "m.pt", tensors((SURROGATE, tensor())))


add(_surrogate, "name_surrogate", says=None, check=_holds("\ud800"))


def _legacy(folder: Path) -> Path:
    pickled = tensors((plain(NAMES["osc_title"]), tensor(stored(legacy=True))))
    return torch_legacy(folder / "m.pt", pickled)


add(_legacy, "name_osc_title_legacy", says=None, check=_holds(NAMES["osc_title"]))


def _odd(name: str) -> None:
    def make(folder: Path) -> Path:
        far = tensor(shape=(1 << 40,), stride=(0,))
        return torch_zip(folder / "m.pt", tensors((plain("v"), tensor()), (plain(name), far)))

    add(make, f"misfit_named_{label}", says="more than the file's")


for label in ("ansi_escape", "ci_command", "megabyte", "rich_markup"):
    _odd(NAMES[label])


def _keyed(folder: Path) -> Path:
    """The nested key that the note names is hostile too."""
    inner = mapping((plain("w"), tensor()))
    return torch_zip(folder / "m.pt", tensors((plain(NAMES["osc_title"] + NAMES["ci_command"]), inner)))


add(_keyed, "key_named_osc_title", says=None, check=_holds("w"))


def _long_key(folder: Path) -> Path:
    """The nested key that the note names has a megabyte."""
    return torch_zip(folder / "m.pt", tensors((plain(NAMES["megabyte"]), mapping((plain("w"), tensor())))))


add(_long_key, "key_named_megabyte", says=None, check=_holds("w"))


def _parts(folder: Path) -> Path:
    """State dicts side by side under hostile names, which the note lists."""
    names = [NAMES[k] for k in ("osc_title", "ci_command", "bidi", "megabyte")]
    return torch_zip(folder / "m.pt", tensors(*[(plain(n), mapping((plain("w"), tensor()))) for n in names]))


add(_parts, "parts_named_with_escapes", says=None, check=_holds(NAMES["bidi"] + ".w"))


def _stood_in(folder: Path) -> Path:
    """An unknown class with a hostile name beside weights, which the note lists."""
    odd = called(plain("my\x1b]0;owned\x07[/x]") + plain("Class\n::error::x\u202e") + b"\x93", plain(1))
    return torch_zip(folder / "m.pt", beside(odd))


add(_stood_in, "class_named_with_escapes_beside_weights", says=None, check=_holds("w"))


def _classed(folder: Path) -> Path:
    """A class whose name is hostile, in a pickle that is refused for it."""
    module = "os\x1b]0;owned\x07[/x]<b>"
    odd = called(plain(module) + plain("system\n::error::x") + b"\x93", plain("true"))
    return torch_zip(folder / "m.pt", tensors((plain("x"), odd)))


add(_classed, "class_named_with_escapes", says="pickled Python objects|which no checkpoint needs")
