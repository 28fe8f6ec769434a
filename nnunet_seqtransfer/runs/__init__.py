"""What became of the recorded runs: how far each is, and what of ours no run needs any more."""
