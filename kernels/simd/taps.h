/* Depthwise convolution: every channel has its own kernel, whose taps are vectors of channels.
   A run of pixels shares its list of taps; each output's sum is taken in the list's order. */

#define TAP_PIXELS 4
#define TAP_BLOCK 3

INLINE void NAMED(taps_block)(const int n, const float *x, ptrdiff_t x_step,
                              const ptrdiff_t *offsets, const float *weights,
                              const ptrdiff_t *places, ptrdiff_t taps, float *y,
                              ptrdiff_t y_step, const float *biases, const Epilogue *after) {
    VEC sum[TAP_PIXELS];
#pragma GCC unroll 4
    for (int p = 0; p < n; p++)
        sum[p] = (VEC){0};
    for (ptrdiff_t t = 0; t < taps; t++) {
        VEC weight = NAMED(load)(weights + places[t]);
#pragma GCC unroll 4
        for (int p = 0; p < n; p++)
            sum[p] += NAMED(load)(x + p * x_step + offsets[t]) * weight;
    }
#pragma GCC unroll 4
    for (int p = 0; p < n; p++)
        NAMED(finish)(sum[p], biases, y + p * y_step, after);
}

static void NAMED(taps)(const float *x, ptrdiff_t x_step, const ptrdiff_t *offsets,
                        const float *weights, const ptrdiff_t *places, ptrdiff_t taps, float *y,
                        ptrdiff_t y_step, ptrdiff_t pixels, ptrdiff_t channels,
                        const Epilogue *after) {
    ptrdiff_t k = 0;
    for (; k + LANES <= channels; k += LANES) {
        const float *biases = after->biases ? after->biases + k : NULL;
        ptrdiff_t p = 0;
        for (; p + TAP_PIXELS <= pixels; p += TAP_PIXELS)
            NAMED(taps_block)(TAP_PIXELS, x + p * x_step + k, x_step, offsets, weights + k, places,
                              taps, y + p * y_step + k, y_step, biases, after);
        for (; p < pixels; p++)
            NAMED(taps_block)(1, x + p * x_step + k, x_step, offsets, weights + k, places, taps,
                              y + p * y_step + k, y_step, biases, after);
    }
    for (; k < channels; k++)
        for (ptrdiff_t p = 0; p < pixels; p++) {
            float *target = y + p * y_step + k, sum = 0;
            for (ptrdiff_t t = 0; t < taps; t++)
                sum += x[p * x_step + offsets[t] + k] * weights[places[t] + k];
            if (after->biases)
                sum += after->biases[k];
            sum = sum > 0 ? sum : sum * after->slope;
            *target = after->add ? *target + sum : sum;
        }
}

INLINE void NAMED(gradient_block)(const int n, const float *x, ptrdiff_t x_step,
                                  const ptrdiff_t *offsets, const ptrdiff_t *places,
                                  const float *dy, ptrdiff_t dy_step, ptrdiff_t pixels,
                                  float *dweights) {
    VEC sum[TAP_BLOCK];
#pragma GCC unroll 3
    for (int t = 0; t < n; t++)
        sum[t] = (VEC){0};
    for (ptrdiff_t p = 0; p < pixels; p++, x += x_step, dy += dy_step) {
        VEC delta = NAMED(load)(dy);
#pragma GCC unroll 3
        for (int t = 0; t < n; t++)
            sum[t] += NAMED(load)(x + offsets[t]) * delta;
    }
#pragma GCC unroll 3
    for (int t = 0; t < n; t++)
        NAMED(store)(dweights + places[t], NAMED(load)(dweights + places[t]) + sum[t]);
}

static void NAMED(taps_gradient)(const float *x, ptrdiff_t x_step, const ptrdiff_t *offsets,
                                 const ptrdiff_t *places, ptrdiff_t taps, const float *dy,
                                 ptrdiff_t dy_step, ptrdiff_t pixels, ptrdiff_t channels,
                                 float *dweights) {
    ptrdiff_t k = 0;
    for (; k + LANES <= channels; k += LANES) {
        ptrdiff_t t = 0;
        for (; t + TAP_BLOCK <= taps; t += TAP_BLOCK)
            NAMED(gradient_block)(TAP_BLOCK, x + k, x_step, offsets + t, places + t, dy + k,
                                  dy_step, pixels, dweights + k);
        for (; t < taps; t++)
            NAMED(gradient_block)(1, x + k, x_step, offsets + t, places + t, dy + k, dy_step,
                                  pixels, dweights + k);
    }
    for (; k < channels; k++)
        for (ptrdiff_t t = 0; t < taps; t++) {
            float sum = 0;
            for (ptrdiff_t p = 0; p < pixels; p++)
                sum += x[p * x_step + offsets[t] + k] * dy[p * dy_step + k];
            dweights[places[t] + k] += sum;
        }
}

#undef TAP_PIXELS
#undef TAP_BLOCK
