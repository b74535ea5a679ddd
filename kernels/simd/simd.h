/* The float32 inner loops, once per instruction set, and the choice among them at run time.

   Each set's loops are the same text, compiled with other vectors: 4 floats on any x86-64
   and any 64-bit Arm, 8 with AVX2 and FMA, 16 with AVX-512. */
#ifndef MPITILE_SIMD_H
#define MPITILE_SIMD_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "rest.h"

/* What is done to a sum before it is stored: add `biases` (one a column), multiply what is
   not positive by `slope`, and with `add` add it to what is there. */
typedef struct {
    const float *biases;
    float slope;
    int add;
} Epilogue;

/* A stretch of a product's inner dimension: `length` elements of each row of a, rows of b. */
typedef struct {
    const float *a;
    const float *b;
    ptrdiff_t length;
} Segment;

/* Lines of 16 floats that are asked for while a product runs, `pace` of them each STRETCH of
   its inner dimension: `rows` times `run` lines, the rows `step` elements apart. */
typedef struct {
    const float *next;
    ptrdiff_t run;
    ptrdiff_t step;
    ptrdiff_t rows;
    ptrdiff_t pace;
    ptrdiff_t line;
} Ahead;

enum { STRETCH = 64 };

/* Channels of a piece of weights' gradient. */
enum { WEIGHING = 8 };

/* Lines that are asked for while products run, up to `pace` of them each time: of nine taps so
   many rows of so many lines. */
typedef struct {
    const float *first;
    const float *next;
    ptrdiff_t tap_step;
    ptrdiff_t row_step;
    ptrdiff_t rows;
    ptrdiff_t run;
    ptrdiff_t pace;
    ptrdiff_t tap;
    ptrdiff_t row;
    ptrdiff_t line;
} Coming;

/* The Winograd maps between one side of a tile and its transform. */
enum { MAP_INPUT, MAP_OUTPUT, MAP_DELTA, MAP_WEIGHTS, MAP_GRADIENT, MAPS };
/* Those of a tile's cells come first. The input's adjoint adds to cells, in a loop of its own. */
enum { EDGE_MAPS = MAP_DELTA + 1, MAP_SCATTER = MAPS };

/* Steps in elements: between rows, between columns, and of vectors of channels: from each second
   one to the next such, and to the one between. */
typedef struct {
    ptrdiff_t row;
    ptrdiff_t column;
    ptrdiff_t pair;
    ptrdiff_t odd;
} Steps;

/* Of the cells that a tile is computed from, the rows and columns that lie in a box; and where to
   add: in the first `shared_rows` and `shared_columns`. Other cells are written. */
typedef struct {
    ptrdiff_t top;
    ptrdiff_t bottom;
    ptrdiff_t left;
    ptrdiff_t right;
    ptrdiff_t shared_rows;
    ptrdiff_t shared_columns;
} Patch;

typedef void (*TransformLoop)(const float *in, Steps from, float *out, Steps to,
                              ptrdiff_t vectors, const Epilogue *after);
/* The same of a tile of so many rows and columns, at most 4. */
typedef void (*EdgeLoop)(ptrdiff_t rows, ptrdiff_t columns, const float *in, Steps from,
                         float *out, Steps to, ptrdiff_t vectors, const Epilogue *after);

