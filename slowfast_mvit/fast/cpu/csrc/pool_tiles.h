/* Pooling with windows of three columns that overlap: each token is in several of them.
 *
 * Some rows of one head are taken at a time, in all frames, and 16 channels of them at a time. Their
 * tokens are copied to where they lie side by side, as float32, with zeros around them. There the
 * windows need no look at the borders, and what they read again is in the cache.
 */

#pragma once

#include "grids.h"
#include "norms.h"

#include <stdlib.h>

#define BLOCK (2 * LANES)      /* channels */
#define TILE_BYTES (192 << 10) /* of what comes out for some rows, so that it stays in the cache */

/* How a grid is cut: rows of outputs at a time, and the size of the tokens they see, zeros included. */
typedef struct {
    i64 rows, num_tiles, in_rows, columns;
} tiling;

/* A number of rows of one head: rows [first, last) of the output grid. */
typedef struct {
    i64 b, n, first, last;
} tile;

INLINE int is_dense(const pooling *p) {
    return p->kernel[0] % 2 && p->kernel[1] % 2 && p->kernel[2] == 3 && p->stride[2] <= 2 &&
           p->width % BLOCK == 0;
}

INLINE tiling tiling_of(const pooling *p) {
    i64 rows = TILE_BYTES / (p->out[0] * p->out[2] * p->width * (i64)sizeof(float));
    rows = rows < 1 ? 1 : rows > p->out[1] ? p->out[1] : rows;
    i64 runs = (p->out[2] + RUN - 1) / RUN;
    return (tiling){rows, (p->out[1] + rows - 1) / rows,
                    (rows - 1) * p->stride[1] + p->kernel[1],
                    (runs * RUN - 1) * p->stride[2] + p->kernel[2]};
}

INLINE tile nth_tile(const pooling *p, const tiling *cut, i64 index) {
    i64 head = index / cut->num_tiles, first = index % cut->num_tiles * cut->rows;
    i64 last = first + cut->rows < p->out[1] ? first + cut->rows : p->out[1];
    return (tile){head / p->heads, head % p->heads, first, last};
}

/* Room for numbers, on a cache line's border: no load of a vector reaches into a second line. */
INLINE float *allocate(i64 numbers) {
    return aligned_alloc(64, (numbers * sizeof(float) + 63) / 64 * 64);
}

/* Room for the tokens that a tile sees, (T, in_rows, columns, BLOCK). */
INLINE float *allocate_tokens(const pooling *p, const tiling *cut) {
    return allocate(p->in[0] * cut->in_rows * cut->columns * BLOCK);
}

/* Room for what comes out for a tile, (OT, rows, OW, D). */
INLINE float *allocate_pooled(const pooling *p, const tiling *cut) {
    return allocate(p->out[0] * cut->rows * p->out[2] * p->width);
}

/* tokens (T, in_rows, columns, BLOCK) <- channels d on of what the tile sees of x. */
INLINE void gather(const pooling *p, const tiling *cut, const tile *at, const void *x, i64 d,
                   float *tokens, int is_bf16) {
    const i64 top = at->first * p->stride[1] - p->kernel[1] / 2, left = p->kernel[2] / 2;
    const i64 head = at->b * p->batch_stride + p->prefix * p->token_stride + at->n * p->width + d;
    for (i64 t = 0; t < p->in[0]; t++)
        for (i64 row = 0; row < cut->in_rows; row++, tokens += cut->columns * BLOCK) {
            const i64 h = top + row, on_grid = h >= 0 && h < p->in[1] ? p->in[2] : 0;
            const i64 end = left + on_grid < cut->columns ? left + on_grid : cut->columns;
            i64 from = head + (t * p->in[1] + h) * p->in[2] * p->token_stride;
            memset(tokens, 0, left * BLOCK * sizeof(float));
            for (i64 c = left; c < end; c++, from += p->token_stride)
                for (int i = 0; i < BLOCK; i += LANES)
                    store(tokens + c * BLOCK + i, load_any(x, from + i, is_bf16));
            memset(tokens + end * BLOCK, 0, (cut->columns - end) * BLOCK * sizeof(float));
        }
}

/* Channels d on of RUN outputs side by side: pooled (RUN, D); tokens + at is where the first window
 * begins. A token is loaded once for all the windows that it is in. */
