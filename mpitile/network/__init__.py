"""Networks as data: layer descriptions, Darknet's cfg language, shapes, parameters."""
