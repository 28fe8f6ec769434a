"""Comparisons: which paths to train, their Dice on unseen cases, and how much they differ."""
