"""One file a table or figure of the papers: its models, its studies, and the command that runs it."""
