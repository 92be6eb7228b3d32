"""locate: tells the format by content, reads it, and says in one sentence what was taken."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from collapsekit.checkpoint.formats.dcp import is_distributed, load_distributed
from collapsekit.checkpoint.formats.handles import Identity, Look, one_look
from collapsekit.checkpoint.formats.hf_folder import find_in_folder, is_index, load_sharded
from collapsekit.checkpoint.formats.layout import MAX_TENSORS, DamagedError, LimitError, Loaded, Located, Odd
from collapsekit.checkpoint.formats.safetensors_npz import (
    check_count,
    is_npz,
    is_safetensors,
    load_npz,
    load_safetensors,
)
from collapsekit.checkpoint.formats.source import Opened, kind_of, open_file
from collapsekit.checkpoint.formats.state_dict import Weights, find_weights
from collapsekit.checkpoint.formats.torch_export import is_exported, load_exported
from collapsekit.checkpoint.formats.torch_save import is_torch_legacy, is_torch_zip, load_torch_legacy, load_torch_zip
from collapsekit.checkpoint.formats.unsupported import unfamiliar
from collapsekit.checkpoint.formats.zip_archive import Archive, member_names, open_archive
from collapsekit.errors import RefusedError
from collapsekit.io.safe_text import inline, quote

REMEDY = 'in the code that made it, run `torch.save(model.state_dict(), "weights.pt")` and give that file'
# What a file of plain tensors names.
_ORDINARY = re.compile(
    r"torch\.(Size|Tensor|device|dtype|layout|memory_format|strided|\w+Storage|\w+Tensor|u?int\d+|q?u?int\d+x?\d*"
    r"|(b?float|complex)\w*|double|half|long|short|int|bool)|torch\.(cuda|sparse)\.\w+(Storage|Tensor)"
    r"|torch\._utils\._rebuild_\w+|torch\._tensor\._rebuild_from_type(_v2)?|torch\.serialization\._get_layout"
    r"|torch\.storage\.(Typed|Untyped|_Legacy)Storage|torch\.nn\.parameter\.(Parameter|Buffer)"
    r"|collections\.(OrderedDict|Counter|defaultdict)|_codecs\.encode"
    r"|(builtins|__builtin__)\.(set|frozenset|list|dict|bytes|bytearray|complex|int|float|str|bool|object)"
)
# What no checkpoint needs and could only act. Nothing named is ever looked up, these or others: the list decides
# only that a file made to attack whoever loads it is refused whole, weights and all.
_ACTS = re.compile(
    r"(.*\.)?(os|posix|nt|sys|subprocess|_posixsubprocess|pty|socket|_socket|shutil|ctypes|_ctypes|runpy|codeop"
    r"|importlib|zipimport|pkgutil|pydoc|webbrowser|marshal|shelve|multiprocessing|asyncio|pip"
    r"|timeit|pdb|bdb|cProfile|doctest|urllib|http|ftplib|requests|smtplib|httpx|aiohttp|IPython)\..*"
    r"|(pickle|_pickle|cPickle|dill|cloudpickle|joblib)\.\w*(load|Unpickler)\w*|(io|_io|codecs)\.(open\w*|FileIO)"
    r"|pathlib(\._local)?\.\w+\.\w+|platform\.popen|commands\.get\w+|code\.(interact|Interactive\w+)"
    r"|(trace|profile)\.run\w*|imp\.load_\w+|tempfile\.\w+|glob\.\w+|fileinput\.\w+|signal\.\w+|logging\.config\..*"
    r"|torch\.(load|save|compile|(hub|jit|ops|package|library|classes|_C|_ops|_inductor|_dynamo|fx)\..*|storage\._load\w+"
    r"|serialization\.(load|_load|_legacy_load|save)|utils\.(cpp_extension|model_zoo|collect_env|bottleneck)\..*)"
    r"|(builtins|__builtin__)\.(eval|exec|execfile|compile|open|__import__|input|breakpoint|delattr|setattr|globals"
    r"|vars|memoryview|apply|file)"
    r"|operator\.(methodcaller|attrgetter|itemgetter)"
    r"|numpy\.(load|save\w*|loadtxt|fromfile|memmap|(testing|f2py|distutils|ctypeslib)\..*)"
    r"|types\.(CodeType|FunctionType|ModuleType)"
)
_CLAIMS = 64  # times the files' bytes: what all tensors together may stand for, tied ones counted each
_NAMES = 20_000_000  # characters
_SLACK = 64 << 20  # bytes; a broadcast buffer may exceed the file it is stored in by this much


@dataclass(frozen=True)
class Candidate:
    """A file, and what a zip archive holds."""

    file: Opened
    archive: Archive | None = None


@dataclass(frozen=True)
class FileFormat:
    """A kind of file: how its content is told, and how it becomes named places of tensors."""

    name: str
    sniff: Callable[[Candidate], bool]
    load: Callable[[Candidate, dict[str, None]], Loaded]


def _torch_zip(candidate: Candidate, names: dict[str, None]) -> Loaded:
    assert candidate.archive is not None  # by its sniff
    content = load_torch_zip(candidate.archive, names)
    return Loaded(content, [candidate.file.path], list(names), checksummed=candidate.archive.checksummed)


# The first whose sniff says yes reads the file. A new format of one file is one more line here.
FORMATS = (
    FileFormat(
        "torch.export archive",
        lambda g: g.archive is not None and is_exported(g.archive),
        lambda g, names: load_exported(g.archive or Archive({}, False), g.file, names),
    ),
    FileFormat("torch zip", lambda g: g.archive is not None and g.archive.member("data.pkl") is not None, _torch_zip),
    FileFormat(
        "npz",
        lambda g: g.archive is not None and is_npz(g.archive),
        lambda g, _: load_npz(g.archive or Archive({}, False), g.file),
    ),
    FileFormat("sharded safetensors", lambda g: is_index(g.file), lambda g, _: load_sharded(g.file)),
    FileFormat("safetensors", lambda g: is_safetensors(g.file), lambda g, _: load_safetensors(g.file)),
    FileFormat("torch legacy", lambda g: is_torch_legacy(g.file), lambda g, names: load_torch_legacy(g.file, names)),
)
FOLDERS = ("Hugging Face directory", "accelerate directory", "torch.distributed.checkpoint directory")


@dataclass(frozen=True)
class AveragedWeights:
    """The EMA twin of a file's weights: its dotted key, where each tensor lies, and what it tells of modules."""

    key: str
    tensors: dict[str, Located]
    versions: Mapping[str, Any]


