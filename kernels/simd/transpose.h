/* Transposition of float32 matrices by squares of four, on any instruction set. */
#ifndef MPITILE_TRANSPOSE_H
#define MPITILE_TRANSPOSE_H

#include <stddef.h>
#include <stdint.h>

typedef float Quad __attribute__((vector_size(16), aligned(4), may_alias));

#if defined(__clang__)
#define MIX(a, b, i, j, k, l) __builtin_shufflevector(a, b, i, j, k, l)
#else
typedef int32_t QuadIndex __attribute__((vector_size(16)));
#define MIX(a, b, i, j, k, l) __builtin_shuffle(a, b, (QuadIndex){i, j, k, l})
#endif

static inline void transpose_square(const float *source, ptrdiff_t from, float *target,
                                    ptrdiff_t to) {
    Quad a = *(const Quad *)source, b = *(const Quad *)(source + from);
    Quad c = *(const Quad *)(source + 2 * from), d = *(const Quad *)(source + 3 * from);
    Quad ab = MIX(a, b, 0, 4, 1, 5), ab_high = MIX(a, b, 2, 6, 3, 7);
    Quad cd = MIX(c, d, 0, 4, 1, 5), cd_high = MIX(c, d, 2, 6, 3, 7);
    *(Quad *)target = MIX(ab, cd, 0, 1, 4, 5);
    *(Quad *)(target + to) = MIX(ab, cd, 2, 3, 6, 7);
    *(Quad *)(target + 2 * to) = MIX(ab_high, cd_high, 0, 1, 4, 5);
    *(Quad *)(target + 3 * to) = MIX(ab_high, cd_high, 2, 3, 6, 7);
}

/* target (columns, rows) from source (rows, columns), whose rows are `to` and `from` apart.
   Sixteen rows at a time: more would fight for the same cache sets. */
static inline void transpose(const float *source, ptrdiff_t from, ptrdiff_t rows,
                             ptrdiff_t columns, float *target, ptrdiff_t to) {
    for (ptrdiff_t first = 0; first < rows; first += 16) {
        ptrdiff_t end = first + 16 < rows ? first + 16 : rows;
        for (ptrdiff_t j = 0; j < columns; j += 4) {
            ptrdiff_t i = first;
            if (j + 4 <= columns)
                for (; i + 4 <= end; i += 4)
                    transpose_square(source + i * from + j, from, target + j * to + i, to);
            for (; i < end; i++)
                for (ptrdiff_t k = j; k < columns && k < j + 4; k++)
                    target[k * to + i] = source[i * from + k];
        }
    }
}

#undef MIX
#endif
