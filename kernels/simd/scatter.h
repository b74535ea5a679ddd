/* The adjoint of F(4x4, 3x3)'s input map, B V B': a tile's transform back to the 6x6 cells that
   it was, or would have been, taken of. Patches of neighbours overlap by two cells. */

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

/* So many channels of a cell. */
INLINE void NAMED(put)(float *cell, VEC value, ptrdiff_t channels, int add) {
    if (channels >= LANES) {
        NAMED(store)(cell, add ? NAMED(load)(cell) + value : value);
        return;
    }
    for (ptrdiff_t k = 0; k < channels; k++)
        cell[k] = add ? cell[k] + value[k] : value[k];
}

/* Of `patch`, whose first cell is at `out`, what lies in the box. */
static void NAMED(scatter)(const float *in, Steps from, float *out, Steps to, ptrdiff_t channels,
                           const Patch *patch) {
    for (ptrdiff_t v = 0; v * LANES < channels; v++) {
        const float *source = in + v / 2 * from.pair + v % 2 * from.odd;
        VEC half[6][6], line[6], result[6];
#pragma GCC unroll 6
        for (int j = 0; j < 6; j++) {
#pragma GCC unroll 6
            for (int i = 0; i < 6; i++)
                line[i] = NAMED(load)(source + i * from.row + j * from.column);
            NAMED(line_scatter)(line, result);
#pragma GCC unroll 6
            for (int i = 0; i < 6; i++)
                half[i][j] = result[i];
        }
        for (ptrdiff_t i = patch->top; i < patch->bottom; i++) {
            NAMED(line_scatter)(half[i], result);
            for (ptrdiff_t j = patch->left; j < patch->right; j++)
                NAMED(put)(out + i * to.row + j * to.column + v * LANES, result[j],
                           channels - v * LANES,
                           i < patch->shared_rows || j < patch->shared_columns);
        }
    }
}
