"""The trainers that nnU-Net runs for us."""
