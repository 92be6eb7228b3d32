"""Whatever README, docs, examples and plugins of version 0.1.0 imported can still be imported, and is what it was."""

from __future__ import annotations

import importlib
import inspect
import pickle
import subprocess
import sys
import warnings
from collections.abc import Iterator

import pytest
import torch

import collapsekit
from collapsekit import deprecated, ext
from collapsekit.adapters import inserts
from tests.problems import Late

# Every import of them, as they were written while version 0.1.0 was made: module -> names.
IMPORTS = {
    "collapsekit": "Adapter Features Options Result Settings diagnose probe",
    "collapsekit.adapter": "ModuleAdapter",
    "collapsekit.adapter.base": "Pass Prediction Recorded",
    "collapsekit.adapter.build": "find_submodule model_kept random_state_kept seed_everything",
    "collapsekit.adapter.preserve": "model_kept",
    "collapsekit.checkpoint.read": "Checkpoint",
    "collapsekit.config": "Config ModalityConfig ModelConfig check_config load_config",
    "collapsekit.demo": "EPOCHS demo_data load_mfeat make_demo",
    "collapsekit.errors": "ConfigError FaultError NumericsError did_you_mean",
    "collapsekit.example.model": "FusionModel WIDTHS",
    "collapsekit.features": "extract",
    "collapsekit.files": "write_atomic",
    "collapsekit.imports": "one_line",
    "collapsekit.inserts": "absent",
    "collapsekit.probes.spectrum": "CONCATENATED",
    "collapsekit.registry": "Options adapter",
    "collapsekit.render.canvas": "INK panels settle theme",
    "collapsekit.render.figures": "FIGURES",
    "collapsekit.render.marks": "bars legend line",
    "collapsekit.render.sanitize": "cleaned",
    "collapsekit.replay": "donors predict",
    "collapsekit.report": "ModalityVerdict Report Result",
    "collapsekit.run": "build_adapter settle_config",
    "collapsekit.settings": "Profile Progress",
    "collapsekit.sources": "ArraySource Batch LoaderSource Source make_source",
    "collapsekit.stats.jackknife": "interval",
    "collapsekit.stats.moments": "Moments",
    "collapsekit.stats.spectrum": "effective_rank singular_values singular_values_svd",
    "collapsekit.verdict": "DECIDING",
}
EACH = [(module, name) for module, names in IMPORTS.items() for name in names.split()]


@pytest.fixture(autouse=True)
def _modules_of_before_are_forgotten() -> Iterator[None]:
    """Other tests see the package without them."""
    yield
    for name, module in list(sys.modules.items()):
        if isinstance(getattr(getattr(module, "__spec__", None), "loader", None), deprecated._Moved):
            del sys.modules[name]
            parent, _, own = name.rpartition(".")
            vars(sys.modules.get(parent, module)).pop(own, None)


def _imported(module: str, name: str) -> tuple[object, list[warnings.WarningMessage]]:
    """What a user's file gets by that import, and the warnings it is shown."""
    names: dict[str, object] = {}
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        exec(compile(f"from {module} import {name}", "users_file.py", "exec"), names)
    return names[name], [w for w in shown if issubclass(w.category, DeprecationWarning)]


