"""S1, Figure 2: an illustration."""

from collapsekit.reproduce.item import no_run

no_run(
    "s1.figure2",
    "Polysemanticity with and without interference",
    "nothing to measure",
    "it is drawn, not measured; the probe entanglement measures what it means",
)
