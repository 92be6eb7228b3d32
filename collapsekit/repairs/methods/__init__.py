"""One file a repair; files that begin with an underscore are shared by several."""
