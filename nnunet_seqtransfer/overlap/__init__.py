"""Shared patients: sketch cases, and match the sketches in two datasets."""
