"""The bytes that a rank allocates: what is predicted here is what is allocated.

`bytes` adds them up, from the `lifetimes` of a pass's buffers laid out in one `arena`;
`trained_bytes` has weights, gradients and optimiser state of a layer.
"""
