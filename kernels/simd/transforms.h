/* Winograd's maps for 3x3 kernels and output tiles of 2x2 or 4x4 cells, a vector of channels
   at a time: y = A' [(G w G') * (B' x B)] A, as Lavin and Gray (arXiv 1509.09308) give them,
   and the adjoints A dy A' (delta), B dV B' (scatter) and G' dU G (gradient). Of 4x4 cells, the
   factors of G's rows, 1/4, -1/6, -1/6, 1/24, 1/24 and 1, stand in A instead: where tiles are
   few, it is the weights' transform that takes time. */

INLINE void NAMED(line_input)(const int cells, const VEC *d, VEC *o) {
    if (cells == 2) {
        o[0] = d[0] - d[2];
        o[1] = d[1] + d[2];
        o[2] = d[2] - d[1];
        o[3] = d[1] - d[3];
        return;
    }
    VEC even = d[4] - 4 * d[2], odd = d[3] - 4 * d[1];
    VEC wide_even = d[4] - d[2], wide_odd = d[3] - d[1];
    o[0] = 4 * d[0] + (d[4] - 5 * d[2]);
    o[1] = even + odd;
    o[2] = even - odd;
    o[3] = wide_even + 2 * wide_odd;
    o[4] = wide_even - 2 * wide_odd;
    o[5] = 4 * d[1] + (d[5] - 5 * d[3]);
}

/* The adjoint of that, of 4x4 cells. */
INLINE void NAMED(line_scatter)(const VEC *d, VEC *o) {
    VEC sum = d[1] + d[2], difference = d[1] - d[2];
    VEC wide_sum = d[3] + d[4], wide_difference = d[3] - d[4];
    o[0] = 4 * d[0];
    o[1] = 4 * (d[5] - difference) - 2 * wide_difference;
    o[2] = -5 * d[0] - 4 * sum - wide_sum;
    o[3] = difference + 2 * wide_difference - 5 * d[5];
    o[4] = d[0] + sum + wide_sum;
    o[5] = d[5];
}

INLINE void NAMED(line_output)(const int cells, const VEC *d, VEC *o) {
    VEC sum = d[1] + d[2], difference = d[1] - d[2];
    if (cells == 2) {
        o[0] = d[0] + sum;
        o[1] = difference - d[3];
        return;
    }
    VEC wide_sum = d[3] + d[4], wide_difference = d[3] - d[4];
    sum *= -1 / 6.0f;
    difference *= -1 / 6.0f;
    o[0] = sum + 0.25f * d[0] + (1 / 24.0f) * wide_sum;
    o[1] = difference + (1 / 12.0f) * wide_difference;
    o[2] = sum + (1 / 6.0f) * wide_sum;
    o[3] = difference + (1 / 3.0f) * wide_difference + d[5];
}

INLINE void NAMED(line_delta)(const int cells, const VEC *d, VEC *o) {
    if (cells == 2) {
        o[0] = d[0];
        o[1] = d[0] + d[1];
        o[2] = d[0] - d[1];
        o[3] = -d[1];
        return;
    }
    VEC even = (d[0] + d[2]) * (-1 / 6.0f), odd = (d[1] + d[3]) * (-1 / 6.0f);
    VEC wide_even = d[0] * (1 / 24.0f) + d[2] * (1 / 6.0f);
    VEC wide_odd = d[1] * (1 / 12.0f) + d[3] * (1 / 3.0f);
    o[0] = 0.25f * d[0];
    o[1] = even + odd;
    o[2] = even - odd;
    o[3] = wide_even + wide_odd;
    o[4] = wide_even - wide_odd;
    o[5] = d[3];
}

INLINE void NAMED(line_weights)(const int cells, const VEC *d, VEC *o) {
    if (cells == 2) {
        VEC even = 0.5f * (d[0] + d[2]), odd = 0.5f * d[1];
        o[0] = d[0];
        o[1] = even + odd;
        o[2] = even - odd;
        o[3] = d[2];
        return;
    }
    VEC even = d[0] + d[2], wide_even = d[0] + 4 * d[2];
    o[0] = d[0];
    o[1] = even + d[1];
    o[2] = even - d[1];
    o[3] = wide_even + 2 * d[1];
    o[4] = wide_even - 2 * d[1];
    o[5] = d[2];
}

INLINE void NAMED(line_gradient)(const int cells, const VEC *d, VEC *o) {
    VEC sum = d[1] + d[2], difference = d[1] - d[2];
    if (cells == 2) {
        o[0] = d[0] + 0.5f * sum;
        o[1] = 0.5f * difference;
        o[2] = 0.5f * sum + d[3];
        return;
    }
    VEC wide_sum = d[3] + d[4], wide_difference = d[3] - d[4];
    o[0] = d[0] + sum + wide_sum;
    o[1] = difference + 2 * wide_difference;
    o[2] = sum + 4 * wide_sum + d[5];
}

/* Columns first, then rows. Only what ENDS may have something done to it afterwards. */
#define TRANSFORM(NAME, CELLS, TAKEN, GIVEN, ENDS)                                            \
    static void NAMED(JOIN(NAME, CELLS))(const float *in, Steps from, float *out, Steps to,   \
                                         ptrdiff_t vectors, const Epilogue *after) {          \
        for (ptrdiff_t v = 0; v < vectors; v++) {                                             \
            const float *source = in + v / 2 * from.pair + v % 2 * from.odd;                       \
            float *target = out + v / 2 * to.pair + v % 2 * to.odd;                            \
            VEC half[GIVEN][TAKEN], line[6], result[6];                                       \
            _Pragma("GCC unroll 6") for (int j = 0; j < TAKEN; j++) {                         \
                _Pragma("GCC unroll 6") for (int i = 0; i < TAKEN; i++)                       \
                    line[i] = NAMED(load)(source + i * from.row + j * from.column);           \
                NAMED(JOIN(line, NAME))(CELLS, line, result);                                 \
                _Pragma("GCC unroll 6") for (int i = 0; i < GIVEN; i++)                       \
                    half[i][j] = result[i];                                                   \
            }                                                                                 \
            _Pragma("GCC unroll 6") for (int i = 0; i < GIVEN; i++) {                         \
                NAMED(JOIN(line, NAME))(CELLS, half[i], result);                              \
                _Pragma("GCC unroll 6") for (int j = 0; j < GIVEN; j++) {                     \
                    float *cell = target + i * to.row + j * to.column;                        \
                    if (ENDS && after)                                                        \
                        NAMED(finish)(result[j], after->biases + v * LANES, cell, after);     \
                    else                                                                      \
                        NAMED(store)(cell, result[j]);                                        \
                }                                                                             \
            }                                                                                 \
        }                                                                                     \
    }

TRANSFORM(input, 2, 4, 4, 0)
TRANSFORM(output, 2, 4, 2, 1)
TRANSFORM(delta, 2, 2, 4, 0)
TRANSFORM(weights, 2, 3, 4, 0)
TRANSFORM(gradient, 2, 4, 3, 1)
TRANSFORM(input, 4, 6, 6, 0)
TRANSFORM(output, 4, 6, 4, 1)
TRANSFORM(delta, 4, 4, 6, 0)
TRANSFORM(weights, 4, 3, 6, 0)
TRANSFORM(gradient, 4, 6, 3, 1)

#undef TRANSFORM
