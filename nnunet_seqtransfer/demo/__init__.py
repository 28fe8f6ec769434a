"""The demonstration: phantoms, a plan, and a comparison."""
