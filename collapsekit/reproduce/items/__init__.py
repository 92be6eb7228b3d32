"""The items: a table or figure a file."""