def _is_there(module: str, name: str) -> bool:
    """Whether a module of today has the name itself."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        return False
    return name in vars(importlib.import_module(module)) or (module == "collapsekit" and name in collapsekit.__all__)


@pytest.mark.parametrize(("module", "name"), EACH, ids=[f"{m}.{n}" for m, n in EACH])
def test_an_import_of_before_gives_the_object_of_today(module: str, name: str) -> None:
    found, shown = _imported(module, name)
    renamed = deprecated._RENAMED.get(name, name)
    homes = [m for m in list(sys.modules.values()) if getattr(m, "__name__", "").startswith("collapsekit")]
    files = [vars(m) for m in homes if getattr(m, "__file__", None) is not None]  # modules of before have none
    assert any(found is names.get(n) for names in files for n in {name, renamed})
    public = [getattr(s, n) for s in (collapsekit, ext) for n in {name, renamed} if n in s.__all__]
    assert all(found is p for p in public)
    if inspect.isclass(found) or inspect.isfunction(found):
        assert found.__name__ in (name, renamed)
    if _is_there(module, name):
        assert not shown
        return
    assert [w.filename for w in shown] == ["users_file.py"]
    assert str(shown[0].message).startswith(f"{module}.{name} is now collapsekit.")


def test_the_warning_names_the_surface_where_it_has_the_name() -> None:
    _, (shown,) = _imported("collapsekit.replay", "donors")
    assert str(shown.message).endswith(": import marginal_samples from collapsekit.ext.")
    _, (shown,) = _imported("collapsekit.files", "write_atomic")
    assert str(shown.message).endswith(": import it from there, where it may move again.")


def test_a_name_that_was_not_there_is_not_there_now() -> None:
    for module in ("collapsekit.replay", "collapsekit.config", "collapsekit.adapter"):
        with pytest.raises(ImportError, match="cannot import name 'nothing'"):
            _imported(module, "nothing")
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("collapsekit.nothing")


def test_a_name_that_changes_with_its_module_is_found_by_the_old_one(monkeypatch: pytest.MonkeyPatch) -> None:
    from collapsekit.interventions import marginal

    function = getattr(marginal, "donors", None) or marginal.marginal_samples  # type: ignore[attr-defined]
    monkeypatch.setattr(marginal, "marginal_samples", function, raising=False)
    monkeypatch.delattr(marginal, "donors", raising=False)
    found, (shown,) = _imported("collapsekit.replay", "donors")
    assert found is function
    assert "is now collapsekit.interventions.marginal.marginal_samples" in str(shown.message)


@pytest.mark.parametrize("name", ["gate", "compare"])
def test_a_package_that_is_a_function_now_is_that_function_however_it_is_imported(name: str) -> None:
    program = f"""if True:
        import warnings
        import collapsekit
        with warnings.catch_warnings(record=True) as shown:
            warnings.simplefilter("always")
            from collapsekit.{name} import {name}
        assert {name} is collapsekit.{name} is collapsekit.{name}.{name}, collapsekit.{name}
        import collapsekit.{name} as again
        assert again is {name}
        print(*(w.message for w in shown), sep="; ")
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"collapsekit.{name} is now the function collapsekit.{name}: call it as that.\n"


def test_the_old_decorator_registers_and_says_what_it_is_called_now(monkeypatch: pytest.MonkeyPatch) -> None:
    from collapsekit import registry

    monkeypatch.setattr(registry, "REPAIRS", {})
    with pytest.warns(DeprecationWarning, match="repair is now repair_method: import it from collapsekit.ext") as shown:

        @registry.repair("toy", summary="s", definition="d", source="s")
        def toy(job: object) -> list[object]:
            return []

    assert [w.filename for w in shown] == [__file__]
    assert registry.get_repair("toy").stages is toy
    assert registry.repair is not collapsekit.repair


def test_a_repaired_model_that_was_pickled_whole_loads() -> None:
    """It names the classes of what was inserted by the module they were in."""
    model = Late({"image": 5, "audio": 4}).eval()
    sizes = {"part": None, "channels": -1, "features": 6, "latent": 8, "hidden": 16}
    records = [{"kind": "basis", "modality": m, "path": f"encoders.{m}", **sizes} for m in model.encoders]
    inserts.insert(model, records)
    data = pickle.dumps(model, protocol=2)
    assert b"collapsekit.adapters.inserts" in data
    old = data.replace(b"ccollapsekit.adapters.inserts\n", b"ccollapsekit.inserts\n")
    assert old != data
    with pytest.warns(DeprecationWarning, match="collapsekit.inserts"):
        again = pickle.loads(old)
    x = {"image": torch.randn(7, 5), "audio": torch.randn(7, 4)}
    assert torch.equal(again(**x), model(**x))
