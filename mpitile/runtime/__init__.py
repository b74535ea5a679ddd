"""Builds a rank's program from a plan and runs it."""
