"""S1, Figure 1: an illustration."""

from collapsekit.reproduce.item import no_run

no_run(
    "s1.figure1",
    "How noise of one modality gets in the way of another",
    "nothing to measure",
    "it is drawn, not measured",
)
