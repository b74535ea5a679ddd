/* Winograd's F(4x4, 3x3) where tiles are few: its weights are many times the tiles' transforms,
   so a piece of them goes from memory through a transform to its products, or the way back,
   without leaving L1. Meanwhile the next piece is on its way. */

/* Elements from one tap, or place, of a piece to the next: odd numbers of cache lines, for their
   streams must not share cache sets. */
#define PIECE_STEP(depth) ((depth) * PANEL + 16)

/* c (rows, PANEL), or what is added to it: a (rows, depth) times a panel b (depth, PANEL). */
INLINE void NAMED(small_block)(const int rows, ptrdiff_t depth, const float *a, ptrdiff_t row_step,
                               ptrdiff_t inner_step, const float *b, float *c, ptrdiff_t c_step,
                               int add) {
    VEC left[TALLEST], right[TALLEST];
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++) {
        left[i] = add ? NAMED(load)(c + i * c_step) : (VEC){0};
        right[i] = add ? NAMED(load)(c + i * c_step + LANES) : (VEC){0};
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
        NAMED(store)(c + i * c_step, left[i]);
        NAMED(store)(c + i * c_step + LANES, right[i]);
    }
}

#define SMALL(HEIGHT)                                                                          \
    case HEIGHT:                                                                               \
        NAMED(small_block)(HEIGHT, depth, a, row_step, inner_step, b, c, c_step, add);         \
        break;
#if TALLEST == 6
#define SMALL_TALL
#elif TALLEST == 12
#define SMALL_TALL SMALL(7) SMALL(8) SMALL(9) SMALL(10) SMALL(11) SMALL(12)
#elif TALLEST == 14
#define SMALL_TALL \
    SMALL(7) SMALL(8) SMALL(9) SMALL(10) SMALL(11) SMALL(12) SMALL(13) SMALL(14)
#endif
/* The same for any number of rows; one of the steps is 1. */
#define SMALL_PRODUCT(NAME, ROW_STEP, INNER_STEP)                                              \
    static void NAMED(NAME)(ptrdiff_t m, ptrdiff_t depth, const float *a, ptrdiff_t a_step,    \
                            const float *b, float *c, ptrdiff_t c_step, int add) {             \
        ptrdiff_t row_step = (ROW_STEP), inner_step = (INNER_STEP);                            \
        ptrdiff_t blocks = (m + TALLEST - 1) / TALLEST;                                        \
        for (ptrdiff_t block = 0; block < blocks; block++) {                                   \
            ptrdiff_t rows = m / blocks + (block < m % blocks);                                \
            switch (rows) {                                                                    \
                SMALL(1) SMALL(2) SMALL(3) SMALL(4) SMALL(5) SMALL(6) SMALL_TALL               \
            }                                                                                  \
            a += rows * row_step;                                                              \
            c += rows * c_step;                                                                \
        }                                                                                      \
    }

SMALL_PRODUCT(small_rows, a_step, 1)
SMALL_PRODUCT(small_columns, 1, a_step)

#undef SMALL
#undef SMALL_TALL
#undef SMALL_PRODUCT

/* Row `pair` and its partner of the transform's rows, of one column of taps: 0 and 5, 1 and 2, 3
   and 4 are sums and differences of the same. */
INLINE void NAMED(pair_weights)(const int pair, VEC a, VEC b, VEC c, VEC *one, VEC *other) {
    if (pair == 0) {
        *one = a * 0.25f;
        *other = c;
    } else if (pair == 1) {
        VEC even = (a + c) * (-1 / 6.0f), odd = b * (-1 / 6.0f);
        *one = even + odd;
        *other = even - odd;
    } else {
        VEC even = a * (1 / 24.0f) + c * (1 / 6.0f), odd = b * (1 / 12.0f);
        *one = even + odd;
        *other = even - odd;
    }
}

INLINE void NAMED(transform_pair)(const int pair, const float *taps, ptrdiff_t tap, ptrdiff_t row,
                                  ptrdiff_t depth, float *out) {
    const ptrdiff_t step = PIECE_STEP(depth);
    for (ptrdiff_t c = 0; c < depth; c++, taps += row, out += PANEL)
        for (int k = 0; k < PANEL; k += LANES) {
            VEC one[3], other[3], result[6];
#pragma GCC unroll 3
            for (int j = 0; j < 3; j++)
                NAMED(pair_weights)(pair, NAMED(load)(taps + k + j * tap),
                                    NAMED(load)(taps + k + (3 + j) * tap),
                                    NAMED(load)(taps + k + (6 + j) * tap), one + j, other + j);
            NAMED(line_weights)(4, one, result);
#pragma GCC unroll 6
            for (int j = 0; j < 6; j++)
                NAMED(store)(out + k + j * step, result[j]);
            NAMED(line_weights)(4, other, result);
#pragma GCC unroll 6
            for (int j = 0; j < 6; j++)
                NAMED(store)(out + k + (6 + j) * step, result[j]);
        }
}

/* The taps of a piece, `tap` apart and their rows `row`, times the transforms of tiles (place,
   tile, channel). */
static void NAMED(pass_piece)(const float *taps, ptrdiff_t tap, ptrdiff_t row, ptrdiff_t depth,
                              float *room, const float *x, ptrdiff_t x_place, ptrdiff_t x_row,
                              ptrdiff_t tiles, float *y, ptrdiff_t y_place, ptrdiff_t y_row,
                              int add, Coming *coming) {
    static const int firsts[3][2] = {{0, 30}, {6, 12}, {18, 24}};
    for (int pair = 0; pair < 3; pair++) {
        if (pair == 0)
            NAMED(transform_pair)(0, taps, tap, row, depth, room);
        else if (pair == 1)
            NAMED(transform_pair)(1, taps, tap, row, depth, room);
        else
            NAMED(transform_pair)(2, taps, tap, row, depth, room);
        for (int j = 0; j < 12; j++) {
            ptrdiff_t place = firsts[pair][j / 6] + j % 6;
            fetch_coming(coming);
            NAMED(small_rows)(tiles, depth, x + place * x_place, x_row,
                              room + j * PIECE_STEP(depth), y + place * y_place, y_row, add);
        }
    }
}

/* The gradient of a piece of weights, (3, 3, depth, PANEL) with steps `column` between taps and
   `row` between channels, from the transforms of tiles and panels (place, tile, PANEL) of
   their deltas'. */
static void NAMED(weigh_piece)(const float *x, ptrdiff_t x_place, ptrdiff_t x_row, ptrdiff_t tiles,
                               const float *delta, ptrdiff_t delta_place, ptrdiff_t depth,
                               float *room, float *dweights, ptrdiff_t column, ptrdiff_t row,
                               const Epilogue *after, Coming *coming) {
    const Steps from = {6 * PIECE_STEP(depth), PIECE_STEP(depth), 0};
    const Steps to = {3 * column, column, 0};
    for (int place = 0; place < 36; place++) {
        fetch_coming(coming);
        NAMED(small_columns)(depth, tiles, x + place * x_place, x_row,
                             delta + place * delta_place, room + place * PIECE_STEP(depth),
                             PANEL, 0);
    }
    for (ptrdiff_t c = 0; c < depth; c++)
        NAMED(gradient_4)(room + c * PANEL, from, dweights + c * row, to, 2, after);
}

#undef PIECE_STEP
