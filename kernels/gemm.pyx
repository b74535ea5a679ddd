"""The BLAS seam by itself, for its test and its benchmark."""

include "blas.pxi"


def gemm_repeated(
    const real[:, ::1] a, const real[:, ::1] b, real[:, ::1] c,
    bint a_transposed, bint b_transposed, double beta, Py_ssize_t repeats,
):
    """Take ``c = op(a) @ op(b) + beta c`` `repeats` times without the GIL.

    Shapes must fit one another; they are not checked.
    """
    cdef Py_ssize_t i, inner = a.shape[0] if a_transposed else a.shape[1]
    with nogil:
        for i in range(repeats):
            gemm(a_transposed, b_transposed, c.shape[0], c.shape[1], inner,
                 &a[0, 0], a.shape[1], &b[0, 0], b.shape[1], <real>beta,
                 &c[0, 0], c.shape[1])