typedef struct {
    const char *name;
    ptrdiff_t vector; /* floats of a vector */
    ptrdiff_t panel;  /* columns of a panel of b */
    ptrdiff_t piece;  /* channels of a piece of weights that `pass_piece` takes */
    /* c (m, n) = sum over segments of a (m, length) times b (length, n <= panel). In
       `rows_product` a row's elements are contiguous and rows are `a_step` apart; in
       `columns_product` it is the other way round. `ahead` may be NULL. */
    void (*rows_product)(ptrdiff_t m, ptrdiff_t n, const Segment *segments, ptrdiff_t count,
                         ptrdiff_t a_step, ptrdiff_t b_step, float *c, ptrdiff_t c_step,
                         const Epilogue *after, Ahead *ahead);
    void (*columns_product)(ptrdiff_t m, ptrdiff_t n, const Segment *segments, ptrdiff_t count,
                            ptrdiff_t a_step, ptrdiff_t b_step, float *c, ptrdiff_t c_step,
                            const Epilogue *after, Ahead *ahead);
    /* A panel (rows, panel) of `columns`, at most a panel's, zeros behind them; the source's
       rows are `step` apart. */
    void (*pack)(const float *source, ptrdiff_t step, ptrdiff_t rows, ptrdiff_t columns,
                 float *panel);
    /* Rows of whole vectors, one after the other, to rows `step` apart, or added to them. */
    void (*spread)(const float *source, ptrdiff_t rows, ptrdiff_t columns, float *target,
                   ptrdiff_t step, int add);
    /* target (columns, rows) from source (rows, columns), whose rows are `to` and `from` apart. */
    void (*transpose)(const float *source, ptrdiff_t from, ptrdiff_t rows, ptrdiff_t columns,
                      float *target, ptrdiff_t to);
    /* [0] for output tiles of 2x2 cells, [1] for 4x4; by map. */
    TransformLoop transforms[2][MAPS];
    EdgeLoop edges[EDGE_MAPS];
    /* The adjoint of F(4x4, 3x3)'s input map, for a tile of so many rows and columns, to so many
       channels of the cells that it is computed from, the first of which is at `out`. */
    void (*scatter)(ptrdiff_t rows, ptrdiff_t columns, const float *in, Steps from, float *out,
                    Steps to, ptrdiff_t channels, const Patch *patch);
    /* A piece of weights of F(4x4, 3x3), or of their gradient, as simd/pieces.h has it. */
    void (*pass_piece)(const float *taps, ptrdiff_t tap, ptrdiff_t row, ptrdiff_t depth,
                       float *room, const float *x, const Spans *spans, float *y, int add,
                       Coming *coming);
    void (*weigh_piece)(const float *x, const Spans *spans, const float *delta,
                        ptrdiff_t depth, float *room, float *dweights, ptrdiff_t column,
                        ptrdiff_t row, int add, Coming *coming);
    /* dy *= slope where y <= 0; `sums`, if not NULL, gets the sums of each channel added. */
    void (*derive)(float *dy, const float *y, ptrdiff_t pixels, ptrdiff_t channels,
                   float slope, float *sums);
    /* One window: the first largest of `cells` cells, by channel, and its place. */
    void (*largest)(const float *x, const ptrdiff_t *offsets, const uint8_t *places,
                    ptrdiff_t cells, ptrdiff_t channels, float *y, uint8_t *argmax);
    /* Its adjoint: dy goes to the cell of its place, zero to the others. */
    void (*give_back)(const float *dy, const uint8_t *argmax, const ptrdiff_t *offsets,
                      const uint8_t *places, ptrdiff_t cells, ptrdiff_t channels, float *dx,
                      int add);
    /* Batch norm, a row of pixels at a time; sums by channel are added to. */
    void (*sums)(const float *x, ptrdiff_t pixels, ptrdiff_t channels, double *total);
    /* of (x - mean)^2 */
    void (*squares)(const float *x, const double *mean, ptrdiff_t pixels, ptrdiff_t channels,
                    double *square);
    /* of dy, and of dy (x - mean) */
    void (*products)(const float *dy, const float *x, const double *mean, ptrdiff_t pixels,
                     ptrdiff_t channels, double *total, double *product);
    /* y = (x - mean) factor + biases, times slope where that is not positive */
    void (*normalize)(const float *x, float *y, const float *mean, const float *factor,
                      const float *biases, float slope, ptrdiff_t pixels, ptrdiff_t channels);
    /* dy = (dy - shift - (x - mean) tilt) factor */
    void (*centre)(float *dy, const float *x, const float *mean, const float *factor,
                   const float *shift, const float *tilt, ptrdiff_t pixels,
                   ptrdiff_t channels);
    /* Pixels of a depthwise convolution: y = sum over taps of x[offset] weights[place]. */
    void (*taps)(const float *x, ptrdiff_t x_step, const ptrdiff_t *offsets,
                 const float *weights, const ptrdiff_t *places, ptrdiff_t taps, float *y,
                 ptrdiff_t y_step, ptrdiff_t pixels, ptrdiff_t channels, const Epilogue *after);
    /* dweights[place] += sum over pixels of x[offset] dy */
    void (*taps_gradient)(const float *x, ptrdiff_t x_step, const ptrdiff_t *offsets,
                          const ptrdiff_t *places, ptrdiff_t taps, const float *dy,
                          ptrdiff_t dy_step, ptrdiff_t pixels, ptrdiff_t channels,
                          float *dweights);
} Simd;

#define INLINE static inline __attribute__((always_inline))
#define JOIN_(a, b) a##_##b
#define JOIN(a, b) JOIN_(a, b)
#define NAMED(name) JOIN(name, SET)

/* Ask for memory that will be read soon, into L2: rows of weights are apart by powers of two,
   and a few dozen would throw each other out of L1. */
static inline void fetch(const float *p, ptrdiff_t elements) {
    for (ptrdiff_t i = 0; i < elements; i += 16)
        __builtin_prefetch(p + i, 0, 2);
}

/* Returns the length of the stretch of a product that may follow. */
INLINE ptrdiff_t fetch_ahead(Ahead *p, ptrdiff_t rest) {
    if (!p || !p->rows)
        return rest;
    for (ptrdiff_t i = 0; i < p->pace && p->rows; i++) {
        __builtin_prefetch(p->next + 16 * p->line, 0, 2);
        if (++p->line == p->run) {
            p->line = 0;
            p->next += p->step;
            p->rows--;
        }
    }
    return rest < STRETCH ? rest : STRETCH;
}

static inline void fetch_coming(Coming *p) {
    if (p->tap == 9)
        return;
    for (ptrdiff_t i = 0; i < p->pace; i++)
        __builtin_prefetch(p->next + 16 * i, 0, 2);
    p->next += 16 * p->pace;
    p->line += p->pace;
    if (p->line < p->run)
        return;
    p->line = 0;
    if (++p->row == p->rows) {
        p->row = 0;
        p->tap++;
    }
    p->next = p->first + p->tap * p->tap_step + p->row * p->row_step;
}

/* Baseline: SSE2, or NEON on Arm, which has twice the registers. */
#define SET baseline
#define LANES 4
#ifdef __aarch64__
#define TALLEST 12
#else
#define TALLEST 6
#endif
#include "loops.h"
#undef SET
#undef LANES
#undef TALLEST

#if defined(__x86_64__)

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
#define SET avx2
#define LANES 8
#define TALLEST 6
#include "loops.h"
#undef SET
#undef LANES
#undef TALLEST
#if defined(__clang__)
#pragma clang attribute pop
#pragma clang attribute push( \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma"))), \
    apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")
#endif
#define SET avx512
#define LANES 16
#define TALLEST 14
#include "loops.h"
#undef SET
#undef LANES
#undef TALLEST
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif

/* The fastest set that this CPU has, or the one of this name; NULL if it has it not. */
static inline const Simd *simd_named(const char *name) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    int avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    int avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                 __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    if (avx512 && (!name || !strcmp(name, "avx512")))
        return &simd_avx512;
    if (avx2 && (!name || !strcmp(name, "avx2")))
        return &simd_avx2;
#endif
    if (!name || !strcmp(name, "baseline"))
        return &simd_baseline;
    return NULL;
}

#endif
