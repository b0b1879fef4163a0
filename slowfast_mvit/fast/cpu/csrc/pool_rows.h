/* Pooling with windows of any size and stride, a row of the grid at a time. */

#pragma once

#include "grids.h"
#include "norms.h"

/* The next run from column w on: RUN positions if the whole window of each is on the grid, or 1. */
INLINE int next_run(const pooling *p, i64 w, window *at) {
    taps_of(w, 2, p, at->start + 2, at->first + 2, at->last + 2);
    i64 end = at->start[2] + (RUN - 1) * p->stride[2] + p->kernel[2];
    return at->first[2] == 0 && end <= p->in[2] && w + RUN <= p->out[2] ? RUN : 1;
}

/* Channels d to d + vecs * LANES of a run: pooled[r][d..]; x + at is the head in the grid's first
 * token. The sums stay in registers over all taps. */
INLINE void pool_channels(const pooling *p, const void *x, i64 at, const float *weight,
                          const window *win, float pooled[][MAX_WIDTH], i64 d, const int run,
                          const int vecs, int is_bf16) {
    const i64 D = p->width, step = p->stride[2] * p->token_stride;
    vec sums[RUN][4];
    for (int r = 0; r < run; r++)
        for (int i = 0; i < vecs; i++) sums[r][i] = all(0);
    for (i64 kt = win->first[0]; kt < win->last[0]; kt++)
        for (i64 kh = win->first[1]; kh < win->last[1]; kh++) {
            i64 row = ((win->start[0] + kt) * p->in[1] + win->start[1] + kh) * p->in[2];
            i64 from = at + (row + win->start[2] + win->first[2]) * p->token_stride + d;
            const float *w = weight + ((kt * p->kernel[1] + kh) * p->kernel[2] + win->first[2]) * D;
            for (i64 kw = win->first[2]; kw < win->last[2]; kw++, from += p->token_stride, w += D)
                for (int i = 0; i < vecs; i++) {
                    vec filter = load(w + d + i * LANES);
                    for (int r = 0; r < run; r++)
                        sums[r][i] += load_any(x, from + r * step + i * LANES, is_bf16) * filter;
                }
        }
    for (int r = 0; r < run; r++)
        for (int i = 0; i < vecs; i++) store(pooled[r] + d + i * LANES, sums[r][i]);
}

/* pooled[r][0..D) of one head at the positions of a run. */
INLINE void pool_run(const pooling *p, const void *x, i64 at, const float *weight,
                     const window *win, float pooled[][MAX_WIDTH], int run, int is_bf16) {
    i64 d = 0;
    if (run == RUN) {
        for (; d + 2 * LANES <= p->width; d += 2 * LANES)
            pool_channels(p, x, at, weight, win, pooled, d, RUN, 2, is_bf16);
        for (; d < p->width; d += LANES)
            pool_channels(p, x, at, weight, win, pooled, d, RUN, 1, is_bf16);
    } else {
        for (; d + 4 * LANES <= p->width; d += 4 * LANES)
            pool_channels(p, x, at, weight, win, pooled, d, 1, 4, is_bf16);
        for (; d < p->width; d += LANES)
            pool_channels(p, x, at, weight, win, pooled, d, 1, 1, is_bf16);
    }
}

/* What comes before the grid of clip b: the token itself instead of pooled ones. */
INLINE void copy_head(const void *x, i64 at, i64 D, float *to, int is_bf16) {
    for (i64 d = 0; d < D; d += LANES) store(to + d, load_any(x, at + d, is_bf16));
}

/* Rows of the output grid, one of each clip after the other: y of row number index. */
INLINE void pool_row(const pooling *p, i64 index, const void *x, const float *weight,
                     const float *gamma, const float *beta, float eps, void *y, int is_bf16) {
    const i64 N = p->heads, D = p->width, P = p->prefix, rows = p->out[0] * p->out[1];
    const i64 b = index / rows, row = index % rows;
    const i64 y_batch = (P + rows * p->out[2]) * N * D;
    float pooled[RUN][MAX_WIDTH];
    window win;
    taps_of(row / p->out[1], 0, p, win.start, win.first, win.last);
    taps_of(row % p->out[1], 1, p, win.start + 1, win.first + 1, win.last + 1);
    for (i64 w = 0, run; w < p->out[2]; w += run) {
        run = next_run(p, w, &win);
        for (i64 n = 0; n < N; n++) {
            i64 at = b * p->batch_stride + P * p->token_stride + n * D;
            pool_run(p, x, at, weight, &win, pooled, run, is_bf16);
            for (i64 r = 0; r < run; r++) {
                i64 to = b * y_batch + ((P + row * p->out[2] + w + r) * N + n) * D;
                normalise(pooled[r], D, gamma, beta, eps, y, to, is_bf16);
            }
        }
    }
}

