/* Pooling with windows of any size and stride, one row of the grid at a time. */

#pragma once

#include "norms.h"

/* The next run from column w on: RUN positions if all their windows are inside the grid, or 1. */
INLINE int next_run(const pooling *p, i64 w, window *win) {
    set_taps(win, p, 2, w);
    i64 end = win->start[2] + (RUN - 1) * p->stride[2] + p->kernel[2];
    return win->first[2] == 0 && end <= p->in[2] && w + RUN <= p->out[2] ? RUN : 1;
}

/* f(..., d, run, vecs) over the channels d of a run, vecs vectors at a time; run and vecs are
 * constants, so that sums stay in registers. */
#define FOR_CHANNELS(f, ...)                                          \
    for (i64 d = 0, vecs; d < p->width; d += vecs * LANES) {          \
        const i64 most = run == RUN ? 2 : 4;                          \
        vecs = d + most * LANES <= p->width ? most : 1;               \
        if (run == RUN && vecs == 2) f(__VA_ARGS__, d, RUN, 2);       \
        if (run == RUN && vecs == 1) f(__VA_ARGS__, d, RUN, 1);       \
        if (run == 1 && vecs == 4) f(__VA_ARGS__, d, 1, 4);           \
        if (run == 1 && vecs == 1) f(__VA_ARGS__, d, 1, 1);           \
    }

/* Channels d to d + vecs * LANES of a run; x + at is the head in the first token of the grid.
 * Forward: pooled[r][d..] <- the sums over all taps of x times weight. Backward: pooled is its
 * gradient, and x times pooled is added to weight, the gradient of the filters. */
INLINE void convolve_channels(const pooling *p, const void *x, i64 at, float *weight,
                              const window *win, float pooled[][MAX_WIDTH], const int is_backward,
                              int is_bf16, i64 d, const int run, const int vecs) {
    const i64 D = p->width, step = p->stride[2] * p->token_stride;
    vec outs[RUN][4];
    for (int r = 0; r < run; r++)
        for (int i = 0; i < vecs; i++)
            outs[r][i] = is_backward ? load(pooled[r] + d + i * LANES) : all(0);
    for (i64 kt = win->first[0]; kt < win->last[0]; kt++)
        for (i64 kh = win->first[1]; kh < win->last[1]; kh++) {
            i64 row = ((win->start[0] + kt) * p->in[1] + win->start[1] + kh) * p->in[2];
            i64 from = at + (row + win->start[2] + win->first[2]) * p->token_stride + d;
            float *w = weight + ((kt * p->kernel[1] + kh) * p->kernel[2] + win->first[2]) * D + d;
            for (i64 kw = win->first[2]; kw < win->last[2]; kw++, from += p->token_stride, w += D)
                for (int i = 0; i < vecs; i++) {
                    vec filter = load(w + i * LANES);
                    for (int r = 0; r < run; r++) {
                        vec one = load_any(x, from + r * step + i * LANES, is_bf16);
                        if (is_backward)
                            filter += outs[r][i] * one;
                        else
                            outs[r][i] += one * filter;
                    }
                    if (is_backward) store(w + i * LANES, filter);
                }
        }
    for (int r = 0; r < run && !is_backward; r++)
        for (int i = 0; i < vecs; i++) store(pooled[r] + d + i * LANES, outs[r][i]);
}

/* One row of the output grid; index counts the rows of all clips. */
INLINE void pool_row(const pooling *p, i64 index, const void *x, const float *weight,
                     const output *out, int is_bf16) {
    const i64 rows = p->out[0] * p->out[1], b = index / rows, row = index % rows;
    float pooled[RUN][MAX_WIDTH];
    window win;
    set_taps(&win, p, 0, row / p->out[1]);
    set_taps(&win, p, 1, row % p->out[1]);
    for (i64 w = 0, run; w < p->out[2]; w += run) {
        run = next_run(p, w, &win);
        for (i64 n = 0; n < p->heads; n++) {
            i64 at = b * p->batch_stride + p->prefix * p->token_stride + n * p->width;
            FOR_CHANNELS(convolve_channels, p, x, at, (float *)weight, &win, pooled, 0, is_bf16)
            for (i64 r = 0; r < run; r++)
                finish(p, out, pooled[r], b, row * p->out[2] + w + r, n, is_bf16);
            if (out->sums)
                FOR_CHANNELS(convolve_channels, p, x, at, out->sums, &win, pooled, 1, is_bf16)
        }
    }
}

/* grad_x of a run of tokens whose windows differ by the column only; channels d on. */
INLINE void spread_channels(const pooling *p, const float *grad_pooled, const float *weight,
                            const windows *in, void *grad_x, i64 to, int is_bf16, i64 d,
                            const int run, const int vecs) {
    const i64 step = p->heads * p->width;
    vec sums[RUN][4];
    for (int r = 0; r < run; r++)
        for (int i = 0; i < vecs; i++) sums[r][i] = all(0);
    for (i64 t = 0; t < in->count[0]; t++)
        for (i64 h = 0; h < in->count[1]; h++) {
            i64 row = (in->outs[0][t] * p->out[1] + in->outs[1][h]) * p->out[2];
            i64 tap = (in->taps[0][t] * p->kernel[1] + in->taps[1][h]) * p->kernel[2];
            for (i64 w = 0; w < in->count[2]; w++) {
                const float *g = grad_pooled + (row + in->outs[2][w]) * step + d;
                const float *filter = weight + (tap + in->taps[2][w]) * p->width + d;
                for (int i = 0; i < vecs; i++) {
                    vec one = load(filter + i * LANES);
                    for (int r = 0; r < run; r++)
                        sums[r][i] += load(g + r * step + i * LANES) * one;
                }
            }
        }
    for (int r = 0; r < run; r++)
        for (int i = 0; i < vecs; i++)
            store_any(grad_x, to + r * p->token_stride + d + i * LANES, sums[r][i], is_bf16);
}

/* grad_x of one row of the input grid; index counts the rows of all clips. */
INLINE void spread_row(const pooling *p, i64 index, const float *weight, const float *grad_pooled,
                       void *grad_x, int is_bf16) {
    const i64 rows = p->in[0] * p->in[1], b = index / rows, row = index % rows;
    const i64 margin = p->kernel[2] / 2; /* of tokens that are in fewer windows than others */
    const i64 D = p->width;
    const float *grads = grad_pooled + b * volume(p->out) * p->heads * D;
    windows in;
    set_windows(&in, p, 0, row / p->in[1]);
    set_windows(&in, p, 1, row % p->in[1]);
    for (i64 w = 0, run; w < p->in[2]; w += run) {
        set_windows(&in, p, 2, w);
        run = p->stride[2] == 1 && w >= margin && w + RUN + margin <= p->in[2] ? RUN : 1;
        i64 to = b * p->batch_stride + (p->prefix + row * p->in[2] + w) * p->token_stride;
        for (i64 n = 0; n < p->heads; n++, to += D) {
            const float *head = grads + n * D;
            FOR_CHANNELS(spread_channels, p, head, weight, &in, grad_x, to, is_bf16)
        }
    }
}
