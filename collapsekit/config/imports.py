"""Objects the config names as ``module:callable``, importable from the config's own folder."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from collapsekit.errors import ConfigError, did_you_mean
from collapsekit.user_code.frames import one_line
from collapsekit.user_code.imports import file_of, files_in, forget_module
from collapsekit.user_code.imports import importable_from as importable_from
from collapsekit.user_code.imports import needed_names as needed_names
from collapsekit.user_code.process_state import user_code


def _need_other_name(module_name: str, folder: Path, prefix: str) -> None:
    """Raises ConfigError where the module the config names would take the place of one that collapsekit needs."""
    top = module_name.split(".")[0]
    own = files_in(folder, top)
    if own and top in needed_names() and file_of(sys.modules.get(top)) not in own:
        raise ConfigError(f"{prefix}: {own[0]} has the name of a package that collapsekit itself uses: rename it.")


def _forget_namesake(module_name: str, folder: Path) -> None:
    """Drop an imported module of the very name the config gives, wherever it came from, unless it is the folder's."""
    parts = module_name.split(".")
    for name in (".".join(parts[:i]) for i in range(1, len(parts) + 1)):
        own, found = files_in(folder, name), file_of(sys.modules.get(name))
        if own and found is not None and found not in own:
            forget_module(name)


def import_object(spec: str, base: Path, what: str) -> Any:
    """Import the object that ``module:name`` names.

    Args:
        spec: ``module:name``.
        base: the config's folder, from which it is importable.
        what: what names it, for messages.

    Returns:
        The object.

    Raises:
        ConfigError: where it cannot be imported.
    """
    module_name, colon, attribute = spec.partition(":")
    if not colon or not module_name or not attribute:
        raise ConfigError(f"{what} {spec!r} is not of the form 'module:callable', e.g. 'my_models:build'.")
    if module_name.endswith(".py"):
        raise ConfigError(
            f"{what} {spec!r} names a file: write the module instead, {module_name.removesuffix('.py')}:{attribute}."
        )
    with importable_from(base):
        _need_other_name(module_name, base.resolve(), f"{what} {spec!r}")
        _forget_namesake(module_name, base.resolve())
        try:
            with user_code(f"{what} {spec!r}", stays=True, module=module_name), importable_from(base):
                target: Any = importlib.import_module(module_name)
        except ModuleNotFoundError as e:
            raise ConfigError(
                f"{what} {spec!r}: there is no module {e.name!r} in {base.resolve()} or the environment; "
                "put it beside the config or install it."
            ) from None
        except ConfigError:
            raise
        except (Exception, SystemExit) as e:
            raise ConfigError(f"{what} {spec!r}: importing {module_name} failed: {one_line(e)}.") from e
        for part in attribute.split("."):
            if not hasattr(target, part):
                near = did_you_mean(part, [n for n in dir(target) if not n.startswith("_")])
                raise ConfigError(f"{what} {spec!r}: {module_name} has no {part!r}{near}.")
            target = getattr(target, part)
    return target


def import_callable(spec: str, base: Path, what: str) -> Any:
    """Import what ``module:name`` names, and can be called.

    Args:
        spec: ``module:name``.
        base: the config's folder, from which it is importable.
        what: what names it, for messages.

    Returns:
        The callable.

    Raises:
        ConfigError: as :func:`import_object`, and where it cannot be called.
    """
    found = import_object(spec, base, what)
    if not callable(found):
        raise ConfigError(f"{what} {spec!r} is {type(found).__name__}, expected a function or a class.")
    return found
