"""Trainers that nnU-Net runs for the stages of a chain."""