INLINE void convolve_run(const pooling *p, const tiling *cut, const float *tokens,
                         const float *weight, i64 first_kt, i64 last_kt, const int step, i64 num,
                         float *pooled) {
    const i64 D = p->width;
    vec sums[RUN][2];
    for (int r = 0; r < RUN; r++) sums[r][0] = sums[r][1] = all(0);
    for (i64 kt = first_kt; kt < last_kt; kt++)
        for (i64 kh = 0; kh < p->kernel[1]; kh++) {
            const float *row = tokens + (kt * cut->in_rows + kh) * cut->columns * BLOCK;
            const float *w = weight + (kt * p->kernel[1] + kh) * 3 * D;
            for (int i = 0; i < 2; i++) {
                vec filters[3];
                for (int tap = 0; tap < 3; tap++) filters[tap] = load(w + tap * D + i * LANES);
                for (int column = 0; column < (RUN - 1) * step + 3; column++) {
                    vec one = load(row + column * BLOCK + i * LANES);
                    for (int tap = 0; tap < 3; tap++)
                        if (column >= tap && (column - tap) % step == 0 &&
                            (column - tap) / step < RUN)
                            sums[(column - tap) / step][i] += one * filters[tap];
                }
            }
        }
    for (i64 r = 0; r < num; r++)
        for (int i = 0; i < 2; i++) store(pooled + r * D + i * LANES, sums[r][i]);
}

/* Channels d on of the tile: pooled (OT, rows, OW, D). */
INLINE void convolve(const pooling *p, const tiling *cut, const tile *at, const float *tokens,
                     const float *weight, i64 d, float *pooled) {
    const i64 D = p->width;
    for (i64 t = 0; t < p->out[0]; t++) {
        i64 start, first, last;
        taps_of(t, 0, p, &start, &first, &last);
        for (i64 row = 0; row < at->last - at->first; row++)
            for (i64 w = 0; w < p->out[2]; w += RUN) {
                const float *from = tokens + ((start * cut->in_rows + row * p->stride[1]) *
                                                  cut->columns + w * p->stride[2]) * BLOCK;
                float *to = pooled + ((t * cut->rows + row) * p->out[2] + w) * D + d;
                i64 num = p->out[2] - w < RUN ? p->out[2] - w : RUN;
                if (p->stride[2] == 1)
                    convolve_run(p, cut, from, weight + d, first, last, 1, num, to);
                else
                    convolve_run(p, cut, from, weight + d, first, last, 2, num, to);
            }
    }
}

/* The whole tile of x: pooled (OT, rows, OW, D); tokens is room to work in. */
INLINE void convolve_tile(const pooling *p, const tiling *cut, const tile *at, const void *x,
                          const float *weight, float *tokens, float *pooled, int is_bf16) {
    for (i64 d = 0; d < p->width; d += BLOCK) {
        gather(p, cut, at, x, d, tokens, is_bf16);
        convolve(p, cut, at, tokens, weight, d, pooled);
    }
}

/* sums (taps, D) += the gradients of the filters, channels d on; grads (OT, rows, OW, D). A tile is
 * summed up by itself first: numbers of one size, so less is lost than by adding them to all. */
INLINE void add_filter_gradients(const pooling *p, const tiling *cut, const tile *at,
                                 const float *tokens, const float *grads, i64 d, const int step,
                                 float *sums) {
    const i64 D = p->width;
    for (i64 kt = 0; kt < p->kernel[0]; kt++)
        for (i64 kh = 0; kh < p->kernel[1]; kh++) {
            vec total[3][2] = {0};
            float *to = sums + (kt * p->kernel[1] + kh) * 3 * D + d;
            for (i64 t = 0; t < p->out[0]; t++) {
                const i64 frame = t * p->stride[0] - p->kernel[0] / 2 + kt;
                if (frame < 0 || frame >= p->in[0]) continue;
                for (i64 row = 0; row < at->last - at->first; row++) {
                    const float *g = grads + (t * cut->rows + row) * p->out[2] * D + d;
                    const float *x = tokens + (frame * cut->in_rows + row * p->stride[1] + kh) *
                                                  cut->columns * BLOCK;
                    for (i64 w = 0; w < p->out[2]; w++, g += D, x += step * BLOCK)
                        for (int i = 0; i < 2; i++) {
                            vec one = load(g + i * LANES);
                            for (int tap = 0; tap < 3; tap++)
                                total[tap][i] += one * load(x + tap * BLOCK + i * LANES);
                        }
                }
            }
            for (int tap = 0; tap < 3; tap++)
                for (int i = 0; i < 2; i++) {
                    float *one = to + tap * D + i * LANES;
                    store(one, load(one) + total[tap][i]);
                }
        }
}

