/* What is done element by element: the activation's derivative and max-pool windows. */

static void NAMED(derive)(float *dy, const float *y, ptrdiff_t pixels, ptrdiff_t channels,
                          float slope, float *sums) {
    for (ptrdiff_t i = 0; i < pixels; i++) {
        ptrdiff_t k = 0;
        for (; k + LANES <= channels; k += LANES) {
            VEC value = NAMED(load)(dy + k);
            value = NAMED(pick)(NAMED(load)(y + k) > (VEC){0}, value, value * slope);
            NAMED(store)(dy + k, value);
            if (sums)
                NAMED(store)(sums + k, NAMED(load)(sums + k) + value);
        }
        for (; k < channels; k++) {
            dy[k] *= y[k] > 0 ? 1 : slope;
            if (sums)
                sums[k] += dy[k];
        }
        dy += channels;
        y += channels;
    }
}

static void NAMED(largest)(const float *x, const ptrdiff_t *offsets, const uint8_t *places,
                           ptrdiff_t cells, ptrdiff_t channels, float *y, uint8_t *argmax) {
    ptrdiff_t k = 0;
    for (; k + LANES <= channels; k += LANES) {
        VEC best = NAMED(load)(x + offsets[0] + k);
        MASK place = (MASK){0} + places[0];
        for (ptrdiff_t i = 1; i < cells; i++) {
            VEC value = NAMED(load)(x + offsets[i] + k);
            MASK more = value > best;
            best = NAMED(pick)(more, value, best);
            place = (more & places[i]) | (~more & place);
        }
        NAMED(store)(y + k, best);
        *(BYTES *)(argmax + k) = __builtin_convertvector(place, BYTES);
    }
    for (; k < channels; k++) {
        y[k] = x[offsets[0] + k];
        argmax[k] = places[0];
        for (ptrdiff_t i = 1; i < cells; i++)
            if (x[offsets[i] + k] > y[k]) {
                y[k] = x[offsets[i] + k];
                argmax[k] = places[i];
            }
    }
}

static void NAMED(give_back)(const float *dy, const uint8_t *argmax, const ptrdiff_t *offsets,
                             const uint8_t *places, ptrdiff_t cells, ptrdiff_t channels,
                             float *dx, int add) {
    ptrdiff_t k = 0;
    for (; k + LANES <= channels; k += LANES) {
        VEC value = NAMED(load)(dy + k);
        MASK place = __builtin_convertvector(*(const BYTES *)(argmax + k), MASK);
        for (ptrdiff_t i = 0; i < cells; i++) {
            float *cell = dx + offsets[i] + k;
            VEC share = NAMED(pick)(place == (int32_t)places[i], value, (VEC){0});
            NAMED(store)(cell, add ? NAMED(load)(cell) + share : share);
        }
    }
    for (; k < channels; k++)
        for (ptrdiff_t i = 0; i < cells; i++) {
            float *cell = dx + offsets[i] + k;
            *cell = (add ? *cell : 0) + (argmax[k] == places[i] ? dy[k] : 0);
        }
}