@dataclass(frozen=True)
class LocatedWeights:
    """The weights in a file or directory: where each tensor lies, and what was taken and left out."""

    format: str
    tensors: dict[str, Located]
    files: dict[Path, Identity]  # every file that was read, and what it was when it was opened
    key: str | None
    note: str
    names: list[str]  # what its pickles name beyond what plain tensors need
    versions: Mapping[str, Any] = field(default_factory=dict)  # path of a module -> what it tells its own loading
    ties: Mapping[str, str] = field(default_factory=dict)  # names left out as being another's tensor -> that one
    averaged: AveragedWeights | None = None


class UnreadableError(RefusedError):
    """A refusal that knows the format and what the pickles name; ``pickled`` where unpickling would be the way.
    ``file`` is what a single file was when it was looked into.

    Causes: a format that holds code or other things than weights: a pickled module, TorchScript, HDF5, GGUF.

    What to do: run the line in the message where the checkpoint was made; it writes the weights alone.
    """

    def __init__(
        self,
        text: str,
        form: str = "",
        names: Iterable[str] = (),
        *,
        pickled: bool = False,
        file: Identity | None = None,
    ) -> None:
        super().__init__(text)
        self.format, self.names, self.pickled, self.file = form, list(names), pickled, file


def locate(path: Path) -> LocatedWeights:
    """Return where the weights lie in a file or directory, told by content. Nothing in it is executed.

    Raises ConfigError where there is nothing at ``path``, RefusedError (UnreadableError where the format is known)
    where it is unsafe, damaged, too much or not a checkpoint, and where a file changed meanwhile.
    """
    with one_look() as look:
        try:
            found = _located(path, look)
        except UnreadableError as e:
            look.check()
            e.file = look.identity_if_open(path)
            raise
        look.check()
        return found


