"""Shared patients: sketches of cases, and which sketches of two datasets match."""
