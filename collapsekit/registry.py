"""One door for everyone: ``@probe``, ``@repair_method``, ``@task`` and ``@adapter`` in one file, found as a built-in, by
``--plugin file.py``, or by the entry-point group ``collapsekit``."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import math
import pkgutil
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict, TypeVar, Unpack

from pydantic import ValidationError

from collapsekit.context import Options
from collapsekit.deprecated import TASKS_OF_BEFORE
from collapsekit.errors import CollapsekitError, ConfigError, did_you_mean
from collapsekit.user_code.frames import one_line

GROUP = "collapsekit"
FROM_FILE = "collapsekit_plugin_"  # how modules of plugin files are called
Trains = Literal["nothing", "heads", "models"]
Reads = Literal["rows", "sums", "fused sums"]
Kind = TypeVar("Kind", bound=type[Any])
_TASKS, _ADAPTERS = "collapsekit.tasks", "collapsekit.adapters"


@dataclass(frozen=True)
class ProbeSpec:
    """A probe as registered: what it measures, where that is defined, what it may cost."""

    name: str
    run: Callable[..., Iterable[Any]]  # (session) -> Results
    summary: str
    definition: str
    source: str
    cannot: str  # what the number does not tell
    options: type[Options] = Options
    trains: Trains = "nothing"
    default: bool = True  # whether it runs where no probe is named
    tasks: tuple[str, ...] = ()  # for which it runs then, where it does not for all
    title: str | None = None  # of its section in pages; None: its name
    place: float = math.inf  # of that section, the least first
    pictures: tuple[Any, ...] = ()  # collapsekit.measures.Picture: its figures; none: drawn from what it yields
    cost: Callable[..., Any] | None = None  # (preview) -> Cost, before anything is measured; None: not known
    reads: Reads = "rows"  # of features: each example's, or only Features.moments_of: of all, or of the fused alone
    older: bool = False  # whether run takes (adapter, features, *, settings) instead of the session

    def runs_unasked(self, task: str | None) -> bool:
        """Tell whether it runs where no probe is named and the task is ``task``; None: whatever the task."""
        return self.default or task in self.tasks


class ProbeFacts(TypedDict):
    """What ``@probe`` takes beside the name: the fields of ProbeSpec."""

    summary: str
    definition: str
    source: str
    cannot: str
    options: NotRequired[type[Options]]
    trains: NotRequired[Trains]
    cost: NotRequired[Callable[..., Any]]
    default: NotRequired[bool]
    tasks: NotRequired[tuple[str, ...]]
    title: NotRequired[str]
    place: NotRequired[float]
    pictures: NotRequired[tuple[Any, ...]]
    reads: NotRequired[Reads]


@dataclass(frozen=True)
class AdapterSpec:
    """An adapter as registered: ``build(config, device=..., seed=...)`` makes one from a checked config."""

    name: str
    build: Callable[..., Any]
    summary: str


@dataclass(frozen=True)
class RepairSpec:
    """A repair as registered: ``stages(job)`` yields what is trained, one stage after the other."""

    name: str
    stages: Callable[..., Iterable[Any]]  # (job) -> Stages
    summary: str
    definition: str | Callable[[Any], str]  # a function of the options where it depends on them
    source: str
    options: type[Options]

    def define(self, options: Options) -> str:
        """Say what is trained under these options."""
        return self.definition if isinstance(self.definition, str) else self.definition(options)


@dataclass(frozen=True)
class TaskSpec:
    """A task as registered: ``kind`` is a subclass of collapsekit.tasks.base.Task."""

    name: str
    kind: type[Any]
    summary: str


# (probe, its pictures): what is asked of a probe when it is registered, by those who import this and know more.
CHECKS: dict[str, Callable[[str, tuple[Any, ...]], None]] = {}
PROBES: dict[str, ProbeSpec] = {}
ADAPTERS: dict[str, AdapterSpec] = {}
REPAIRS: dict[str, RepairSpec] = {}
TASKS: dict[str, TaskSpec] = {}


def probe(
    name: str, **facts: Unpack[ProbeFacts]
) -> Callable[[Callable[..., Iterable[Any]]], Callable[..., Iterable[Any]]]:
    """Register ``(session) -> Results`` as the probe ``name``.

    The session and its features are shared by all probes and must not be changed. The older form,
    ``(adapter, features, *, settings) -> Results``, works as well; the two are told apart by the signature, here.

    Args:
        name: what it is called in options and reports; its results are called NAME.WHAT.
        facts: ``summary``: one line for lists; ``definition`` and ``source``: what it measures, where that is defined;
            ``cannot``: what its numbers do not tell; ``options``: a subclass of Options; ``trains``: what it may train;
            ``cost``: a function of a collapsekit.ext.Preview that says what ``run`` would cost, as a collapsekit.ext.Cost;
            ``default``: False for one that runs only where it is named, or by default for some ``tasks`` alone, by name;
            ``title`` and ``place``: how its results are headed, and where they stand among those of other probes, the
            least place first; ``pictures``: how they are drawn, each a collapsekit.ext.Picture; ``reads``: "sums" where it
            reads no example's features but ``session.features.moments_of``, "fused sums" where that is of the fused
            representation alone: several processes then keep their features.

    Raises:
        ConfigError: where one of the first four is missing, where another file registers a probe of that name, and where
            a picture names a measure that the file does not declare above it.
    """
    missing = [k for k in ("summary", "definition", "source", "cannot") if k not in facts]
    if missing:
        raise ConfigError(f"probe {name!r} does not say its {' and '.join(missing)}: give them to @probe as text.")

    def register(run: Callable[..., Iterable[Any]]) -> Callable[..., Iterable[Any]]:
        known = PROBES.get(name)
        if known is not None and known.run.__module__ != run.__module__:
            files = f"{_file_of(known.run)} and {_file_of(run)}"
            raise ConfigError(f"probe {name!r} is registered twice, by {files}: rename one.")
        for check in CHECKS.values():
            check(name, facts.get("pictures", ()))
        PROBES[name] = ProbeSpec(name, run, **facts, older=not _takes_session(run))
        ordered = sorted(PROBES.items())  # so that nothing depends on which file is imported first
        PROBES.clear()
        PROBES.update(ordered)
        return run

    return register


def _takes_session(run: Callable[..., Any]) -> bool:
    """Whether a probe is called with a session alone; what fits neither form is called as it always was, and fails so."""
    try:
        signature = inspect.signature(run)
    except (TypeError, ValueError):  # some callables of other languages have none
        return False
    return _binds(signature, 1) and not _binds(signature, 2, settings=None)


def _binds(signature: inspect.Signature, count: int, **named: None) -> bool:
    """Whether a call with so many arguments by place and those ``named`` fits."""
    try:
        signature.bind(*[None] * count, **named)
    except TypeError:
        return False
    return True


def adapter(name: str, *, summary: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a callable ``(config, *, device, seed) -> Adapter`` under ``name`` for ``adapter: name``."""

    def register(build: Callable[..., Any]) -> Callable[..., Any]:
        known = ADAPTERS.get(name)
        if known is not None and known.build.__module__ != build.__module__:
            files = f"{_file_of(known.build)} and {_file_of(build)}"
            raise ConfigError(f"adapter {name!r} is registered twice, by {files}: rename one.")
        ADAPTERS[name] = AdapterSpec(name, build, summary)
        return build

    return register