def _located(path: Path, look: Look) -> LocatedWeights:
    form = ""
    names: dict[str, None] = {}
    try:
        if kind_of(path) == "directory":
            if is_distributed(path):
                form = "torch.distributed.checkpoint directory"
                return _weights_in(path, form, load_distributed(path, names), look)
            path = find_in_folder(path)
        candidate = _candidate(open_file(path))
        kind = next((f for f in FORMATS if f.sniff(candidate)), None)
        if kind is None:
            raise RefusedError(
                unfamiliar(candidate.file, () if candidate.archive is None else candidate.archive.members)
            )
        form = kind.name
        return _weights_in(path, form, kind.load(candidate, names), look)
    except DamagedError as e:
        foreign = _foreign(names)
        _refuse_acting(path, form, foreign)
        say = _too_much if isinstance(e, LimitError) else _damaged
        raise UnreadableError(say(path, form, str(e), foreign), form, foreign) from None


def _candidate(file: Opened) -> Candidate:
    if not is_torch_zip(file):
        return Candidate(file)
    inside = member_names(file.whole)
    if any(n.endswith("/constants.pkl") for n in inside) and any("/code/" in n for n in inside):
        code = [n.partition("/code/")[2].removesuffix(".py") for n in inside if n.endswith(".py")]
        classes = [n.replace("/", ".") for n in code if n]
        raise UnreadableError(
            f"{file.path} is a TorchScript archive, which carries code ({_listed(classes)}): in the code that made it, run "
            '`torch.save(model.state_dict(), "weights.pt")` before torch.jit.script and give that file.',
            "TorchScript",
            classes,
            pickled=True,
        )
    if any(n.endswith("/.data/extern_modules") for n in inside):
        modules = [n.split("/", 1)[-1] for n in inside if n.endswith(".py")]
        raise UnreadableError(
            f"{file.path} is a torch.package, which carries code ({_listed(modules)}): {REMEDY}.",
            "torch.package",
            modules,
        )
    return Candidate(file, open_archive(file.whole))


def _weights_in(path: Path, form: str, loaded: Loaded, look: Look) -> LocatedWeights:
    names = _foreign(loaded.names)
    _refuse_acting(path, form, names)
    weights = find_weights(loaded.content)
    if weights is None:
        raise UnreadableError(_no_weights(path, names), form, names, pickled=bool(names))
    check_count(len(weights.entries), "tensors")
    if sum(map(len, weights.entries)) > _NAMES:
        raise LimitError(f"the names of its tensors take more than the {_NAMES:,} characters that are read")
    files = {p: look.identity(p) for p in loaded.paths}
    tensors = _plain(path, weights, sum(size for _, _, size, *_ in files.values()), form)
    note = _note(form, weights, loaded, names)
    averaged = _averaged(path, weights.averaged, sum(size for _, _, size, *_ in files.values()), form)
    return LocatedWeights(form, tensors, files, weights.key, note, names, weights.versions, loaded.ties, averaged)


def _averaged(path: Path, weights: Weights | None, stored: int, form: str) -> AveragedWeights | None:
    """The twin's tensors; None where there are none, and where they could not be read."""
    if weights is None or len(weights.entries) > MAX_TENSORS or sum(map(len, weights.entries)) > _NAMES:
        return None
    try:
        return AveragedWeights(str(weights.key), _plain(path, weights, stored, form), weights.versions)
    except UnreadableError:
        return None


