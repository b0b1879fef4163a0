/* Pooling with windows of three columns that overlap: each token is in several of them.
 *
 * A tile is some rows of one head, in all frames, and 16 channels of it are processed at a time.
 * Their tokens are copied to adjacent places, as float32, with zeros around them. There the windows
 * need no checks of the borders, and what they read again is in the cache.
 */

#pragma once

#include "norms.h"

#include <stdlib.h>

#define BLOCK (2 * LANES)      /* channels */
#define TILE_BYTES (192 << 10) /* of the outputs of a tile, so that they stay in the cache */

/* How a grid is split: rows of outputs of a tile, and the size of their input, zeros included. And
 * one tile: rows [first, last) of the output grid of head n of clip b. */
typedef struct {
    i64 rows, num_tiles, in_rows, columns;
    i64 b, n, first, last;
} tile;

INLINE int is_dense(const pooling *p) {
    return p->kernel[0] % 2 && p->kernel[1] % 2 && p->kernel[2] == 3 && p->stride[2] <= 2 &&
           p->width % BLOCK == 0;
}

INLINE tile tiling_of(const pooling *p) {
    i64 rows = TILE_BYTES / (p->out[0] * p->out[2] * p->width * (i64)sizeof(float));
    rows = rows < 1 ? 1 : rows > p->out[1] ? p->out[1] : rows;
    i64 runs = (p->out[2] + RUN - 1) / RUN;
    return (tile){.rows = rows,
                  .num_tiles = (p->out[1] + rows - 1) / rows,
                  .in_rows = (rows - 1) * p->stride[1] + p->kernel[1],
                  .columns = (runs * RUN - 1) * p->stride[2] + p->kernel[2]};
}

INLINE void set_tile(tile *at, const pooling *p, i64 index) {
    const i64 head = index / at->num_tiles, first = index % at->num_tiles * at->rows;
    at->b = head / p->heads;
    at->n = head % p->heads;
    at->first = first;
    at->last = first + at->rows < p->out[1] ? first + at->rows : p->out[1];
}

/* Memory for numbers, aligned to a cache line: no load of a vector crosses into a second line. */
INLINE float *allocate(i64 numbers) {
    return aligned_alloc(64, (numbers * sizeof(float) + 63) / 64 * 64);
}

/* tokens (T, in_rows, columns, BLOCK) <- the input of the tile, channels d on. */
INLINE void gather(const pooling *p, const tile *at, const void *x, i64 d, float *tokens,
                   int is_bf16) {
    const i64 top = at->first * p->stride[1] - p->kernel[1] / 2, left = p->kernel[2] / 2;
    const i64 head = at->b * p->batch_stride + p->prefix * p->token_stride + at->n * p->width + d;
    for (i64 t = 0; t < p->in[0]; t++)
        for (i64 row = 0; row < at->in_rows; row++, tokens += at->columns * BLOCK) {
            const i64 h = top + row, on_grid = h >= 0 && h < p->in[1] ? p->in[2] : 0;
            const i64 end = left + on_grid < at->columns ? left + on_grid : at->columns;
            i64 from = head + (t * p->in[1] + h) * p->in[2] * p->token_stride;
            memset(tokens, 0, left * BLOCK * sizeof(float));
            for (i64 c = left; c < end; c++, from += p->token_stride)
                for (int i = 0; i < BLOCK; i += LANES)
                    store(tokens + c * BLOCK + i, load_any(x, from + i, is_bf16));
            memset(tokens + end * BLOCK, 0, (at->columns - end) * BLOCK * sizeof(float));
        }
}

/* Calls f with the stride of the columns as a constant. */
#define FOR_STRIDE(f, ...) (p->stride[2] == 1 ? f(__VA_ARGS__, 1) : f(__VA_ARGS__, 2))

/* RUN adjacent outputs, of which num are stored: pooled (num, BLOCK of D). tokens is the start of
 * the first window. A token is loaded once for all the windows that contain it. */
