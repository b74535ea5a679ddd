/* The product kernel: up to TALLEST rows by two vectors of columns stay in registers while
   the inner dimension runs. Each element's sum is taken in the order of the segments,
   whatever its row or column: the result does not depend on where a block begins. */

#define PANEL (2 * LANES)

INLINE void NAMED(finish)(VEC v, const float *biases, float *c, const Epilogue *after) {
    if (after->biases)
        v += NAMED(load)(biases);
    v = NAMED(activated)(v, after->slope);
    if (after->add)
        v += NAMED(load)(c);
    NAMED(store)(c, v);
}

/* `wide`: whether the columns fill more than one vector. */
INLINE void NAMED(block)(const int rows, const int wide, ptrdiff_t n, const Segment *segments,
                         ptrdiff_t count, ptrdiff_t shift, ptrdiff_t row_step,
                         ptrdiff_t inner_step, ptrdiff_t b_step, float *c, ptrdiff_t c_step,
                         const Epilogue *after, Ahead *ahead) {
    VEC left[TALLEST], right[TALLEST];
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++)
        left[i] = right[i] = (VEC){0};
    /* What is added to comes from afar while the products run. */
    if (after->add)
        for (int i = 0; i < rows; i++)
            fetch(c + i * c_step, n);
    for (ptrdiff_t s = 0; s < count; s++) {
        const float *a = segments[s].a + shift;
        const float *b = segments[s].b;
        for (ptrdiff_t rest = segments[s].length; rest > 0;) {
            ptrdiff_t k = fetch_ahead(ahead, rest);
            for (rest -= k; k > 0; k--) {
                VEC b_left = NAMED(load)(b), b_right = wide ? NAMED(load)(b + LANES) : b_left;
#pragma GCC unroll 16
                for (int i = 0; i < rows; i++) {
                    float value = a[i * row_step];
                    left[i] += b_left * value;
                    if (wide)
                        right[i] += b_right * value;
                }
                a += inner_step;
                b += b_step;
            }
        }
    }
    if (n == (wide ? PANEL : LANES)) {
#pragma GCC unroll 16
        for (int i = 0; i < rows; i++) {
            NAMED(finish)(left[i], after->biases, c + i * c_step, after);
            if (wide)
                NAMED(finish)(right[i], after->biases + LANES, c + i * c_step + LANES, after);
        }
        return;
    }
    float line[PANEL], biases[PANEL] = {0};
    Epilogue padded = {after->biases ? biases : NULL, after->slope, after->add};
    if (after->biases)
        memcpy(biases, after->biases, n * sizeof(float));
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++) {
        memset(line, 0, sizeof line);
        memcpy(line, c + i * c_step, n * sizeof(float));
        NAMED(finish)(left[i], biases, line, &padded);
        if (wide)
            NAMED(finish)(right[i], biases + LANES, line + LANES, &padded);
        memcpy(c + i * c_step, line, n * sizeof(float));
    }
}

/* Rows are dealt out evenly: the last block is hardly lower than the others. */
#define PRODUCT(NAME, ROW_STEP, INNER_STEP)                                                     \
    static void NAMED(NAME)(ptrdiff_t m, ptrdiff_t n, const Segment *segments, ptrdiff_t count, \
                            ptrdiff_t a_step, ptrdiff_t b_step, float *c, ptrdiff_t c_step,     \
                            const Epilogue *after, Ahead *ahead) {                              \
        ptrdiff_t blocks = (m + TALLEST - 1) / TALLEST;                                         \
        for (ptrdiff_t block = 0, first = 0; block < blocks; block++) {                         \
            ptrdiff_t rows = m / blocks + (block < m % blocks);                                 \
            ptrdiff_t shift = first * (ROW_STEP);                                               \
            float *target = c + first * c_step;                                                 \
            switch (n > LANES ? rows : -rows) {                                                 \
                ROWS(1, ROW_STEP, INNER_STEP)                                                   \
                ROWS(2, ROW_STEP, INNER_STEP)                                                   \
                ROWS(3, ROW_STEP, INNER_STEP)                                                   \
                ROWS(4, ROW_STEP, INNER_STEP)                                                   \
                ROWS(5, ROW_STEP, INNER_STEP)                                                   \
                ROWS(6, ROW_STEP, INNER_STEP)                                                   \
                TALL_ROWS(ROW_STEP, INNER_STEP)                                                 \
            }                                                                                   \
            first += rows;                                                                      \
        }                                                                                       \
    }

#define ROWS(HEIGHT, ROW_STEP, INNER_STEP)                                                       \
    case HEIGHT:                                                                                 \
        NAMED(block)(HEIGHT, 1, n, segments, count, shift, ROW_STEP, INNER_STEP, b_step, target, \
                     c_step, after, ahead);                                                      \
        break;                                                                                   \
    case -HEIGHT:                                                                                \
        NAMED(block)(HEIGHT, 0, n, segments, count, shift, ROW_STEP, INNER_STEP, b_step, target, \
                     c_step, after, ahead);                                                      \
        break;

#if TALLEST == 6
#define TALL_ROWS(R, I)
#elif TALLEST == 12
#define TALL_ROWS(R, I) \
    ROWS(7, R, I) ROWS(8, R, I) ROWS(9, R, I) ROWS(10, R, I) ROWS(11, R, I) ROWS(12, R, I)
#elif TALLEST == 14
#define TALL_ROWS(R, I)                                                                    \
    ROWS(7, R, I) ROWS(8, R, I) ROWS(9, R, I) ROWS(10, R, I) ROWS(11, R, I) ROWS(12, R, I) \
    ROWS(13, R, I) ROWS(14, R, I)
#endif

PRODUCT(rows_product, a_step, 1)
PRODUCT(columns_product, 1, a_step)

#undef PRODUCT
#undef ROWS
#undef TALL_ROWS

/* Rows ahead of the one that is copied, on their way from memory. */
#define ROWS_AHEAD 24

/* `columns`, at most a panel's, of rows `step` apart; the panel's others become zero. */
static void NAMED(pack)(const float *source, ptrdiff_t step, ptrdiff_t rows, ptrdiff_t columns,
                        float *panel) {
    for (ptrdiff_t i = 0; i < rows; i++, source += step, panel += PANEL) {
        fetch(source + ROWS_AHEAD * step, columns);
        if (columns == PANEL) {
            NAMED(store)(panel, NAMED(load)(source));
            NAMED(store)(panel + LANES, NAMED(load)(source + LANES));
        } else {
            memcpy(panel, source, columns * sizeof(float));
            memset(panel + columns, 0, (PANEL - columns) * sizeof(float));
        }
    }
}

/* Rows of whole vectors, one after the other, to rows of the target `step` apart. */
static void NAMED(spread)(const float *source, ptrdiff_t rows, ptrdiff_t columns, float *target,
                          ptrdiff_t step, int add) {
    for (ptrdiff_t i = 0; i < rows; i++, source += columns, target += step) {
        fetch(target + ROWS_AHEAD * step, columns);
        for (ptrdiff_t k = 0; k < columns; k += LANES) {
            VEC value = NAMED(load)(source + k);
            NAMED(store)(target + k, add ? NAMED(load)(target + k) + value : value);
        }
    }
}

#undef ROWS_AHEAD
