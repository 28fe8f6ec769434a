"""Dice of predictions against reference segmentations."""