/* The whole head in some rows; tokens and pooled are room to work in. */
INLINE void pool_tile(const pooling *p, const tiling *cut, const tile *at, const void *x,
                      const float *weight, const float *gamma, const float *beta, float eps,
                      void *y, float *tokens, float *pooled, int is_bf16) {
    const i64 D = p->width, places = p->out[0] * p->out[1] * p->out[2];
    convolve_tile(p, cut, at, x, weight, tokens, pooled, is_bf16);
    for (i64 t = 0; t < p->out[0]; t++)
        for (i64 h = at->first; h < at->last; h++)
            for (i64 w = 0; w < p->out[2]; w++) {
                i64 from = (t * cut->rows + h - at->first) * p->out[2] + w;
                i64 place = p->prefix + (t * p->out[1] + h) * p->out[2] + w;
                i64 to = ((at->b * (p->prefix + places) + place) * p->heads + at->n) * D;
                normalise(pooled + from * D, D, gamma, beta, eps, y, to, is_bf16);
            }
}

/* As pool_row_backward, for some rows of one head; tokens and pooled are room to work in. */
INLINE void pool_tile_backward(const pooling *p, const tiling *cut, const tile *at, const void *x,
                               const float *weight, const float *gamma, float eps,
                               const void *grad_y, float *grad_pooled, float *sums, float *tokens,
                               float *pooled, int is_bf16) {
    const i64 D = p->width, N = p->heads, places = p->out[0] * p->out[1] * p->out[2];
    const i64 num_taps = p->kernel[0] * p->kernel[1] * p->kernel[2];
    convolve_tile(p, cut, at, x, weight, tokens, pooled, is_bf16);
    for (i64 t = 0; t < p->out[0]; t++)
        for (i64 h = at->first; h < at->last; h++)
            for (i64 w = 0; w < p->out[2]; w++) {
                float *one = pooled + ((t * cut->rows + h - at->first) * p->out[2] + w) * D;
                i64 place = (t * p->out[1] + h) * p->out[2] + w;
                i64 from = ((at->b * (p->prefix + places) + p->prefix + place) * N + at->n) * D;
                normalise_backward(one, D, gamma, eps, grad_y, from, sums + num_taps * D,
                                   sums + (num_taps + 1) * D, is_bf16);
                memcpy(grad_pooled + ((at->b * places + place) * N + at->n) * D, one,
                       D * sizeof(float));
            }
    for (i64 d = 0; d < D; d += BLOCK) { /* pooled holds its gradient by now */
        gather(p, cut, at, x, d, tokens, is_bf16);
        if (p->stride[2] == 1)
            add_filter_gradients(p, cut, at, tokens, pooled, d, 1, sums);
        else
            add_filter_gradients(p, cut, at, tokens, pooled, d, 2, sums);
    }
}

/* The gradient of x of some rows of one head, where no stride is above 1: grad_pooled under the
 * filters turned round. */
INLINE void spread_tile(const pooling *p, const pooling *turned, const tiling *cut, const tile *at,
                        const float *grad_pooled, const float *turned_weight, void *grad_x,
                        float *tokens, float *spread, int is_bf16) {
    const i64 D = p->width;
    convolve_tile(turned, cut, at, grad_pooled, turned_weight, tokens, spread, 0);
    for (i64 t = 0; t < p->in[0]; t++)
        for (i64 h = at->first; h < at->last; h++)
            for (i64 w = 0; w < p->in[2]; w++) {
                const float *one = spread + ((t * cut->rows + h - at->first) * p->in[2] + w) * D;
                i64 token = p->prefix + (t * p->in[1] + h) * p->in[2] + w;
                i64 to = at->b * p->batch_stride + token * p->token_stride + at->n * D;
                for (i64 d = 0; d < D; d += LANES)
                    store_any(grad_x, to + d, load(one + d), is_bf16);
            }
}
