"""The demonstration: phantoms, real commands, and the table of what they gave."""