/* The prefix tokens of clip b are normalised as they are. */
INLINE void pass_prefix(const pooling *p, i64 b, const void *x, const float *gamma,
                        const float *beta, float eps, void *y, int is_bf16) {
    const i64 N = p->heads, D = p->width;
    const i64 y_batch = (p->prefix + p->out[0] * p->out[1] * p->out[2]) * N * D;
    for (i64 i = 0; i < p->prefix * N; i++) {
        float head[MAX_WIDTH];
        copy_head(x, b * p->batch_stride + (i / N) * p->token_stride + (i % N) * D, D, head,
                  is_bf16);
        normalise(head, D, gamma, beta, eps, y, b * y_batch + i * D, is_bf16);
    }
}

/* grad_weight[tap] += grad_pooled * x at the tap, over a run; channels d to d + vecs * LANES. */
INLINE void weight_channels(const pooling *p, const void *x, i64 at, const window *win,
                            float grad_pooled[][MAX_WIDTH], float *grad_weight, i64 d,
                            const int run, const int vecs, int is_bf16) {
    const i64 D = p->width, step = p->stride[2] * p->token_stride;
    vec grads[RUN][2];
    for (int r = 0; r < run; r++)
        for (int i = 0; i < vecs; i++) grads[r][i] = load(grad_pooled[r] + d + i * LANES);
    for (i64 kt = win->first[0]; kt < win->last[0]; kt++)
        for (i64 kh = win->first[1]; kh < win->last[1]; kh++) {
            i64 row = ((win->start[0] + kt) * p->in[1] + win->start[1] + kh) * p->in[2];
            i64 from = at + (row + win->start[2] + win->first[2]) * p->token_stride + d;
            float *w = grad_weight +
                       ((kt * p->kernel[1] + kh) * p->kernel[2] + win->first[2]) * D + d;
            for (i64 kw = win->first[2]; kw < win->last[2]; kw++, from += p->token_stride, w += D)
                for (int i = 0; i < vecs; i++) {
                    vec total = load(w + i * LANES);
                    for (int r = 0; r < run; r++)
                        total += grads[r][i] * load_any(x, from + r * step + i * LANES, is_bf16);
                    store(w + i * LANES, total);
                }
        }
}

INLINE void weight_run(const pooling *p, const void *x, i64 at, const window *win,
                       float grad_pooled[][MAX_WIDTH], float *grad_weight, int run, int is_bf16) {
    i64 d = 0;
    for (; run == RUN && d + 2 * LANES <= p->width; d += 2 * LANES)
        weight_channels(p, x, at, win, grad_pooled, grad_weight, d, RUN, 2, is_bf16);
    for (; run == RUN && d < p->width; d += LANES)
        weight_channels(p, x, at, win, grad_pooled, grad_weight, d, RUN, 1, is_bf16);
    for (; run == 1 && d < p->width; d += LANES)
        weight_channels(p, x, at, win, grad_pooled, grad_weight, d, 1, 1, is_bf16);
}

