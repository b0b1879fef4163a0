/* LayerNorm of one head, forward and backward. */

#pragma once

#include "vectors.h"

/* Mean and 1 / standard deviation of D numbers. Four sums, so that an addition need not wait for the
 * one before it. */
INLINE void moments(const float *x, i64 D, float eps, float *mean, float *rstd) {
    vec totals[4] = {0}, squares[4] = {0};
    i64 d = 0;
    for (; d + 4 * LANES <= D; d += 4 * LANES)
        for (int i = 0; i < 4; i++) totals[i] += load(x + d + i * LANES);
    for (; d < D; d += LANES) totals[0] += load(x + d);
    *mean = sum((totals[0] + totals[1]) + (totals[2] + totals[3])) / D;
    for (d = 0; d + 4 * LANES <= D; d += 4 * LANES)
        for (int i = 0; i < 4; i++) {
            vec centred = load(x + d + i * LANES) - *mean;
            squares[i] += centred * centred;
        }
    for (; d < D; d += LANES) {
        vec centred = load(x + d) - *mean;
        squares[0] += centred * centred;
    }
    *rstd = 1.0f / sqrtf(sum((squares[0] + squares[1]) + (squares[2] + squares[3])) / D + eps);
}

INLINE void normalise(const float *x, i64 D, const float *gamma, const float *beta, float eps,
                      void *y, i64 at, int is_bf16) {
    float mean, rstd;
    moments(x, D, eps, &mean, &rstd);
    for (i64 d = 0; d < D; d += LANES)
        store_any(y, at + d, (load(x + d) - mean) * rstd * load(gamma + d) + load(beta + d),
                  is_bf16);
}

/* Through the LayerNorm of one head: x becomes the gradient of x; gradients of gamma and beta are
 * added to. */
INLINE void normalise_backward(float *x, i64 D, const float *gamma, float eps, const void *grad_y,
                               i64 at, float *grad_gamma, float *grad_beta, int is_bf16) {
    float mean, rstd;
    moments(x, D, eps, &mean, &rstd);
    vec total = all(0), along = all(0);
    for (i64 d = 0; d < D; d += LANES) {
        vec g = load_any(grad_y, at + d, is_bf16), unit = (load(x + d) - mean) * rstd;
        store(grad_gamma + d, load(grad_gamma + d) + g * unit);
        store(grad_beta + d, load(grad_beta + d) + g);
        g *= load(gamma + d);
        total += g;
        along += g * unit;
    }
    float mean_total = sum(total) / D, mean_along = sum(along) / D;
    for (i64 d = 0; d < D; d += LANES) {
        vec g = load_any(grad_y, at + d, is_bf16) * load(gamma + d);
        vec unit = (load(x + d) - mean) * rstd;
        store(x + d, (g - mean_total - unit * mean_along) * rstd);
    }
}
