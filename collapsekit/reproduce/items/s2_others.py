"""S2, the figures and tables of which the text we had says nothing but that they are there."""

from collapsekit.reproduce.item import no_run

WHY = "the text we had counts eleven figures and nine tables and has five captions; what this one shows is not known"

for number in range(6, 12):
    no_run(f"s2.figure{number}", "Not in the text we had", "not reproducible", WHY)
for number in range(1, 10):
    no_run(f"s2.table{number}", "Not in the text we had", "not reproducible", WHY)
