/* The outputs of a pooling: as they are, through a LayerNorm, or backward through it. */

#pragma once

#include "grids.h"

/* x - shift, or its square. */
INLINE vec centred(const float *x, float shift, const int squared) {
    const vec difference = load(x) - shift;
    return squared ? difference * difference : difference;
}

/* The sum of x - shift over D numbers, or that of its squares. Four partial sums, so that an
 * addition need not wait for the one before it. */
INLINE float sum_centred(const float *x, i64 D, float shift, const int squared) {
    vec sums[4] = {0};
    i64 d = 0;
    for (; d + 4 * LANES <= D; d += 4 * LANES)
        for (int i = 0; i < 4; i++) sums[i] += centred(x + d + i * LANES, shift, squared);
    for (; d < D; d += LANES) sums[0] += centred(x + d, shift, squared);
    return sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

/* Mean and 1 / standard deviation of D numbers. */
INLINE void moments(const float *x, i64 D, float eps, float *mean, float *rstd) {
    *mean = sum_centred(x, D, 0, 0) / D;
    *rstd = 1.0f / sqrtf(sum_centred(x, D, *mean, 1) / D + eps);
}

INLINE void normalise(const float *x, i64 D, const float *gamma, const float *beta, float eps,
                      void *y, i64 at, int is_bf16) {
    float mean, rstd;
    moments(x, D, eps, &mean, &rstd);
    for (i64 d = 0; d < D; d += LANES)
        store_any(y, at + d, (load(x + d) - mean) * rstd * load(gamma + d) + load(beta + d),
                  is_bf16);
}

/* Backward: x becomes the gradient of x; its contributions are added to the
 * gradients of gamma and beta. */
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

/* The layout of the outputs, and the operands of their norm. */
typedef struct {
    void *y; /* (B, P + OT*OH*OW, N, D); backward, its gradient */
    i64 token_stride, batch_stride;
    const float *gamma, *beta; /* of the LayerNorm; NULL for none */
    float eps;
    float *grad_pooled; /* backward: the gradient of what was pooled, (B, OT*OH*OW, N, D) */
    float *sums;        /* backward: the gradients of filters, gamma and beta, (taps + 2, D) */
} output;

/* Write one head at a place of the output grid, or, backward, replace it by its gradient. Prefix
 * tokens have places below 0. */
INLINE void finish(const pooling *p, const output *out, float *head, i64 b, i64 place, i64 n,
                   int is_bf16) {
    const i64 D = p->width, token = p->prefix + place;
    const i64 at = b * out->batch_stride + token * out->token_stride + n * D;
    if (out->sums) {
        float *grad_gamma = out->sums + volume(p->kernel) * D;
        normalise_backward(head, D, out->gamma, out->eps, out->y, at, grad_gamma, grad_gamma + D,
                           is_bf16);
        if (place >= 0)
            memcpy(out->grad_pooled + ((b * volume(p->out) + place) * p->heads + n) * D, head,
                   D * sizeof(float));
    } else if (out->gamma) {
        normalise(head, D, out->gamma, out->beta, out->eps, out->y, at, is_bf16);
    } else {
        for (i64 d = 0; d < D; d += LANES) store_any(out->y, at + d, load(head + d), is_bf16);
    }
}

/* The prefix tokens of all clips, which are normalised only. Backward, grad_x is their gradient. */
INLINE void finish_prefix(const pooling *p, const void *x, const output *out, void *grad_x,
                          int is_bf16) {
    const i64 N = p->heads, D = p->width;
    for (i64 b = 0; b < p->batch; b++)
        for (i64 i = 0; i < p->prefix * N; i++) {
            float head[MAX_WIDTH];
            const i64 at = b * p->batch_stride + i / N * p->token_stride + i % N * D;
            for (i64 d = 0; d < D; d += LANES) store(head + d, load_any(x, at + d, is_bf16));
            finish(p, out, head, b, i / N - p->prefix, i % N, is_bf16);
            for (i64 d = 0; grad_x && d < D; d += LANES)
                store_any(grad_x, at + d, load(head + d), is_bf16);
        }
}
