"""One file a layer: forward, backward_input and backward_weights of its own cells."""
