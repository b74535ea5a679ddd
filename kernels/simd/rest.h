/* Winograd's maps for what is left of a box behind its last whole tile of 4x4 cells: r = 1, 2 or
   3 rows (columns), as F(r, 3) on the first r + 2 of F(4, 3)'s points 0, 1, -1, 2, -2. The
   weights' transform is then a part of F(4, 3)'s: it does not depend on the other points.

   Toom and Cook's multiplication, transposed (Lavin and Gray, arXiv 1509.09308): with
   n_i = product over j != i of (a_i - a_j), row i of the input's map has the coefficients, by
   power of x, of the product over j != i of (x - a_j), and column i of the output's map has
   a_i^k / n_i. The delta's map is the output's, transposed. */
#ifndef MPITILE_REST_H
#define MPITILE_REST_H

static const float rest_input[3][5][5] = {
    {{-1, 0, 1}, {0, 1, 1}, {0, -1, 1}},
    {{2, -1, -2, 1}, {0, -2, -1, 1}, {0, 2, -3, 1}, {0, -1, 0, 1}},
    {{4, 0, -5, 0, 1}, {0, -4, -4, 1, 1}, {0, 4, -4, -1, 1}, {0, -2, -1, 2, 1}, {0, 2, -1, -2, 1}},
};

static const float rest_output[3][3][5] = {
    {{-1, 1 / 2.0f, 1 / 2.0f}},
    {{1 / 2.0f, -1 / 2.0f, -1 / 6.0f, 1 / 6.0f}, {0, -1 / 2.0f, 1 / 6.0f, 1 / 3.0f}},
    {{1 / 4.0f, -1 / 6.0f, -1 / 6.0f, 1 / 24.0f, 1 / 24.0f},
     {0, -1 / 6.0f, 1 / 6.0f, 1 / 12.0f, -1 / 12.0f},
     {0, -1 / 6.0f, -1 / 6.0f, 1 / 6.0f, 1 / 6.0f}},
};

/* Which tiles take part in the product of a place. Tiles lie in this order: those left at the
   bottom with all columns, the whole ones, those left on the right with all rows, those left in
   the corner. `rows` and `columns` are the places that tiles left at the bottom, or on the
   right, have in their direction; there may be none of any kind. */
typedef struct {
    ptrdiff_t rows;
    ptrdiff_t columns;
    ptrdiff_t bottom;
    ptrdiff_t whole;
    ptrdiff_t right;
    ptrdiff_t tiles; /* of all kinds */
} Spans;

typedef struct {
    ptrdiff_t first;
    ptrdiff_t count;
} Span;

/* Of the place in a row and a column of the transform. */
static inline Span span(const Spans *s, ptrdiff_t row, ptrdiff_t column) {
    Span tiles = {row < s->rows ? 0 : s->bottom, s->bottom + s->whole};
    if (column < s->columns)
        tiles.count = row < s->rows ? s->tiles : tiles.count + s->right;
    tiles.count -= tiles.first;
    return tiles;
}

#endif
