# The element type of one call: every tile, weight and workspace of it has this dtype.
ctypedef fused real:
    float
    double
