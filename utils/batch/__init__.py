"""Many files in, many files out: inputs, journal, tables, pages, pipes."""
