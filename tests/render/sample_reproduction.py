"""An item of a paper with the given names as its rows."""

from __future__ import annotations

from collapsekit.report.reproduction import ItemCell, ItemData, ItemOrder, Reproduction

COLUMNS = ("2", "3")


def make_reproduction(names: tuple[str, ...]) -> Reproduction:
    """Two columns, of which the paper prints the first; the rows rise."""
    cells = tuple(
        ItemCell(
            row=row,
            column=column,
            paper=1.5 + i if column == "2" else None,
            here=0.25 * (i + 1) if column == "2" or i else None,
            sd=0.125 if i else None,
            seeds=2,
        )
        for i, row in enumerate(names)
        for column in COLUMNS
    )
    orders = [
        ItemOrder(
            text=f"{names[-1]} has most",
            steps=(names[0], "all", names[-1]),
            rises=True,
            here=(0.25, 0.5, 0.375),
            same="in part",
            seeds_in_order=1,
            seeds=2,
            p=0.03125,
        )
    ]
    return Reproduction(
        collapsekit="0.1.0",
        item="s1.table99",
        paper="A paper",
        title="A table",
        claim="Something rises.",
        here="Something else is measured.",
        quick=True,
        data=(ItemData(name="mfeat", sha256="0" * 64, about="digits"),),
        seeds=(0, 1),
        rows=names,
        columns=COLUMNS,
        measure="accuracy",
        drawn="lines" if len(names) > 1 else "bars",
        column_label="modalities",
        cells=cells,
        orders=tuple(orders),
        notes=("A note.",),
        commits=("0123456789ab",),
        environment={"python": "3.11"},
    )


SAMPLE = make_reproduction
