/* Batch norm's loops over a row of pixels. Sums are taken in double precision and stay in
   registers along the row. */

#define HALF (LANES / 2)
#define WIDE NAMED(wide)
#define NARROW NAMED(narrow)

typedef double WIDE __attribute__((vector_size(4 * LANES)));
typedef double NAMED(wide_loose)
    __attribute__((vector_size(4 * LANES), aligned(8), may_alias));
typedef float NARROW __attribute__((vector_size(2 * LANES), aligned(4), may_alias));

INLINE WIDE NAMED(widen)(const float *p) {
    return __builtin_convertvector(*(const NARROW *)p, WIDE);
}
INLINE WIDE NAMED(load_wide)(const double *p) { return *(const NAMED(wide_loose) *)p; }
INLINE void NAMED(add_wide)(double *p, WIDE v) { *(NAMED(wide_loose) *)p += v; }

/* Runs BODY for groups of so many half vectors of channels, then for single ones; K names the
   first channel. */
#define GROUPS(K, BODY)                                                    \
    do {                                                                   \
        ptrdiff_t K = 0;                                                   \
        for (; K + 4 * HALF <= channels; K += 4 * HALF)                    \
            BODY(4, K);                                                    \
        for (; K + HALF <= channels; K += HALF)                            \
            BODY(1, K);                                                    \
        rest = K;                                                          \
    } while (0)

INLINE void NAMED(sums_group)(const int n, const float *x, ptrdiff_t pixels, ptrdiff_t channels,
                              double *total) {
    WIDE sum[4];
#pragma GCC unroll 4
    for (int j = 0; j < n; j++)
        sum[j] = (WIDE){0};
    for (ptrdiff_t i = 0; i < pixels; i++, x += channels)
#pragma GCC unroll 4
        for (int j = 0; j < n; j++)
            sum[j] += NAMED(widen)(x + j * HALF);
#pragma GCC unroll 4
    for (int j = 0; j < n; j++)
        NAMED(add_wide)(total + j * HALF, sum[j]);
}

static void NAMED(sums)(const float *x, ptrdiff_t pixels, ptrdiff_t channels, double *total) {
    ptrdiff_t rest;
#define BODY(n, k) NAMED(sums_group)(n, x + k, pixels, channels, total + k)
    GROUPS(k, BODY);
#undef BODY
    for (ptrdiff_t i = 0; i < pixels; i++, x += channels)
        for (ptrdiff_t k = rest; k < channels; k++)
            total[k] += x[k];
}

INLINE void NAMED(squares_group)(const int n, const float *x, const double *mean,
                                 ptrdiff_t pixels, ptrdiff_t channels, double *square) {
    WIDE sum[4], middle[4];
#pragma GCC unroll 4
    for (int j = 0; j < n; j++) {
        sum[j] = (WIDE){0};
        middle[j] = NAMED(load_wide)(mean + j * HALF);
    }
    for (ptrdiff_t i = 0; i < pixels; i++, x += channels)
#pragma GCC unroll 4
        for (int j = 0; j < n; j++) {
            WIDE value = NAMED(widen)(x + j * HALF) - middle[j];
            sum[j] += value * value;
        }
#pragma GCC unroll 4
    for (int j = 0; j < n; j++)
        NAMED(add_wide)(square + j * HALF, sum[j]);
}

static void NAMED(squares)(const float *x, const double *mean, ptrdiff_t pixels,
                           ptrdiff_t channels, double *square) {
    ptrdiff_t rest;
#define BODY(n, k) NAMED(squares_group)(n, x + k, mean + k, pixels, channels, square + k)
    GROUPS(k, BODY);
#undef BODY
    for (ptrdiff_t i = 0; i < pixels; i++, x += channels)
        for (ptrdiff_t k = rest; k < channels; k++)
            square[k] += (x[k] - mean[k]) * (x[k] - mean[k]);
}

INLINE void NAMED(products_group)(const int n, const float *dy, const float *x,
                                  const double *mean, ptrdiff_t pixels, ptrdiff_t channels,
                                  double *total, double *product) {
    WIDE sum[4], weighted[4], middle[4];
#pragma GCC unroll 4
    for (int j = 0; j < n; j++) {
        sum[j] = weighted[j] = (WIDE){0};
        middle[j] = NAMED(load_wide)(mean + j * HALF);
    }
    for (ptrdiff_t i = 0; i < pixels; i++, dy += channels, x += channels)
#pragma GCC unroll 4
        for (int j = 0; j < n; j++) {
            WIDE value = NAMED(widen)(dy + j * HALF);
            sum[j] += value;
            weighted[j] += value * (NAMED(widen)(x + j * HALF) - middle[j]);
        }
#pragma GCC unroll 4
    for (int j = 0; j < n; j++) {
        NAMED(add_wide)(total + j * HALF, sum[j]);
        NAMED(add_wide)(product + j * HALF, weighted[j]);
    }
}

static void NAMED(products)(const float *dy, const float *x, const double *mean,
                            ptrdiff_t pixels, ptrdiff_t channels, double *total,
                            double *product) {
    ptrdiff_t rest;
#define BODY(n, k)                                                                           \
    NAMED(products_group)(n, dy + k, x + k, mean + k, pixels, channels, total + k, product + k)
    GROUPS(k, BODY);
#undef BODY
    for (ptrdiff_t i = 0; i < pixels; i++, dy += channels, x += channels)
        for (ptrdiff_t k = rest; k < channels; k++) {
            total[k] += dy[k];
            product[k] += dy[k] * (x[k] - mean[k]);
        }
}

static void NAMED(normalize)(const float *x, float *y, const float *mean, const float *factor,
                             const float *biases, float slope, ptrdiff_t pixels,
                             ptrdiff_t channels) {
    for (ptrdiff_t i = 0; i < pixels; i++, x += channels, y += channels) {
        ptrdiff_t k = 0;
        for (; k + LANES <= channels; k += LANES) {
            VEC value = (NAMED(load)(x + k) - NAMED(load)(mean + k)) * NAMED(load)(factor + k) +
                        NAMED(load)(biases + k);
            NAMED(store)(y + k, NAMED(activated)(value, slope));
        }
        for (; k < channels; k++) {
            float value = (x[k] - mean[k]) * factor[k] + biases[k];
            y[k] = value > 0 ? value : value * slope;
        }
    }
}

static void NAMED(centre)(float *dy, const float *x, const float *mean, const float *factor,
                          const float *shift, const float *tilt, ptrdiff_t pixels,
                          ptrdiff_t channels) {
    for (ptrdiff_t i = 0; i < pixels; i++, dy += channels, x += channels) {
        ptrdiff_t k = 0;
        for (; k + LANES <= channels; k += LANES) {
            VEC off = (NAMED(load)(x + k) - NAMED(load)(mean + k)) * NAMED(load)(tilt + k);
            VEC value = NAMED(load)(dy + k) - NAMED(load)(shift + k) - off;
            NAMED(store)(dy + k, value * NAMED(load)(factor + k));
        }
        for (; k < channels; k++)
            dy[k] = (dy[k] - shift[k] - (x[k] - mean[k]) * tilt[k]) * factor[k];
    }
}

#undef HALF
#undef WIDE
#undef NARROW
#undef GROUPS
