"""Weights files and sharded checkpoints."""
