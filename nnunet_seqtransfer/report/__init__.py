"""Words, tables, pictures and the page: everything that people read."""
