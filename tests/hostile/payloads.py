"""Pickles that act: each would create the canary, or start, load or fetch something, if any of it were executed."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.hostile.assemble import (
    beside,
    called,
    dotted,
    legacy_weights,
    mapping,
    named,
    persistent,
    plain,
    tensor,
    tensors,
    torch_legacy,
    torch_zip,
    tuple_of,
)
from tests.hostile.catalogue import add, canary, refused, script, touch


class Acting:
    """Pickled as a call that creates the canary."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


def _saved(protocol: int, legacy: bool) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        weights = {"w": torch.arange(4.0)} if protocol else {}  # protocol 0 cannot point to a storage
        obj = {"state_dict": weights, "x": Acting(__import__("os").system, touch(folder))}
        torch.save(obj, folder / "m.pt", pickle_protocol=protocol, _use_new_zipfile_serialization=not legacy)
        return folder / "m.pt"

    return make


for number in range(6):
    for old in (False, True):
        label = f"os_system_protocol_{number}_{'legacy' if old else 'zip'}"
        # Legacy files of protocols 0 and 1 do not begin as any pickle that torch ever wrote.
        unknown = old and number < 2
        add(_saved(number, old), label, says="not a checkpoint" if unknown else r"posix\.system", live=True)


def _import(module: str) -> bytes:
    return called(named("builtins", "__import__"), plain(module))


def _attribute(what: bytes, name: str) -> bytes:
    return called(named("builtins", "getattr"), what, plain(name))


def _numpy_objects(folder: Path) -> str:
    np.save(folder / "in.npy", np.array([Acting(Path.touch, canary(folder))], dtype=object))
    return str(folder / "in.npy")


def _python(folder: Path, name: str = "run.py") -> str:
    (folder / name).write_text(script(folder))
    return str(folder / name)


def _inner(folder: Path) -> bytes:
    torch.save(Acting(Path.touch, canary(folder)), folder / "in.pt")
    return (folder / "in.pt").read_bytes()


def _instance(folder: Path) -> bytes:
    """argparse.Namespace(), given os.system as its __setstate__, then a state."""
    hooked = mapping((plain("__setstate__"), named("posix", "system")))
    return called(named("argparse", "Namespace")) + hooked + b"b" + plain(touch(folder)) + b"b"


def _extension(folder: Path) -> bytes:
    """os.system under the extension code 241, which the pickle itself registers."""
    register = called(named("copyreg", "add_extension"), plain("posix"), plain("system"), plain(241))
    return tuple_of(register, called(b"\x82\xf1", plain(touch(folder))))


def _from_memo(folder: Path) -> bytes:
    """STACK_GLOBAL whose two strings come out of the memo, stored in the other order."""
    kept = plain("system") + b"r\x00\x01\x00\x00" + b"0" + plain("posix") + b"r\x01\x01\x00\x00" + b"0"
    return kept + called(b"j\x01\x01\x00\x00" + b"j\x00\x01\x00\x00" + b"\x93", plain(touch(folder)))


def _joined_name(folder: Path) -> bytes:
    """STACK_GLOBAL whose name is the result of a call."""
    name = called(named("_operator", "add"), plain("sys"), plain("tem"))
    return called(plain("posix") + name + b"\x93", plain(touch(folder)))


