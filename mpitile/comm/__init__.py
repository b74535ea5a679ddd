"""Communicators, exchanges and reductions."""
