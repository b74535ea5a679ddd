"""Compiled loops over tiles, the checks before them, and a plain reference of each."""