# name -> (the opcodes, a pattern of what the refusal names)
ACTING: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "os_system_by_name": (lambda f: called(named("os", "system"), plain(touch(f))), r"os\.system"),
    "builtins_exec": (lambda f: called(named("builtins", "exec"), plain(script(f))), r"builtins\.exec"),
    "python2_builtin_eval": (lambda f: called(named("__builtin__", "eval"), plain(script(f))), "eval"),
    "builtins_eval": (lambda f: called(named("builtins", "eval"), plain(script(f))), r"builtins\.eval"),
    "builtins_open": (
        lambda f: called(named("builtins", "open"), plain(str(canary(f))), plain("w")),
        r"builtins\.open",
    ),
    "builtins_map": (
        lambda f: called(
            named("builtins", "list"),
            called(named("builtins", "map"), named("posix", "system"), plain([touch(f)])),
        ),
        r"builtins\.map|posix\.system",
    ),
    "io_open": (lambda f: called(named("io", "open"), plain(str(canary(f))), plain("w")), r"io\.open"),
    "os_mkdir": (lambda f: called(named("posix", "mkdir"), plain(str(canary(f)))), r"posix\.mkdir"),
    "subprocess_call": (
        lambda f: called(named("subprocess", "call"), plain(["touch", str(canary(f))])),
        r"subprocess\.call",
    ),
    "pathlib_touch": (
        lambda f: called(dotted("pathlib", "Path.touch"), called(named("pathlib", "PosixPath"), plain(str(canary(f))))),
        r"Path\.touch",
    ),
    "getattr_chain": (
        lambda f: called(_attribute(_import("os"), "system"), plain(touch(f))),
        r"__import__|getattr",
    ),
    "importlib_chain": (
        lambda f: called(
            _attribute(called(named("importlib", "import_module"), plain("os")), "system"), plain(touch(f))
        ),
        "import_module|getattr",
    ),
    "pkgutil_resolve": (
        lambda f: called(called(named("pkgutil", "resolve_name"), plain("os:system")), plain(touch(f))),
        "resolve_name",
    ),
    "partial": (
        lambda f: called(called(named("functools", "partial"), named("posix", "system"), plain(touch(f)))),
        r"partial|posix\.system",
    ),
    "methodcaller": (
        lambda f: called(called(named("operator", "methodcaller"), plain("system"), plain(touch(f))), _import("os")),
        "methodcaller|__import__",
    ),
    "ctypes_library": (
        lambda f: called(
            _attribute(called(named("ctypes", "CDLL"), plain(None)), "system"),
            called(named("_codecs", "encode"), plain(touch(f)), plain("latin1")),
        ),
        r"ctypes\.CDLL|getattr",
    ),
    "runpy": (lambda f: called(named("runpy", "run_path"), plain(_python(f))), r"runpy\.run_path"),
    "timeit": (
        lambda f: called(named("timeit", "timeit"), plain(script(f)), plain("0"), named("time", "time"), plain(1)),
        "timeit",
    ),
    "profile_run": (lambda f: called(named("cProfile", "run"), plain(script(f))), r"cProfile\.run"),
    "numpy_load": (
        lambda f: called(named("numpy", "load"), plain(_numpy_objects(f)), plain(None), plain(True)),
        r"numpy\.load",
    ),
    "numpy_runstring": (
        lambda f: called(named("numpy.testing._private.utils", "runstring"), plain(script(f)), plain({})),
        "runstring",
    ),
    "torch_hub": (
        lambda f: called(
            named("torch.hub", "_load_local"), plain(str(Path(_python(f, "hubconf.py")).parent)), plain("a")
        ),
        r"torch\.hub",
    ),
    "torch_load_inside": (
        lambda f: called(
            named("torch.storage", "_load_from_bytes"),
            called(named("_codecs", "encode"), plain(_inner(f).decode("latin1")), plain("latin1")),
        ),
        "_load_from_bytes",
    ),
    "torch_collect_env": (
        lambda f: called(named("torch.utils.collect_env", "run"), plain(touch(f))),
        r"collect_env\.run",
    ),
    "torch_exec_wrapper": (
        lambda f: called(
            named("torch.jit.unsupported_tensor_ops", "execWrapper"), plain(script(f)), plain({}), plain({})
        ),
        "execWrapper",
    ),
    "through_a_torch_module": (
        lambda f: called(dotted("torch.serialization", "os.system"), plain(touch(f))),
        r"torch\.serialization\.os\.system",
    ),
    "through_collections": (
        lambda f: called(dotted("collections", "abc.sys.modules.get"), plain("os")),
        r"abc\.sys|modules",
    ),
    "setstate_by_build": (_instance, r"posix\.system"),
    "extension_registry": (_extension, "copyreg"),
    "stack_global_from_memo": (_from_memo, r"posix\.system"),
    "stack_global_of_a_call": (_joined_name, "operator"),
    "inst_opcode": (lambda f: b"(" + plain(touch(f)) + b"iposix\nsystem\n", r"posix\.system"),
    "obj_opcode": (lambda f: b"(" + named("posix", "system") + plain(touch(f)) + b"o", r"posix\.system"),
    "in_backward_hooks": (
        lambda f: tensor(hooks=called(named("posix", "system"), plain(touch(f)))),
        r"posix\.system",
    ),
    "in_a_persistent_id": (
        lambda f: tensor(persistent(plain("storage"), called(named("posix", "system"), plain(touch(f))))),
        r"posix\.system",
    ),
    "as_a_key": (
        lambda f: mapping((called(named("posix", "system"), plain(touch(f))), plain(1))),
        r"posix\.system",
    ),
}
NOT_LIVE = {"through_collections"}  # fails on the way, as the file's maker could not have known

for key, (opcodes, says) in ACTING.items():

    def _beside(folder: Path, opcodes: Callable[[Path], bytes] = opcodes) -> Path:
        acting = opcodes(folder)
        # Python 3 takes Python 2's names in protocols below 3, and dotted ones from 4 on.
        return torch_zip(folder / "m.pt", beside(acting, protocol=2 if b"__builtin__" in acting else 4))

    add(_beside, key, says=says, live=key not in NOT_LIVE)

