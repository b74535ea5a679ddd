/* Winograd's F(4x4, 3x3) where tiles are few: its weights are many times the tiles' transforms,
   so a piece of them goes from memory through a transform to its products, or the way back,
   without leaving L1. Meanwhile the next piece is on its way. */

/* Channels of a piece of weights on their way to products. */
#define PIECE (PANEL < 16 ? PANEL : 16)

/* Elements from one tap, or place, of a piece to the next: odd numbers of cache lines, for their
   streams must not share cache sets. */
#define PIECE_STEP(depth) ((depth) * PANEL + 16)

/* c (rows, PANEL), or what is added to it: a (rows, depth) times a panel b (depth, PANEL). */
INLINE void NAMED(small_block)(const int rows, ptrdiff_t depth, const float *a,
                               const ptrdiff_t row_step, const ptrdiff_t inner_step,
                               const float *b, float *c, int add) {
    VEC left[TALLEST], right[TALLEST];
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++) {
        left[i] = add ? NAMED(load)(c + i * PANEL) : (VEC){0};
        right[i] = add ? NAMED(load)(c + i * PANEL + LANES) : (VEC){0};
    }
    for (ptrdiff_t k = 0; k < depth; k++) {
        VEC b_left = NAMED(load)(b), b_right = NAMED(load)(b + LANES);
#pragma GCC unroll 16
        for (int i = 0; i < rows; i++) {
            float value = a[i * row_step];
            left[i] += b_left * value;
            right[i] += b_right * value;
        }
        a += inner_step;
        b += PANEL;
    }
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++) {
        NAMED(store)(c + i * PANEL, left[i]);
        NAMED(store)(c + i * PANEL + LANES, right[i]);
    }
}

#define SMALL(HEIGHT)                                                                       \
    case HEIGHT:                                                                            \
        NAMED(small_block)(HEIGHT, depth, a, row_step, inner_step, b, c, add);              \
        break;
#if TALLEST == 6
#define SMALL_TALL
#elif TALLEST == 12
#define SMALL_TALL SMALL(7) SMALL(8) SMALL(9) SMALL(10) SMALL(11) SMALL(12)
#elif TALLEST == 14
#define SMALL_TALL \
    SMALL(7) SMALL(8) SMALL(9) SMALL(10) SMALL(11) SMALL(12) SMALL(13) SMALL(14)
#endif
/* The same for any number of rows; of a panel, they or the inner elements are contiguous. */
#define SMALL_PRODUCT(NAME, ROW_STEP, INNER_STEP)                                              \
    static void NAMED(NAME)(ptrdiff_t m, ptrdiff_t depth, const float *a, const float *b,      \
                            float *c, int add) {                                               \
        const ptrdiff_t row_step = (ROW_STEP), inner_step = (INNER_STEP);                      \
        for (ptrdiff_t blocks = (m + TALLEST - 1) / TALLEST; blocks; blocks--) {               \
            ptrdiff_t rows = blocks == 1 ? m : (m + blocks - 1) / blocks;                      \
            switch (rows) {                                                                    \
                SMALL(1) SMALL(2) SMALL(3) SMALL(4) SMALL(5) SMALL(6) SMALL_TALL               \
            }                                                                                  \
            a += rows * row_step;                                                              \
            c += rows * PANEL;                                                                 \
            m -= rows;                                                                         \
        }                                                                                      \
    }

SMALL_PRODUCT(small_rows, PIECE, 1)
SMALL_PRODUCT(few_rows, PIECE, 1)
SMALL_PRODUCT(small_columns, 1, PIECE)

#undef SMALL
#undef SMALL_TALL
#undef SMALL_PRODUCT

/* Row i of the transform of the weights. */
INLINE void NAMED(transform_row)(const int i, const float *taps, ptrdiff_t tap, ptrdiff_t row,
                                 ptrdiff_t depth, float *out) {
    const ptrdiff_t step = PIECE_STEP(depth);
    const float *top = taps, *middle = taps + 3 * tap, *bottom = taps + 6 * tap;
    for (ptrdiff_t c = 0; c < depth; c++) {
        for (int k = 0; k < PANEL; k += LANES) {
            VEC line[3], result[6];
#pragma GCC unroll 3
            for (int j = 0; j < 3; j++) {
                VEC column[3] = {NAMED(load)(top + k + j * tap), NAMED(load)(middle + k + j * tap),
                                 NAMED(load)(bottom + k + j * tap)};
                NAMED(line_weights)(4, column, result);
                line[j] = result[i];
            }
            NAMED(line_weights)(4, line, result);
#pragma GCC unroll 6
            for (int j = 0; j < 6; j++)
                NAMED(store)(out + k + j * step, result[j]);
        }
        top += row;
        middle += row;
        bottom += row;
        out += PANEL;
    }
}

