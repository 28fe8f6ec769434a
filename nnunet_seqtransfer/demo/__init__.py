"""The demonstration: phantoms, a plan, and a comparison of paths on them."""
