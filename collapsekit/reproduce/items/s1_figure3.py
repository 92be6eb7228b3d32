"""S1, Figure 3: an illustration."""

from collapsekit.reproduce.item import no_run

no_run("s1.figure3", "Rank bottlenecks, and how they are freed", "nothing to measure", "it is drawn, not measured")
