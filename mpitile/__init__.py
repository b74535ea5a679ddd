"""Trains convolutional networks exactly, one tile of the image per MPI rank."""
