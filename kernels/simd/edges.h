/* Winograd's transforms of tiles that have fewer than 4 rows or columns, as simd/rest.h has
   them, a vector of channels at a time. */

INLINE float NAMED(edge_factor)(const int map, const int cells, const int i, const int k) {
    if (map == MAP_INPUT)
        return rest_input[cells - 1][i][k];
    if (map == MAP_SCATTER)
        return rest_input[cells - 1][k][i];
    return map == MAP_OUTPUT ? rest_output[cells - 1][i][k] : rest_output[cells - 1][k][i];
}

/* Elements of a line before and after its map. */
#define EDGE_TAKEN(map, cells) ((map) == MAP_DELTA ? (cells) : (cells) + 2)
#define EDGE_GIVEN(map, cells) ((map) == MAP_OUTPUT ? (cells) : (cells) + 2)

INLINE void NAMED(edge_line)(const int map, const int cells, const VEC *d, VEC *o) {
    if (cells == 4) {
        if (map == MAP_INPUT)
            NAMED(line_input)(4, d, o);
        else if (map == MAP_OUTPUT)
            NAMED(line_output)(4, d, o);
        else if (map == MAP_SCATTER)
            NAMED(line_scatter)(d, o);
        else
            NAMED(line_delta)(4, d, o);
        return;
    }
    const int taken = EDGE_TAKEN(map, cells), given = EDGE_GIVEN(map, cells);
#pragma GCC unroll 6
    for (int i = 0; i < given; i++) {
        VEC sum = {0};
        int none = 1;
#pragma GCC unroll 6
        for (int k = 0; k < taken; k++) {
            const float factor = NAMED(edge_factor)(map, cells, i, k);
            if (factor != 0) {
                sum = none ? d[k] * factor : sum + d[k] * factor;
                none = 0;
            }
        }
        o[i] = sum;
    }
}

/* So many columns of a tile of so many rows. */
INLINE void NAMED(edge_columns)(const int map, const int rows, ptrdiff_t columns,
                                const float *source, Steps from, VEC half[6][6]) {
    const int taken = EDGE_TAKEN(map, rows), given = EDGE_GIVEN(map, rows);
    for (ptrdiff_t j = 0; j < columns; j++) {
        VEC line[6], result[6];
#pragma GCC unroll 6
        for (int i = 0; i < taken; i++)
            line[i] = NAMED(load)(source + i * from.row + j * from.column);
        NAMED(edge_line)(map, rows, line, result);
#pragma GCC unroll 6
        for (int i = 0; i < given; i++)
            half[i][j] = result[i];
    }
}

/* So many rows of what that gave for a tile of so many columns. */
INLINE void NAMED(edge_rows)(const int map, const int columns, ptrdiff_t rows, VEC half[6][6],
                             float *target, Steps to, const float *biases,
                             const Epilogue *after) {
    const int given = EDGE_GIVEN(map, columns);
    for (ptrdiff_t i = 0; i < rows; i++) {
        VEC result[6];
        NAMED(edge_line)(map, columns, half[i], result);
#pragma GCC unroll 6
        for (int j = 0; j < given; j++) {
            float *cell = target + i * to.row + j * to.column;
            if (map == MAP_OUTPUT && after)
                NAMED(finish)(result[j], biases, cell, after);
            else
                NAMED(store)(cell, result[j]);
        }
    }
}

#define BY_ROWS(MAP, ROWS)                                                                      \
    case ROWS:                                                                                  \
        NAMED(edge_columns)(MAP, ROWS, EDGE_TAKEN(MAP, columns), source, from, half);           \
        break;
#define BY_COLUMNS(MAP, COLUMNS)                                                                \
    case COLUMNS:                                                                               \
        NAMED(edge_rows)(MAP, COLUMNS, EDGE_GIVEN(MAP, rows), half, target, to, biases, after); \
        break;
#define EDGE(NAME, MAP)                                                                         \
    static void NAMED(JOIN(NAME, edge))(ptrdiff_t rows, ptrdiff_t columns, const float *in,     \
                                        Steps from, float *out, Steps to, ptrdiff_t vectors,    \
                                        const Epilogue *after) {                                \
        VEC half[6][6];                                                                         \
        for (ptrdiff_t v = 0; v < vectors; v++) {                                               \
            const float *source = in + v / 2 * from.pair + v % 2 * from.odd;                    \
            float *target = out + v / 2 * to.pair + v % 2 * to.odd;                             \
            const float *biases = after ? after->biases + v * LANES : NULL;                     \
            switch (rows) { BY_ROWS(MAP, 1) BY_ROWS(MAP, 2) BY_ROWS(MAP, 3) BY_ROWS(MAP, 4) }   \
            switch (columns) {                                                                  \
                BY_COLUMNS(MAP, 1) BY_COLUMNS(MAP, 2) BY_COLUMNS(MAP, 3) BY_COLUMNS(MAP, 4)     \
            }                                                                                   \
        }                                                                                       \
    }

EDGE(input, MAP_INPUT)
EDGE(output, MAP_OUTPUT)
EDGE(delta, MAP_DELTA)

#undef EDGE
#undef BY_ROWS
#undef BY_COLUMNS
