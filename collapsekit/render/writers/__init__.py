"""One file a format: a document as text. A writer bears the name of its format and says how much detail it has room for."""
