"""Optimisers, schedules, detections, metrics and the training loop."""