def repair_method(
    name: str,
    *,
    summary: str,
    definition: str | Callable[[Any], str],
    source: str,
    options: type[Options] = Options,
) -> Callable[[Callable[..., Iterable[Any]]], Callable[..., Iterable[Any]]]:
    """Register ``(job) -> Stages`` (collapsekit.repairs.training.job) as the repair ``name``.

    A later stage may be made of what an earlier one left: each is trained before the next is asked for.

    Args:
        name: The name, as ``--method`` takes it.
        summary: One line for lists.
        definition: What is trained; a function of the options where that depends on them.
        source: Where that is from.
        options: A subclass of Options.

    Returns:
        A decorator, which returns the function as it is.

    Raises:
        ConfigError: When it decorates, where another file has registered the name.
    """

    def register(stages: Callable[..., Iterable[Any]]) -> Callable[..., Iterable[Any]]:
        known = REPAIRS.get(name)
        if known is not None and known.stages.__module__ != stages.__module__:
            files = f"{_file_of(known.stages)} and {_file_of(stages)}"
            raise ConfigError(f"repair {name!r} is registered twice, by {files}: rename one.")
        REPAIRS[name] = RepairSpec(name, stages, summary, definition, source, options)
        return stages

    return register


def repair(
    name: str, *, summary: str, definition: str, source: str, options: type[Options] = Options
) -> Callable[[Callable[..., Iterable[Any]]], Callable[..., Iterable[Any]]]:
    """Register a repair: the old name of :func:`repair_method`, deprecated, as ``collapsekit.repair`` is a function.

    Args:
        name, summary, definition, source, options: As for :func:`repair_method`.

    Returns:
        A decorator, which returns the function as it is.
    """
    message = "collapsekit.registry.repair is now repair_method: import it from collapsekit.ext."
    warnings.warn(message, DeprecationWarning, stacklevel=2)
    return repair_method(name, summary=summary, definition=definition, source=source, options=options)


