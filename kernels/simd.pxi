# The inner loops of simd/simd.h, and the set of them that this process uses.
from libc.string cimport memcpy, memset

from os import environ


cdef extern from "simd/simd.h" nogil:
    enum:
        MAP_INPUT
        MAP_OUTPUT
        MAP_DELTA
        MAP_WEIGHTS
        MAP_GRADIENT

    ctypedef struct Epilogue:
        const float* biases
        float slope
        int add

    ctypedef struct Segment:
        const float* a
        const float* b
        ptrdiff_t length

    ctypedef struct Ahead:
        const float* next
        ptrdiff_t run
        ptrdiff_t step
        ptrdiff_t rows
        ptrdiff_t pace
        ptrdiff_t line

    enum:
        STRETCH
        WEIGHING

    ctypedef struct Coming:
        const float* first
        const float* next
        ptrdiff_t tap_step
        ptrdiff_t row_step
        ptrdiff_t rows
        ptrdiff_t run
        ptrdiff_t pace
        ptrdiff_t tap
        ptrdiff_t row
        ptrdiff_t line

    ctypedef struct Steps:
        ptrdiff_t row
        ptrdiff_t column
        ptrdiff_t pair
        ptrdiff_t odd

    ctypedef struct Patch:
        ptrdiff_t top
        ptrdiff_t bottom
        ptrdiff_t left
        ptrdiff_t right
        ptrdiff_t shared_rows
        ptrdiff_t shared_columns

    ctypedef void (*TransformLoop)(const float*, Steps, float*, Steps, ptrdiff_t,
                                   const Epilogue*) noexcept nogil

    ctypedef void (*EdgeLoop)(ptrdiff_t, ptrdiff_t, const float*, Steps, float*, Steps,
                              ptrdiff_t, const Epilogue*) noexcept nogil

    const float[3][5][5] rest_input
    const float[3][3][5] rest_output

    ctypedef struct Spans:
        ptrdiff_t rows
        ptrdiff_t columns
        ptrdiff_t bottom
        ptrdiff_t whole
        ptrdiff_t right
        ptrdiff_t tiles

    ctypedef struct Span:
        ptrdiff_t first
        ptrdiff_t count

    Span span(const Spans*, ptrdiff_t, ptrdiff_t)

    ctypedef void (*ProductLoop)(ptrdiff_t, ptrdiff_t, const Segment*, ptrdiff_t, ptrdiff_t,
                                 ptrdiff_t, float*, ptrdiff_t, const Epilogue*,
                                 Ahead*) noexcept nogil

    ctypedef struct Simd:
        const char* name
        ptrdiff_t vector
        ptrdiff_t panel
        ptrdiff_t piece
        ProductLoop rows_product
        ProductLoop columns_product
        void (*pack)(const float*, ptrdiff_t, ptrdiff_t, ptrdiff_t, float*) noexcept nogil
        void (*spread)(const float*, ptrdiff_t, ptrdiff_t, float*, ptrdiff_t,
                       int) noexcept nogil
        void (*transpose)(const float*, ptrdiff_t, ptrdiff_t, ptrdiff_t, float*,
                          ptrdiff_t) noexcept nogil
        TransformLoop transforms[2][5]
        EdgeLoop edges[3]
        void (*scatter)(ptrdiff_t, ptrdiff_t, const float*, Steps, float*, Steps, ptrdiff_t,
                        const Patch*) noexcept nogil
        void (*pass_piece)(const float*, ptrdiff_t, ptrdiff_t, ptrdiff_t, float*, const float*,
                           const Spans*, float*, int, Coming*) noexcept nogil
        void (*weigh_piece)(const float*, const Spans*, const float*, ptrdiff_t, float*, float*,
                            ptrdiff_t, ptrdiff_t, int, Coming*) noexcept nogil
        void (*derive)(float*, const float*, ptrdiff_t, ptrdiff_t, float, float*) noexcept nogil
        void (*largest)(const float*, const ptrdiff_t*, const unsigned char*, ptrdiff_t,
                        ptrdiff_t, float*, unsigned char*) noexcept nogil
        void (*give_back)(const float*, const unsigned char*, const ptrdiff_t*,
                          const unsigned char*, ptrdiff_t, ptrdiff_t, float*,
                          int) noexcept nogil
        void (*sums)(const float*, ptrdiff_t, ptrdiff_t, double*) noexcept nogil
        void (*squares)(const float*, const double*, ptrdiff_t, ptrdiff_t,
                        double*) noexcept nogil
        void (*products)(const float*, const float*, const double*, ptrdiff_t, ptrdiff_t,
                         double*, double*) noexcept nogil
        void (*normalize)(const float*, float*, const float*, const float*, const float*,
                          float, ptrdiff_t, ptrdiff_t) noexcept nogil
        void (*centre)(float*, const float*, const float*, const float*, const float*,
                       const float*, ptrdiff_t, ptrdiff_t) noexcept nogil
        void (*taps)(const float*, ptrdiff_t, const ptrdiff_t*, const float*, const ptrdiff_t*,
                     ptrdiff_t, float*, ptrdiff_t, ptrdiff_t, ptrdiff_t,
                     const Epilogue*) noexcept nogil
        void (*taps_gradient)(const float*, ptrdiff_t, const ptrdiff_t*, const ptrdiff_t*,
                              ptrdiff_t, const float*, ptrdiff_t, ptrdiff_t, ptrdiff_t,
                              float*) noexcept nogil

    const Simd* simd_named(const char* name)
    void fetch(const float* p, ptrdiff_t elements)


cdef const Simd* simd = simd_named(NULL)


cdef Ahead fetched(const float* next, ptrdiff_t elements, ptrdiff_t step, ptrdiff_t rows,
                   ptrdiff_t stretches) noexcept nogil:
    """Rows of so many elements, to be on their way after so many stretches of products."""
    cdef Ahead a
    a.next = next
    a.run = (elements + 15) // 16
    a.step = step
    a.rows = max(rows, 0) if elements > 0 else 0
    a.pace = max(a.run * a.rows // max(stretches, 1), 8)
    a.line = 0
    return a


def select(name):
    """Use the loops of one instruction set; None is the fastest that this CPU has."""
    global simd
    cdef const Simd* wanted
    if name is None:
        wanted = simd_named(NULL)
    else:
        text = name.encode()
        wanted = simd_named(text)
    if wanted == NULL:
        raise ValueError(
            f"MPITILE_SIMD: expected baseline, avx2 or avx512 where the CPU has it, got {name!r}")
    simd = wanted


def selected():
    """The name of the instruction set in use."""
    return simd.name.decode()


select(environ.get("MPITILE_SIMD"))
