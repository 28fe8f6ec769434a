"""Weights of trained networks: checkpoints loaded safely, and one network's weights made fit for another."""
