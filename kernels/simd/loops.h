/* One instruction set's loops: SET names it, LANES is its vector's length in floats and
   TALLEST the rows of its product kernel. Included once a set, hence no guard. */

#define VEC NAMED(vec)
#define LOOSE NAMED(loose)
#define MASK NAMED(mask)
#define BYTES NAMED(bytes)

typedef float VEC __attribute__((vector_size(4 * LANES)));
/* The same in memory, at any address. */
typedef float LOOSE __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t MASK __attribute__((vector_size(4 * LANES)));
typedef uint8_t BYTES __attribute__((vector_size(LANES), aligned(1), may_alias));

INLINE VEC NAMED(load)(const float *p) { return *(const LOOSE *)p; }
INLINE void NAMED(store)(float *p, VEC v) { *(LOOSE *)p = v; }
/* yes where the mask is set, no elsewhere */
INLINE VEC NAMED(pick)(MASK mask, VEC yes, VEC no) {
    return (VEC)((mask & (MASK)yes) | (~mask & (MASK)no));
}
INLINE VEC NAMED(activated)(VEC v, float slope) {
    return NAMED(pick)(v > (VEC){0}, v, v * slope);
}

#include "products.h"
#include "transpose.h"
#include "transforms.h"
#include "edges.h"
#include "scatter.h"
#include "pieces.h"
#include "elements.h"
#include "statistics.h"
#include "taps.h"

static const Simd NAMED(simd) = {
    .vector = LANES,
    .panel = PANEL,
    .piece = PIECE,
#define TEXT_(name) #name
#define TEXT(name) TEXT_(name)
    .name = TEXT(SET),
#undef TEXT
#undef TEXT_
    .rows_product = NAMED(rows_product),
    .columns_product = NAMED(columns_product),
    .pack = NAMED(pack),
    .spread = NAMED(spread),
    .transpose = NAMED(transpose),
    .transforms = {{NAMED(input_2), NAMED(output_2), NAMED(delta_2), NAMED(weights_2),
                    NAMED(gradient_2)},
                   {NAMED(input_4), NAMED(output_4), NAMED(delta_4), NAMED(weights_4),
                    NAMED(gradient_4)}},
    .edges = {NAMED(input_edge), NAMED(output_edge), NAMED(delta_edge)},
    .scatter = NAMED(scatter),
    .pass_piece = NAMED(pass_piece),
    .weigh_piece = NAMED(weigh_piece),
    .derive = NAMED(derive),
    .largest = NAMED(largest),
    .give_back = NAMED(give_back),
    .sums = NAMED(sums),
    .squares = NAMED(squares),
    .products = NAMED(products),
    .normalize = NAMED(normalize),
    .centre = NAMED(centre),
    .taps = NAMED(taps),
    .taps_gradient = NAMED(taps_gradient),
};

#undef EDGE_TAKEN
#undef EDGE_GIVEN
#undef PANEL
#undef PIECE
#undef VEC
#undef LOOSE
#undef MASK
#undef BYTES