def task(name: str, *, summary: str) -> Callable[[Kind], Kind]:
    """Register a subclass of collapsekit.tasks.base.Task as ``name``, for ``task: name`` in the config; it gets that name.

    ``summary``: one line for lists.
    """

    def register(kind: Kind) -> Kind:
        known = TASKS.get(name)
        if known is not None and known.kind.__module__ != kind.__module__:
            raise ConfigError(
                f"task {name!r} is registered twice, by {_file_of(known.kind)} and {_file_of(kind)}: rename one."
            )
        if ":" in name:
            raise ConfigError(
                f"task {name!r} has a colon in its name, which is for 'module:callable': take another name."
            )
        kind.name = name
        TASKS[name] = TaskSpec(name, kind, summary)
        return kind

    return register


def _file_of(registered: Callable[..., Any]) -> str:
    return getattr(sys.modules.get(registered.__module__), "__file__", None) or registered.__module__


def load_builtins() -> None:
    """Import every module of ``collapsekit.tasks``, ``.adapters``, ``.probes`` and ``.repairs.methods``, which registers
    them."""
    for package in (_TASKS, _ADAPTERS, "collapsekit.probes", "collapsekit.repairs.methods"):
        _load(package)


@cache
def _load(package: str) -> None:
    for name in modules_of(package):
        importlib.import_module(name)


def modules_of(package: str) -> list[str]:
    """List the modules in a package and its folders, by their files' names: the order in which they are registered."""
    found = pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}.")
    return sorted((m.name for m in found if not m.ispkg), key=lambda name: name.rpartition(".")[2])


def installed_plugins() -> list[EntryPoint]:
    """Entry points of the group, by name; none is imported by being listed."""
    return sorted(entry_points(group=GROUP), key=lambda e: e.name)