INLINE void convolve_run(const pooling *p, const tile *at, const float *tokens,
                         const float *weight, const window *win, i64 num, float *pooled,
                         const int step) {
    const i64 D = p->width;
    vec sums[RUN][2];
    for (int r = 0; r < RUN; r++) sums[r][0] = sums[r][1] = all(0);
    for (i64 kt = win->first[0]; kt < win->last[0]; kt++)
        for (i64 kh = 0; kh < p->kernel[1]; kh++) {
            const float *row = tokens + (kt * at->in_rows + kh) * at->columns * BLOCK;
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
INLINE void convolve(const pooling *p, const tile *at, const float *tokens, const float *weight,
                     i64 d, float *pooled) {
    window win;
    for (i64 t = 0; t < p->out[0]; t++) {
        set_taps(&win, p, 0, t);
        for (i64 row = 0; row < at->last - at->first; row++)
            for (i64 w = 0; w < p->out[2]; w += RUN) {
                const i64 line = win.start[0] * at->in_rows + row * p->stride[1];
                const float *from = tokens + (line * at->columns + w * p->stride[2]) * BLOCK;
                float *to = pooled + ((t * at->rows + row) * p->out[2] + w) * p->width + d;
                const i64 num = p->out[2] - w < RUN ? p->out[2] - w : RUN;
                FOR_STRIDE(convolve_run, p, at, from, weight + d, &win, num, to);
            }
    }
}

/* sums (taps, D) += the gradients of the filters, channels d on; grads (OT, rows, OW, D). Each tile
 * has a sum of its own first: its numbers are of one size, so less is lost in rounding. */
INLINE void add_filter_gradients(const pooling *p, const tile *at, const float *tokens,
                                 const float *grads, i64 d, float *sums, const int step) {
    const i64 D = p->width;
    for (i64 kt = 0; kt < p->kernel[0]; kt++)
        for (i64 kh = 0; kh < p->kernel[1]; kh++) {
            vec total[3][2] = {0};
            float *to = sums + (kt * p->kernel[1] + kh) * 3 * D + d;
            for (i64 t = 0; t < p->out[0]; t++) {
                const i64 frame = t * p->stride[0] - p->kernel[0] / 2 + kt;
                if (frame < 0 || frame >= p->in[0]) continue;
                for (i64 row = 0; row < at->last - at->first; row++) {
                    const i64 line = frame * at->in_rows + row * p->stride[1] + kh;
                    const float *g = grads + (t * at->rows + row) * p->out[2] * D + d;
                    const float *x = tokens + line * at->columns * BLOCK;
                    for (i64 w = 0; w < p->out[2]; w++, g += D, x += step * BLOCK)
                        for (int i = 0; i < 2; i++) {
                            vec one = load(g + i * LANES);
                            for (int tap = 0; tap < 3; tap++)
                                total[tap][i] += one * load(x + tap * BLOCK + i * LANES);
                        }
                }
            }
            for (int i = 0; i < 3 * 2; i++) {
                float *one = to + i / 2 * D + i % 2 * LANES;
                store(one, load(one) + total[i / 2][i % 2]);
            }
        }
}

/* The outputs of a tile; tokens and pooled are scratch memory. */
INLINE void pool_tile(const pooling *p, const tile *at, const void *x, const float *weight,
                      const output *out, float *tokens, float *pooled, const int x_is_bf16,
                      int is_bf16) {
    const i64 D = p->width;
    for (i64 d = 0; d < D; d += BLOCK) {
        gather(p, at, x, d, tokens, x_is_bf16);
        convolve(p, at, tokens, weight, d, pooled);
    }
    for (i64 t = 0; t < p->out[0]; t++)
        for (i64 h = at->first; h < at->last; h++)
            for (i64 w = 0; w < p->out[2]; w++) {
                float *head = pooled + ((t * at->rows + h - at->first) * p->out[2] + w) * D;
                const i64 place = (t * p->out[1] + h) * p->out[2] + w;
                finish(p, out, head, at->b, place, at->n, is_bf16);
            }
    for (i64 d = 0; out->sums && d < D; d += BLOCK) { /* pooled now contains its gradient */
        gather(p, at, x, d, tokens, x_is_bf16);
        FOR_STRIDE(add_filter_gradients, p, at, tokens, pooled, d, out->sums);
    }
}

/* By each thread of a team: its share of the tiles. x may have another dtype than the output. */
INLINE void pool_tiles(const pooling *p, const void *x, const float *weight, const output *out,
                       const int x_is_bf16, int is_bf16) {
    tile at = tiling_of(p);
    float *tokens = allocate(p->in[0] * at.in_rows * at.columns * BLOCK);
    float *pooled = allocate(p->out[0] * at.rows * p->out[2] * p->width);
#pragma omp for schedule(static)
    for (i64 index = 0; index < p->batch * p->heads * at.num_tiles; index++) {
        set_tile(&at, p, index);
        pool_tile(p, &at, x, weight, out, tokens, pooled, x_is_bf16, is_bf16);
    }
    free(tokens);
    free(pooled);
}
