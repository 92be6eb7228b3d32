"""S2, Figure 1: an illustration."""

from collapsekit.reproduce.item import no_run

no_run("s2.figure1", "Feature and modality collapse by spectra", "nothing to measure", "it is a toy figure, drawn")
