"""Samples by box: data sets read from files, placed, augmented and cut to a rank's box."""
