"""One thin module per command: parse, build a record, call, print."""
