"""S1, Figure 1: an illustration."""

from collapsekit.reproduce.item import no_run

no_run(
    "s1.figure1",
    "Noise of one modality beside what predicts of another",
    "nothing to measure",
    "it is drawn, not measured",
)
