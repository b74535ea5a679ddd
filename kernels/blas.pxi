# The one seam to BLAS.
include "real.pxi"

from scipy.linalg.cython_blas cimport dgemm, sgemm


cdef inline void gemm(
    bint a_transposed, bint b_transposed,
    Py_ssize_t m, Py_ssize_t n, Py_ssize_t k,
    const real* a, Py_ssize_t a_stride,
    const real* b, Py_ssize_t b_stride,
    real beta, real* c, Py_ssize_t c_stride,
) noexcept nogil:
    """Row-major c (m, n) = op(a) (m, k) times op(b) (k, n) + beta c.

    Strides are elements from one stored row to the next. Fortran sees every
    row-major matrix transposed, hence the exchanged operands.
    """
    cdef int rows = <int>m, columns = <int>n, inner = <int>k
    cdef int lda = <int>a_stride, ldb = <int>b_stride, ldc = <int>c_stride
    cdef real one = 1
    cdef char* a_mode = b"T" if a_transposed else b"N"
    cdef char* b_mode = b"T" if b_transposed else b"N"
    if real is float:
        sgemm(b_mode, a_mode, &columns, &rows, &inner, &one, <real*>b, &ldb,
              <real*>a, &lda, &beta, c, &ldc)
    else:
        dgemm(b_mode, a_mode, &columns, &rows, &inner, &one, <real*>b, &ldb,
              <real*>a, &lda, &beta, c, &ldc)
