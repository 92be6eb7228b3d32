"""A peptide to the four inputs that IM2Deep reads, and its collision cross section.

The definition is that of DeepLC's features (Bouwmeester et al. 2021, with those for ion mobility of Devreese et al.
2025), restated: atoms at each of 60 positions, the same summed over neighbours, numbers of the whole peptide, and which
residue stands where.
"""

from __future__ import annotations

import csv
import gzip
import random
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

LENGTH = 60  # positions; what a peptide is too short for is zero
ATOMS = "CHNOSP"
RESIDUES = "KRPTNAQVSGILCMHFYWED"  # in the order of the one-hot columns
# Atoms of each residue within a chain, in the order of ATOMS.
COMPOSITION = {
    "G": (2, 3, 1, 1, 0, 0),
    "A": (3, 5, 1, 1, 0, 0),
    "S": (3, 5, 1, 2, 0, 0),
    "P": (5, 7, 1, 1, 0, 0),
    "V": (5, 9, 1, 1, 0, 0),
    "T": (4, 7, 1, 2, 0, 0),
    "C": (3, 5, 1, 1, 1, 0),
    "L": (6, 11, 1, 1, 0, 0),
    "I": (6, 11, 1, 1, 0, 0),
    "N": (4, 6, 2, 2, 0, 0),
    "D": (4, 5, 1, 3, 0, 0),
    "Q": (5, 8, 2, 2, 0, 0),
    "K": (6, 12, 2, 1, 0, 0),
    "E": (5, 7, 1, 3, 0, 0),
    "M": (5, 9, 1, 1, 1, 0),
    "H": (6, 7, 3, 1, 0, 0),
    "F": (9, 9, 1, 1, 0, 0),
    "R": (6, 12, 4, 1, 0, 0),
    "Y": (9, 9, 1, 2, 0, 0),
    "W": (11, 10, 2, 1, 0, 0),
}
# What a modification adds; peptides with any other (1 % of them) are left out.
MODIFICATIONS = {
    "Oxidation": (0, 0, 0, 1, 0, 0),
    "Carbamidomethyl": (2, 3, 1, 1, 0, 0),
    "Acetyl": (2, 2, 0, 1, 0, 0),
}
ENDS = 4  # residues of either end whose atoms are among the numbers of the whole peptide
NAMES = ("atoms", "pairs", "whole", "one_hot")

Floats = NDArray[np.float32]


def parse(peptidoform: str) -> tuple[str, list[tuple[int, str]], int] | None:
    """Read ProForma such as ``[Acetyl]-AC[Carbamidomethyl]K/2``.

    Returns:
        Residues, (position, modification) pairs, and charge; None where it holds what is not in the tables above.
    """
    found = re.fullmatch(r"(?:\[(\w+)\]-)?((?:[A-Z](?:\[\w+\])?)+)/(\d)", peptidoform)
    if found is None:
        return None
    tokens = re.findall(r"([A-Z])(?:\[(\w+)\])?", found[2])
    modified = [(i, name) for i, (_, name) in enumerate(tokens) if name]
    if found[1]:
        modified.append((0, found[1]))
    sequence = "".join(letter for letter, _ in tokens)
    usual = set(sequence) <= set(RESIDUES) and {name for _, name in modified} <= set(MODIFICATIONS)
    return (sequence, modified, int(found[3])) if usual and 2 * ENDS - 1 <= len(sequence) <= LENGTH else None


def encode(sequence: str, modified: list[tuple[int, str]], charge: int) -> tuple[Floats, Floats, Floats, Floats]:
    """Build the four inputs of one peptide.

    Returns:
        ``atoms`` (60, 6), ``pairs`` (30, 6), ``whole`` (60,) and ``one_hot`` (60, 20).
    """
    size = len(sequence)
    atoms = np.zeros((LENGTH, len(ATOMS)), np.float32)
    atoms[:size] = [COMPOSITION[letter] for letter in sequence]
    ends = np.concatenate([atoms[size - ENDS : size], atoms[:ENDS]])  # rows -4 ... -1, 0 ... 3
    for position, name in modified:
        change = np.array(MODIFICATIONS[name], np.float32)
        atoms[position] += change
        # The checkpoint was trained with additions at these rows, which are not those of the residue: DeepLC before 4.0.1
        # counted rows from 0 where the table begins at -4. An input has to be what the model was trained on.
        if position < ENDS:
            ends[position] += change
        elif position >= size - ENDS:
            ends[position - size] += change
    shares = [sum(map(sequence.count, letters)) / size for letters in ("H", "FWY", "DE", "KR")]
    whole = np.concatenate([atoms.sum(0), [size, *shares, charge], ends.ravel()]).astype(np.float32)
    one_hot = np.zeros((LENGTH, len(RESIDUES)), np.float32)
    one_hot[np.arange(size), [RESIDUES.index(letter) for letter in sequence]] = 1
    return atoms, atoms[0::2] + atoms[1::2], whole, one_hot


def load(path: Path, sizes: dict[str, int], seed: int = 0) -> dict[str, dict[str, NDArray[np.float32]]]:
    """Draw peptides of known cross section at random; no sequence is in two splits.

    Args:
        path: ``reference_ccs.csv.gz`` of the wheel.
        sizes: Peptides wanted of each split.
        seed: Of the draw.

    Returns:
        By split the four inputs and ``ccs`` (n, 1) in square ångström.
    """
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    random.Random(seed).shuffle(rows)
    splits = iter(sizes.items())
    split, wanted = next(splits)
    out: dict[str, list[tuple[Floats, ...]]] = {name: [] for name in sizes}
    where: dict[str, str] = {}
    for row in rows:
        peptide = parse(row["peptidoform"])
        if peptide is None or where.get(peptide[0], split) != split:
            continue
        if len(out[split]) == wanted:
            following = next(splits, None)
            if following is None:
                break
            split, wanted = following
            if peptide[0] in where:
                continue
        where[peptide[0]] = split
        out[split].append((*encode(*peptide), np.array([row["CCS"]], np.float32)))
    columns = (*NAMES, "ccs")
    return {
        name: {key: np.stack(values) for key, values in zip(columns, zip(*part, strict=True), strict=True)}
        for name, part in out.items()
    }
