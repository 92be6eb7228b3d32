"""Objects the config names as ``module:callable``, importable from the config's own folder."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from collapsekit.errors import ConfigError, did_you_mean


@contextmanager
def _importable_from(base: Path) -> Iterator[None]:
    folder = str(base.resolve())
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def _forget_namesake(module_name: str, base: Path) -> None:
    """Drop an imported module of the same name from elsewhere, so that two folders may both hold a model.py."""
    top = module_name.split(".")[0]
    loaded = sys.modules.get(top)
    own = [p for p in (base / f"{top}.py", base / top / "__init__.py") if p.is_file()]
    if loaded is None or not own or getattr(loaded, "__file__", None) is None:
        return
    if Path(str(loaded.__file__)).resolve() not in [p.resolve() for p in own]:
        for name in [n for n in sys.modules if n == top or n.startswith(top + ".")]:
            del sys.modules[name]


def import_object(spec: str, base: Path, what: str) -> Any:
    """The object ``module:name`` names, importable from the config's folder. Raises ConfigError."""
    module_name, colon, attribute = spec.partition(":")
    if not colon or not module_name or not attribute:
        raise ConfigError(f"{what} {spec!r} is not of the form 'module:callable', e.g. 'my_models:build'.")
    with _importable_from(base):
        _forget_namesake(module_name, base)
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as e:
            raise ConfigError(
                f"{what} {spec!r}: there is no module {e.name!r} in {base.resolve()} or the environment; "
                "put it beside the config or install it."
            ) from None
        except Exception as e:
            raise ConfigError(f"{what} {spec!r}: importing {module_name} failed: {type(e).__name__}: {e}.") from e
        target: Any = module
        for part in attribute.split("."):
            if not hasattr(target, part):
                near = did_you_mean(part, [n for n in dir(target) if not n.startswith("_")])
                raise ConfigError(f"{what} {spec!r}: {module_name} has no {part!r}{near}.")
            target = getattr(target, part)
    return target