def _refuse_acting(path: Path, form: str, names: list[str]) -> None:
    acting = [n for n in names if _ACTS.fullmatch(n)]
    if acting:
        raise UnreadableError(
            f"{path} names {_listed(acting)} in its pickle, which no checkpoint needs and which would act on whoever "
            "unpickles it: nothing of it was executed, do not load it anywhere, and get the weights from another source.",
            form,
            names,
            pickled=True,
        )


def _plain(path: Path, weights: Weights, stored: int, form: str) -> dict[str, Located]:
    """The entries, once each is plain and none stands for far more numbers than ``stored`` bytes of files hold."""
    tensors: dict[str, Located] = {}
    claimed = 0
    for name, entry in weights.entries.items():
        which = f"{path} has a tensor {quote(name, 200)}"
        if isinstance(entry, Odd):
            text = f"{which} that is not stored as plain dense numbers ({inline(entry.what, 100)}): {_remedy(entry)}."
            raise UnreadableError(text, form)
        claimed += entry.bytes
        if entry.bytes > stored + _SLACK or claimed > _CLAIMS * stored + _SLACK:
            text = f"{which} of shape {entry.shape}, more than the file's {stored} bytes can hold"
            raise UnreadableError(f"{text}: save the weights again, with that tensor .clone()d.", form)
        tensors[name] = entry
    return tensors


def _remedy(odd: Odd) -> str:
    if "DTensor" in odd.what or "wrapper subclass" in odd.what:
        return "gather it with .full_tensor() first, or save with torch.distributed.checkpoint"
    if "conjugated" in odd.what:
        return "save it with .resolve_conj().resolve_neg()"
    return "save a dense, unquantized model"


def _foreign(names: Iterable[str]) -> list[str]:
    return [n for n in names if not _ORDINARY.fullmatch(n) or _ACTS.fullmatch(n)]


def _listed(names: list[str]) -> str:
    return ", ".join(inline(n, 100) for n in names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _no_weights(path: Path, names: list[str]) -> str:
    if names:
        return (
            f"{path} holds pickled Python objects ({_listed(names)}), and loading those would run code "
            f"chosen by the file: {REMEDY}."
        )
    return f"{path} holds no named tensors: save `model.state_dict()` instead."


def _too_much(path: Path, form: str, reason: str, names: list[str]) -> str:
    also = f"; its pickle names {_listed(names)}" if names else ""
    kind = form if form.endswith(("directory", "archive")) else f"{form or 'zip'} file"
    return (
        f"{path} is a {kind} beyond what is read here ({inline(reason, 400)}{also}): save the model's weights alone, "
        "without what they do not need."
    )


def _damaged(path: Path, form: str, reason: str, names: list[str]) -> str:
    also = f"; its pickle names {_listed(names)}" if names else ""
    kind = form if form.endswith(("directory", "archive")) else f"{form or 'zip'} file"
    what = f"{inline(reason, 400)}{also}"
    return f"{path} is not a sound {kind} ({what}): copy or download it again, or save the weights anew."


def _note(form: str, weights: Weights, loaded: Loaded, names: list[str]) -> str:
    count = len(weights.entries)
    lightning = isinstance(loaded.content, dict) and "pytorch-lightning_version" in loaded.content
    maker = "Lightning " if lightning else ""
    where = f"from {quote(weights.key, 100)} of" if weights.key else "from the top level of"
    text = f"{count} tensor{'s' * (count != 1)} taken {where} a {maker}{form}"
    text += "" if form.endswith(("directory", "archive")) else " file"
    if weights.parts:
        text += f", joined from {', '.join(quote(p, 60) for p in weights.parts[:6])}"
    for more in loaded.about:
        text += f"; {more}"
    if weights.twin:
        text += f"; the EMA weights that stand beside them under {quote(weights.twin, 100)} were left out"
        text += " (`model.weights: ema` takes them)"
    if weights.other:
        text += f"; {weights.other} entr{'ies' if weights.other > 1 else 'y'} without a tensor left out"
    if names:
        text += f"; objects of other classes ({_listed(names)}) were left out unread"
    if not loaded.checksummed:
        text += "; the file carries no checksums, so damage would go unseen"
    return text + "."
