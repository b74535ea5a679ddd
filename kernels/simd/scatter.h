/* The adjoint of the input's map, B V B', of tiles with 4 or fewer rows and columns: a transform
   back to the cells that the tile is computed from, of which neighbours share two rows or
   columns. */

/* So many channels of a cell. */
INLINE void NAMED(put)(float *cell, VEC value, ptrdiff_t channels, int add) {
    if (channels >= LANES) {
        NAMED(store)(cell, add ? NAMED(load)(cell) + value : value);
        return;
    }
    for (ptrdiff_t k = 0; k < channels; k++)
        cell[k] = add ? cell[k] + value[k] : value[k];
}

INLINE void NAMED(scatter_rows)(const int columns, const Patch *patch, VEC half[6][6],
                                float *target, Steps to, ptrdiff_t channels) {
    for (ptrdiff_t i = patch->top; i < patch->bottom; i++) {
        VEC result[6];
        NAMED(edge_line)(MAP_SCATTER, columns, half[i], result);
        for (ptrdiff_t j = patch->left; j < patch->right; j++)
            NAMED(put)(target + i * to.row + j * to.column, result[j], channels,
                       i < patch->shared_rows || j < patch->shared_columns);
    }
}

#define BY_ROWS(ROWS)                                                                           \
    case ROWS:                                                                                  \
        NAMED(edge_columns)(MAP_SCATTER, ROWS, EDGE_TAKEN(MAP_SCATTER, columns), source, from,  \
                            half);                                                              \
        break;
#define BY_COLUMNS(COLUMNS)                                                                     \
    case COLUMNS:                                                                               \
        NAMED(scatter_rows)(COLUMNS, patch, half, out + v * LANES, to, channels - v * LANES);   \
        break;

static void NAMED(scatter)(ptrdiff_t rows, ptrdiff_t columns, const float *in, Steps from,
                           float *out, Steps to, ptrdiff_t channels, const Patch *patch) {
    VEC half[6][6];
    for (ptrdiff_t v = 0; v * LANES < channels; v++) {
        const float *source = in + v / 2 * from.pair + v % 2 * from.odd;
        switch (rows) { BY_ROWS(1) BY_ROWS(2) BY_ROWS(3) BY_ROWS(4) }
        switch (columns) { BY_COLUMNS(1) BY_COLUMNS(2) BY_COLUMNS(3) BY_COLUMNS(4) }
    }
}

#undef BY_ROWS
#undef BY_COLUMNS