/* The taps of a piece, `tap` apart and their rows `row`, times the transforms of tiles (place,
   tile, PANEL), added to such a panel or written to it, of each place those that have it. A row
   of places at a time: its weights and sums stay in L1. */
static void NAMED(pass_piece)(const float *taps, ptrdiff_t tap, ptrdiff_t row, ptrdiff_t depth,
                              float *room, const float *x, const Spans *spans, float *y,
                              int add, Coming *coming) {
    const ptrdiff_t tiles = spans->tiles;
#define ROW(I)                                                         \
    case I:                                                            \
        NAMED(transform_row)(I, taps, tap, row, depth, room);          \
        break;
    for (int i = 0; i < 6; i++) {
        const Span all = span(spans, i, 0), fewer = span(spans, i, spans->columns);
        if (all.count)
            switch (i) { ROW(0) ROW(1) ROW(2) ROW(3) ROW(4) ROW(5) }
        for (int j = 0; j < 6; j++) {
            const Span at = j < spans->columns ? all : fewer;
            const float *a = x + at.first * PIECE;
            float *c = y + at.first * PANEL;
            fetch_coming(coming);
            if (depth == PIECE)
                NAMED(small_rows)(at.count, PIECE, a, room + j * PIECE_STEP(depth), c, add);
            else
                NAMED(few_rows)(at.count, depth, a, room + j * PIECE_STEP(depth), c, add);
            x += tiles * PIECE;
            y += tiles * PANEL;
        }
    }
#undef ROW
}

/* The gradient of a piece of weights, (3, 3, depth, PANEL) with steps `column` between taps and
   `row` between channels, from panels (place, tile, PANEL) of the transforms of tiles and of
   their deltas', of each place those that have it. A row of places at a time, three of each are
   left to wait for the others. */
INLINE void NAMED(weigh_rows)(const float *x, const Spans *spans, const float *delta,
                              const ptrdiff_t depth, float *room, float *dweights,
                              ptrdiff_t column, ptrdiff_t row, int add, Coming *coming) {
    const ptrdiff_t tiles = spans->tiles, step = PIECE_STEP(depth);
    float *waiting = room + 6 * step;
    VEC line[6], result[3];
    for (int i = 0; i < 6; i++) {
        const Span all = span(spans, i, 0), fewer = span(spans, i, spans->columns);
        for (int j = 0; j < 6; j++) {
            const Span at = j < spans->columns ? all : fewer;
            fetch_coming(coming);
            NAMED(small_columns)(depth, at.count, x + at.first * PIECE,
                                 delta + at.first * PANEL, room + j * step, 0);
            x += tiles * PIECE;
            delta += tiles * PANEL;
        }
        for (ptrdiff_t k = 0; k < depth * PANEL; k += LANES) {
#pragma GCC unroll 6
            for (int j = 0; j < 6; j++)
                line[j] = NAMED(load)(room + j * step + k);
            NAMED(line_gradient)(4, line, result);
#pragma GCC unroll 3
            for (int j = 0; j < 3; j++)
                NAMED(store)(waiting + (3 * i + j) * step + k, result[j]);
        }
    }
    for (ptrdiff_t c = 0; c < depth; c++, dweights += row)
        for (int k = 0; k < PANEL; k += LANES)
#pragma GCC unroll 3
            for (int j = 0; j < 3; j++) {
#pragma GCC unroll 6
                for (int i = 0; i < 6; i++)
                    line[i] = NAMED(load)(waiting + (3 * i + j) * step + c * PANEL + k);
                NAMED(line_gradient)(4, line, result);
#pragma GCC unroll 3
                for (int i = 0; i < 3; i++) {
                    float *target = dweights + (3 * i + j) * column + k;
                    NAMED(store)(target, add ? NAMED(load)(target) + result[i] : result[i]);
                }
            }
}

static void NAMED(weigh_piece)(const float *x, const Spans *spans, const float *delta,
                               ptrdiff_t depth, float *room, float *dweights, ptrdiff_t column,
                               ptrdiff_t row, int add, Coming *coming) {
    if (depth == WEIGHING)
        NAMED(weigh_rows)(x, spans, delta, WEIGHING, room, dweights, column, row, add, coming);
    else
        NAMED(weigh_rows)(x, spans, delta, depth, room, dweights, column, row, add, coming);
}

#undef PIECE_STEP
