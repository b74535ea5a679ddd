"""Integers only: boxes, receptive fields, ownership, needs and transfer lists."""
