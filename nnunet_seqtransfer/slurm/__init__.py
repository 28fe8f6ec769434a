"""Chains on a Slurm cluster: one job per stage, in the order of the chain."""
