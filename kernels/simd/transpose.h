/* Transposition of float32 matrices by squares of LANES rows: first within quads of lanes, then
   of the quads, which is what instruction sets have instructions for. */

#if LANES == 4
#define EACH(F) F(0), F(1), F(2), F(3)
#elif LANES == 8
#define EACH(F) F(0), F(1), F(2), F(3), F(4), F(5), F(6), F(7)
#elif LANES == 16
#define EACH(F)                                                                             \
    F(0), F(1), F(2), F(3), F(4), F(5), F(6), F(7), F(8), F(9), F(10), F(11), F(12), F(13), \
        F(14), F(15)
#endif
#if defined(__clang__)
#define MIX(a, b, F) __builtin_shufflevector(a, b, EACH(F))
#else
#define MIX(a, b, F) __builtin_shuffle(a, b, (MASK){EACH(F)})
#endif
/* Lanes of a, and after them of b, that a lane takes: of each quad's first or second half one by
   one, or such a half; of each whole its first or second half, or its even or odd quads. */
#define ZIP_FIRST(lane) (lane) / 4 * 4 + (lane) % 4 / 2 + (lane) % 2 * LANES
#define ZIP_SECOND(lane) ZIP_FIRST(lane) + 2
#define PAIR_FIRST(lane) (lane) % 4 < 2 ? (lane) : LANES + (lane) - 2
#define PAIR_SECOND(lane) (lane) % 4 < 2 ? (lane) + 2 : LANES + (lane)
#define HALF_FIRST(lane) (lane) < LANES / 2 ? (lane) : (lane) + LANES / 2
#define HALF_SECOND(lane) (lane) < LANES / 2 ? (lane) + LANES / 2 : (lane) + LANES
#define QUADS_EVEN(lane) (lane) / 4 * 8 + (lane) % 4
#define QUADS_ODD(lane) QUADS_EVEN(lane) + 4

/* Inlined, the rows' steps would be computed ahead of loops that hardly turn, and spilled. */
static __attribute__((noinline)) void NAMED(transpose_square)(const float *source, ptrdiff_t from,
                                                              float *target, ptrdiff_t to) {
    VEC v[LANES];
#pragma GCC unroll 4
    for (int i = 0; i < LANES; i += 4) {
        VEC a = NAMED(load)(source + i * from), b = NAMED(load)(source + (i + 1) * from);
        VEC c = NAMED(load)(source + (i + 2) * from), d = NAMED(load)(source + (i + 3) * from);
        VEC ab = MIX(a, b, ZIP_FIRST), ab_high = MIX(a, b, ZIP_SECOND);
        VEC cd = MIX(c, d, ZIP_FIRST), cd_high = MIX(c, d, ZIP_SECOND);
        v[i] = MIX(ab, cd, PAIR_FIRST);
        v[i + 1] = MIX(ab, cd, PAIR_SECOND);
        v[i + 2] = MIX(ab_high, cd_high, PAIR_FIRST);
        v[i + 3] = MIX(ab_high, cd_high, PAIR_SECOND);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
#if LANES == 4
        NAMED(store)(target + i * to, v[i]);
#elif LANES == 8
        NAMED(store)(target + i * to, MIX(v[i], v[i + 4], HALF_FIRST));
        NAMED(store)(target + (i + 4) * to, MIX(v[i], v[i + 4], HALF_SECOND));
#else
        VEC a = MIX(v[i], v[i + 4], HALF_FIRST), b = MIX(v[i], v[i + 4], HALF_SECOND);
        VEC c = MIX(v[i + 8], v[i + 12], HALF_FIRST), d = MIX(v[i + 8], v[i + 12], HALF_SECOND);
        NAMED(store)(target + i * to, MIX(a, c, QUADS_EVEN));
        NAMED(store)(target + (i + 4) * to, MIX(a, c, QUADS_ODD));
        NAMED(store)(target + (i + 8) * to, MIX(b, d, QUADS_EVEN));
        NAMED(store)(target + (i + 12) * to, MIX(b, d, QUADS_ODD));
#endif
    }
}

/* target (columns, rows) from source (rows, columns), whose rows are `to` and `from` apart.
   Sixteen rows at a time: more would fight for the same cache sets. */
static void NAMED(transpose)(const float *source, ptrdiff_t from, ptrdiff_t rows,
                             ptrdiff_t columns, float *target, ptrdiff_t to) {
    for (ptrdiff_t first = 0; first < rows; first += 16) {
        ptrdiff_t end = first + 16 < rows ? first + 16 : rows;
        for (ptrdiff_t j = 0; j < columns; j += LANES) {
            ptrdiff_t i = first;
            if (j + LANES <= columns)
                for (; i + LANES <= end; i += LANES)
                    NAMED(transpose_square)(source + i * from + j, from, target + j * to + i, to);
            for (; i < end; i++)
                for (ptrdiff_t k = j; k < columns && k < j + LANES; k++)
                    target[k * to + i] = source[i * from + k];
        }
    }
}

#undef EACH
#undef MIX
#undef ZIP_FIRST
#undef ZIP_SECOND
#undef PAIR_FIRST
#undef PAIR_SECOND
#undef HALF_FIRST
#undef HALF_SECOND
#undef QUADS_EVEN
#undef QUADS_ODD
