"""Who adds up which part of the gradients, and when.

`buckets` cuts the flat array of all parameters, `slices` hands each bucket's parts to ranks, and
`completion` says when backward has filled a bucket and when forward wants it back. `reduction` is
the tree of all other sums.
"""
