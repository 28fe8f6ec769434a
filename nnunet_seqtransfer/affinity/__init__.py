"""Distances between the signatures of tasks: metrics, and the record of their result."""