/* grad_x of a run of tokens, which are in the same windows but for the column; channels d on. */
INLINE void spread_channels(const pooling *p, const float *grad_pooled, const float *weight,
                            const windows *in, void *grad_x, i64 to, i64 d, const int run,
                            const int vecs, int is_bf16) {
    const i64 step = p->heads * p->width;
    vec sums[RUN][2];
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

INLINE void spread_run(const pooling *p, const float *grad_pooled, const float *weight,
                       const windows *in, void *grad_x, i64 to, int run, int is_bf16) {
    for (i64 n = 0; n < p->heads; n++, to += p->width, grad_pooled += p->width) {
        i64 d = 0;
        for (; run == RUN && d + 2 * LANES <= p->width; d += 2 * LANES)
            spread_channels(p, grad_pooled, weight, in, grad_x, to, d, RUN, 2, is_bf16);
        for (; run == RUN && d < p->width; d += LANES)
            spread_channels(p, grad_pooled, weight, in, grad_x, to, d, RUN, 1, is_bf16);
        for (; run == 1 && d + 2 * LANES <= p->width; d += 2 * LANES)
            spread_channels(p, grad_pooled, weight, in, grad_x, to, d, 1, 2, is_bf16);
        for (; run == 1 && d < p->width; d += LANES)
            spread_channels(p, grad_pooled, weight, in, grad_x, to, d, 1, 1, is_bf16);
    }
}

/* For row number index of the output grid: grad_pooled, and what it adds to the gradients of the
 * parameters, sums (taps + 2, D) for weight, gamma and beta. */
INLINE void pool_row_backward(const pooling *p, i64 index, const void *x, const float *weight,
                              const float *gamma, float eps, const void *grad_y,
                              float *grad_pooled, float *sums, int is_bf16) {
    const i64 N = p->heads, D = p->width, P = p->prefix, rows = p->out[0] * p->out[1];
    const i64 num_taps = p->kernel[0] * p->kernel[1] * p->kernel[2];
    const i64 b = index / rows, row = index % rows, places = rows * p->out[2];
    float pooled[RUN][MAX_WIDTH];
    window win;
    taps_of(row / p->out[1], 0, p, win.start, win.first, win.last);
    taps_of(row % p->out[1], 1, p, win.start + 1, win.first + 1, win.last + 1);
    for (i64 w = 0, run; w < p->out[2]; w += run) {
        run = next_run(p, w, &win);
        for (i64 n = 0; n < N; n++) {
            i64 at = b * p->batch_stride + P * p->token_stride + n * D;
            pool_run(p, x, at, weight, &win, pooled, run, is_bf16);
            for (i64 r = 0; r < run; r++) {
                i64 place = row * p->out[2] + w + r;
                normalise_backward(pooled[r], D, gamma, eps, grad_y,
                                   ((b * (P + places) + P + place) * N + n) * D,
                                   sums + num_taps * D, sums + (num_taps + 1) * D, is_bf16);
                memcpy(grad_pooled + ((b * places + place) * N + n) * D, pooled[r],
                       D * sizeof(float));
            }
            weight_run(p, x, at, &win, pooled, sums, run, is_bf16);
        }
    }
}

/* grad_x of row number index of the input grid. */
INLINE void spread_row(const pooling *p, i64 index, const float *weight, const float *grad_pooled,
                       void *grad_x, int is_bf16) {
    const i64 rows = p->in[0] * p->in[1], b = index / rows, row = index % rows;
    const i64 margin = p->kernel[2] / 2; /* of tokens that are in fewer windows than others */
    const float *grads = grad_pooled +
                         b * p->out[0] * p->out[1] * p->out[2] * p->heads * p->width;
    windows in;
    in.count[0] = windows_of(row / p->in[1], 0, p, in.outs[0], in.taps[0]);
    in.count[1] = windows_of(row % p->in[1], 1, p, in.outs[1], in.taps[1]);
    for (i64 w = 0, run; w < p->in[2]; w += run) {
        in.count[2] = windows_of(w, 2, p, in.outs[2], in.taps[2]);
        run = p->stride[2] == 1 && w >= margin && w + RUN + margin <= p->in[2] ? RUN : 1;
        i64 to = b * p->batch_stride + (p->prefix + row * p->in[2] + w) * p->token_stride;
        spread_run(p, grads, weight, &in, grad_x, to, run, is_bf16);
    }
}

INLINE void pass_prefix_backward(const pooling *p, i64 b, const void *x, const float *gamma,
                                 float eps, const void *grad_y, void *grad_x, float *sums,
                                 int is_bf16) {
    const i64 N = p->heads, D = p->width;
    const i64 num_taps = p->kernel[0] * p->kernel[1] * p->kernel[2];
    const i64 y_batch = (p->prefix + p->out[0] * p->out[1] * p->out[2]) * N * D;
    for (i64 i = 0; i < p->prefix * N; i++) {
        float head[MAX_WIDTH];
        i64 at = b * p->batch_stride + (i / N) * p->token_stride + (i % N) * D;
        copy_head(x, at, D, head, is_bf16);
        normalise_backward(head, D, gamma, eps, grad_y, b * y_batch + i * D, sums + num_taps * D,
                           sums + (num_taps + 1) * D, is_bf16);
        for (i64 d = 0; d < D; d += LANES) store_any(grad_x, at + d, load(head + d), is_bf16);
    }
}