# Loading these would start something that outlives the test, so that they are not proved live.
NAMED = {
    "subprocess_popen": (called(named("subprocess", "Popen"), plain(["true"])), r"subprocess\.Popen"),
    "newobj_ex": (named("subprocess", "Popen") + plain((["true"],)) + plain({}) + b"\x92", r"subprocess\.Popen"),
    "newobj": (named("subprocess", "Popen") + plain((["true"],)) + b"\x81", r"subprocess\.Popen"),
    "named_and_not_called": (named("posix", "system"), r"posix\.system"),
    "posix_spawn": (called(named("posix", "posix_spawn"), plain("/bin/true"), plain([]), plain({})), "posix_spawn"),
    "os_execv": (called(named("posix", "execv"), plain("/bin/true"), plain(["true"])), "execv"),
    "os_kill": (called(named("posix", "kill"), plain(-1), plain(0)), r"posix\.kill"),
    "shutil_rmtree": (called(named("shutil", "rmtree"), plain("/nonexistent")), r"shutil\.rmtree"),
    "socket_connect": (called(named("socket", "create_connection"), plain(("192.0.2.1", 9))), r"socket\."),
    "urlopen": (called(named("urllib.request", "urlopen"), plain("http://192.0.2.1/")), "urlopen"),
    "webbrowser_open": (called(named("webbrowser", "open"), plain("http://192.0.2.1/")), r"webbrowser\.open"),
    "pty_spawn": (called(named("pty", "spawn"), plain("/bin/true")), r"pty\.spawn"),
    "pickle_loads": (called(named("_pickle", "loads"), plain("x")), r"pickle\.loads"),
    "marshal_loads": (called(named("marshal", "loads"), plain("x")), r"marshal\.loads"),
    "code_type": (called(named("types", "CodeType"), plain(0)), r"types\.CodeType"),
    "function_type": (called(named("types", "FunctionType"), plain(0)), r"types\.FunctionType"),
    "torch_ops_library": (called(dotted("torch", "ops.load_library"), plain("/nonexistent.so")), "load_library"),
    "torch_load": (called(named("torch", "load"), plain("/nonexistent.pt")), r"torch\.load"),
    "torch_jit_load": (called(named("torch.jit", "load"), plain("/nonexistent.pt")), r"torch\.jit"),
    "extension_code": (b"\x82\x01", "EXT1"),
    "extension_code_of_four_bytes": (b"\x84\x01\x00\x00\x01", "EXT4"),
}

for key, (fixed, says) in NAMED.items():

    def _named(folder: Path, fixed: bytes = fixed) -> Path:
        return torch_zip(folder / "m.pt", beside(fixed))

    add(_named, key, says=says)


@refused(r"(posix|os)\.system", live=True)
def payload_in_lightning_hyperparameters(folder: Path) -> Path:
    """A Lightning file whose weights are sound and whose hyper-parameters act."""
    weights = mapping((plain("model.w"), tensor()))
    acting = mapping((plain("lr"), called(named("posix", "system"), plain(touch(folder)))))
    version = (plain("pytorch-lightning_version"), plain("2.4.0"))
    items = [(plain("state_dict"), weights), version, (plain("hyper_parameters"), acting)]
    return torch_zip(folder / "m.ckpt", tensors(*items))


def _act(folder: Path) -> bytes:
    return b"\x80\x02" + called(named("posix", "system"), plain(touch(folder))) + b"."


@refused(r"posix\.system", live=True)
def payload_in_legacy_magic(folder: Path) -> Path:
    """A legacy file whose first pickle acts, before the number that marks the format."""
    return torch_legacy(folder / "m.pt", legacy_weights(), magic=_act(folder))


@refused(r"posix\.system", live=True)
def payload_in_legacy_system_info(folder: Path) -> Path:
    """A legacy file whose third pickle, which says how long an int is, acts."""
    return torch_legacy(folder / "m.pt", legacy_weights(), system=_act(folder))


@refused(r"posix\.system", live=True)
def payload_in_legacy_keys(folder: Path) -> Path:
    """A legacy file whose last pickle, the list of storages, acts."""
    return torch_legacy(folder / "m.pt", legacy_weights(), keys=_act(folder))


@refused(r"posix\.system|operations", live=True)
def payload_behind_three_million_opcodes(folder: Path) -> Path:
    """A scanner that gives up early would not see it."""
    padding = b"N0" * 1_500_000
    acting = called(named("posix", "system"), plain(touch(folder)))
    return torch_zip(folder / "m.pt", beside(padding + acting))


@refused(r"subprocess\.call", live=True)
def bare_pickle(folder: Path) -> Path:
    """No torch file at all: a pickle that acts, under a checkpoint's name."""
    (folder / "m.pt").write_bytes(pickle.dumps(Acting(subprocess.call, ["touch", str(canary(folder))]), 4))
    return folder / "m.pt"


@refused(r"Sequential.*state_dict|state_dict.*Sequential")
def whole_module(folder: Path) -> Path:
    """A pickled nn.Module: its classes would have to be imported to be read."""
    torch.save(torch.nn.Sequential(torch.nn.Linear(2, 2)), folder / "m.pt")
    return folder / "m.pt"


@refused(r"posix\.system")
def acting_storage_class(folder: Path) -> Path:
    """A persistent id whose storage class is a function."""
    pid = persistent(plain("storage"), named("posix", "system"), plain("0"), plain("cpu"), plain(4))
    return torch_zip(folder / "m.pt", tensors((plain("w"), tensor(pid))))


assert sys.platform != "win32", "the payloads are written for POSIX"