def load_plugin_file(path: str | Path) -> str:
    """Run a user's plugin file, which registers its probes and adapters; the module name it got."""
    file = Path(path).resolve()
    if not file.is_file():
        raise ConfigError(f"plugin {path} is not a file: give the path of a Python file that registers a probe.")
    # One module per path: two plugins of the same file name must not replace each other.
    name = f"{FROM_FILE}{hashlib.sha256(str(file).encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return name
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ConfigError(f"plugin {path} is not a Python file: give a file whose name ends in .py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    from collapsekit.user_code.process_state import user_code  # which imports torch

    try:
        with user_code(f"plugin {path}", stays=True):
            spec.loader.exec_module(module)
    except BaseException as e:
        del sys.modules[name]
        if isinstance(e, CollapsekitError) or not isinstance(e, Exception):
            raise
        raise ConfigError(f"plugin {path} failed while it was loaded: {one_line(e)}.") from e
    return name


def _load_entry_point(name: str) -> None:
    for point in installed_plugins():
        if point.name == name:
            from collapsekit.user_code.process_state import user_code  # which imports torch

            try:
                with user_code(f"plugin {name!r}", stays=True):
                    point.load()
            except Exception as e:
                raise ConfigError(f"plugin {name!r} ({point.value}) failed to load: {one_line(e)}.") from e


def checked_options(what: str, name: str, kind: type[Options], values: Mapping[str, Any]) -> Options:
    """Make options of a probe or repair, and check them.

    Args:
        what: What has the options, in words, for messages.
        name: The name of the probe or repair.
        kind: The type of its options.
        values: The values by the option's name.

    Returns:
        The options.

    Raises:
        ConfigError: For an option that there is not, or a value that it cannot have; it names the option.
    """
    try:
        return kind(**values)
    except ValidationError as e:
        first = e.errors()[0]
        option = str(first["loc"][0]) if first["loc"] else "?"
        known = list(kind.model_fields)
        if first["type"] == "extra_forbidden":
            near = did_you_mean(option, known)
            raise ConfigError(
                f"{what} {name!r} has no option {option!r}{near}: it has {', '.join(known) or 'none'}."
            ) from None
        raise ConfigError(f"option {name}.{option}: {first['msg']}, found {values.get(option)!r}.") from None


def get_probe(name: str) -> ProbeSpec:
    """Return the probe of that name; an installed plugin of the same name is loaded for it."""
    if name not in PROBES:
        _load_entry_point(name)
    if name not in PROBES:
        known = [*PROBES, *(p.name for p in installed_plugins())]
        raise ConfigError(
            f"there is no probe {name!r}{did_you_mean(name, known)}: `collapsekit list probes` shows them, "
            "and --plugin FILE.py brings in your own."
        )
    return PROBES[name]


def get_adapter(name: str) -> AdapterSpec:
    """Return the adapter of that name; an installed plugin of the same name is loaded for it."""
    if name not in ADAPTERS:
        _load(_ADAPTERS)
    if name not in ADAPTERS:
        _load_entry_point(name)
    if name not in ADAPTERS:
        known = [*ADAPTERS, *(p.name for p in installed_plugins())]
        raise ConfigError(
            f"there is no adapter {name!r}{did_you_mean(name, known)}: `collapsekit list adapters` shows them, "
            "and 'module:callable' names your own."
        )
    return ADAPTERS[name]


def get_repair(name: str) -> RepairSpec:
    """Return the repair of that name; an installed plugin of the same name is loaded for it."""
    if name not in REPAIRS:
        _load_entry_point(name)
    if name not in REPAIRS:
        known = [*REPAIRS, *(p.name for p in installed_plugins())]
        raise ConfigError(
            f"there is no repair {name!r}{did_you_mean(name, known)}: `collapsekit list repairs` shows them, "
            "and --plugin FILE.py brings in your own."
        )
    return REPAIRS[name]


def get_task(name: str) -> TaskSpec:
    """Return the task of that name, now or before; an installed plugin of the same name is loaded for it."""
    if name not in TASKS:
        _load(_TASKS)
    if name not in TASKS and name in TASKS_OF_BEFORE:
        return replace(TASKS[TASKS_OF_BEFORE[name]], name=name)
    if name not in TASKS:
        _load_entry_point(name)
    if name not in TASKS:
        known = task_names()
        near = did_you_mean(name, [*known, *(p.name for p in installed_plugins())])
        raise ConfigError(f"task {name!r} is not one of {', '.join(known)}{near}, nor a 'module:callable' loss.")
    return TASKS[name]


def task_names() -> list[str]:
    """Return names of all tasks: of those that read labels first, then of the others."""
    _load(_TASKS)
    return sorted(TASKS, key=lambda name: (not getattr(TASKS[name].kind, "has_labels", True), name))
