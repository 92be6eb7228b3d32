"""Questions and answers through files."""
