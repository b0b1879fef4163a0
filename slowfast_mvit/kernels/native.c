/* Two parts of pooling attention for CPUs, float32 or bfloat16 in memory, float32 in registers.
 *
 *   pool_forward, pool_backward          depthwise 3-D pooling of every head, then LayerNorm
 *   softmax_forward, softmax_backward    scores -> probabilities, relative positions added
 *
 * native.py compiles this file when it is first needed and describes the arguments; the plain
 * twins are PyTorch's own operations, in pool_qkv.py and models/attention.py.
 *
 * Letters: B batch, N heads, D head width (a multiple of 8), P prefix tokens; (T, H, W) the grid
 * of the tokens that come in, (OT, OH, OW) of those that go out; R rows, J keys.
 *
 * Sums over positions are kept for each thread and added up by the caller in the order of the
 * threads, and the work is cut statically: the same number of threads gives the same bits.
 */

#include <math.h>
#include <omp.h>
#include <stdint.h>
#include <string.h>

#define LANES 8
#define MAX_WIDTH 512
#define MAX_PLANE 4096

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t ivec __attribute__((vector_size(4 * LANES)));
typedef uint16_t hvec __attribute__((vector_size(2 * LANES)));
typedef uint32_t uvec __attribute__((vector_size(4 * LANES)));
typedef int64_t i64;

#define INLINE static inline __attribute__((always_inline))

INLINE vec load(const float *from) {
    vec x;
    memcpy(&x, from, sizeof x);
    return x;
}

INLINE void store(float *to, vec x) { memcpy(to, &x, sizeof x); }

INLINE vec all(float x) { return (vec){x, x, x, x, x, x, x, x}; }

INLINE float sum(vec x) {
    return ((x[0] + x[4]) + (x[2] + x[6])) + ((x[1] + x[5]) + (x[3] + x[7]));
}

/* Element i of a float32 or bfloat16 array, and the LANES - 1 after it. */
INLINE vec load_any(const void *from, i64 i, int is_bf16) {
    if (!is_bf16) return load((const float *)from + i);
    hvec half;
    memcpy(&half, (const uint16_t *)from + i, sizeof half);
    return (vec)(__builtin_convertvector(half, uvec) << 16);
}

/* Rounds to the nearest bfloat16, ties to even; NaN stays NaN. */
INLINE void store_any(void *to, i64 i, vec x, int is_bf16) {
    if (!is_bf16) {
        store((float *)to + i, x);
        return;
    }
    uvec bits = (uvec)x;
    uvec rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    uvec is_nan = (uvec)(x != x);
    rounded = (is_nan & 0x7fc0) | (~is_nan & rounded);
    hvec half = __builtin_convertvector(rounded, hvec);
    memcpy((uint16_t *)to + i, &half, sizeof half);
}

/* e^x for x <= 0, within 2 units of the last place; 0 below -87. NaN stays NaN. */
INLINE vec exp_of_negative(vec x) {
    const vec shift = all(12582912.0f); /* 1.5 * 2^23: adding it rounds to a whole number */
    ivec tiny = x < -87.0f;
    vec shifted = x * 1.44269504088896341f + shift;
    vec n = shifted - shift;
    vec r = x - n * 0.693359375f;
    r = r + n * 2.12194440e-4f;
    vec p = all(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    ivec power = ((ivec)shifted - (ivec)shift) << 23;
    ivec result = (ivec)p + power;
    return (vec)(~tiny & result);
}

/* One pooling: sizes are of tokens, strides and offsets in elements. */
typedef struct {
    i64 batch, heads, width, prefix;
    i64 in[3], out[3], kernel[3], stride[3];
    i64 token_stride, batch_stride; /* of the tokens that come in */
} pooling;

/* The taps of one output position that fall on the grid, along one axis: [first, last). */
INLINE void taps_of(i64 position, i64 axis, const pooling *p, i64 *start, i64 *first, i64 *last) {
    *start = position * p->stride[axis] - p->kernel[axis] / 2;
    *first = *start < 0 ? -*start : 0;
    i64 room = p->in[axis] - *start;
    *last = room < p->kernel[axis] ? room : p->kernel[axis];
}

/* pooled[0..D) of one head at one output position; x points at the head in the grid's first token.
 * A group of LANES * 4 channels at a time stays in registers over all taps. */
INLINE void pool_one(const pooling *p, const void *x, i64 at, const float *weight,
                     const i64 start[3], const i64 first[3], const i64 last[3], float *pooled,
                     int is_bf16) {
    const i64 D = p->width;
    i64 d = 0;
    for (; d + 4 * LANES <= D; d += 4 * LANES) {
        vec a0 = all(0), a1 = all(0), a2 = all(0), a3 = all(0);
        for (i64 kt = first[0]; kt < last[0]; kt++)
            for (i64 kh = first[1]; kh < last[1]; kh++) {
                i64 row = ((start[0] + kt) * p->in[1] + start[1] + kh) * p->in[2] + start[2];
                i64 tap = (kt * p->kernel[1] + kh) * p->kernel[2];
                for (i64 kw = first[2]; kw < last[2]; kw++) {
                    i64 i = at + (row + kw) * p->token_stride + d;
                    const float *w = weight + (tap + kw) * D + d;
                    a0 += load_any(x, i, is_bf16) * load(w);
                    a1 += load_any(x, i + LANES, is_bf16) * load(w + LANES);
                    a2 += load_any(x, i + 2 * LANES, is_bf16) * load(w + 2 * LANES);
                    a3 += load_any(x, i + 3 * LANES, is_bf16) * load(w + 3 * LANES);
                }
            }
        store(pooled + d, a0);
        store(pooled + d + LANES, a1);
        store(pooled + d + 2 * LANES, a2);
        store(pooled + d + 3 * LANES, a3);
    }
    for (; d < D; d += LANES) {
        vec a = all(0);
        for (i64 kt = first[0]; kt < last[0]; kt++)
            for (i64 kh = first[1]; kh < last[1]; kh++) {
                i64 row = ((start[0] + kt) * p->in[1] + start[1] + kh) * p->in[2] + start[2];
                i64 tap = (kt * p->kernel[1] + kh) * p->kernel[2];
                for (i64 kw = first[2]; kw < last[2]; kw++)
                    a += load_any(x, at + (row + kw) * p->token_stride + d, is_bf16) *
                         load(weight + (tap + kw) * D + d);
            }
        store(pooled + d, a);
    }
}

/* Mean and 1 / standard deviation of D numbers. */
INLINE void moments(const float *x, i64 D, float eps, float *mean, float *rstd) {
    vec total = all(0);
    for (i64 d = 0; d < D; d += LANES) total += load(x + d);
    *mean = sum(total) / D;
    vec squares = all(0);
    for (i64 d = 0; d < D; d += LANES) {
        vec centred = load(x + d) - *mean;
        squares += centred * centred;
    }
    *rstd = 1.0f / sqrtf(sum(squares) / D + eps);
}

INLINE void normalise(const float *x, i64 D, const float *gamma, const float *beta, float eps,
                      void *y, i64 at, int is_bf16) {
    float mean, rstd;
    moments(x, D, eps, &mean, &rstd);
    for (i64 d = 0; d < D; d += LANES)
        store_any(y, at + d, (load(x + d) - mean) * rstd * load(gamma + d) + load(beta + d),
                  is_bf16);
}

/* What comes before the grid of clip b: the token itself instead of pooled ones. */
INLINE void copy_head(const void *x, i64 at, i64 D, float *to, int is_bf16) {
    for (i64 d = 0; d < D; d += LANES) store(to + d, load_any(x, at + d, is_bf16));
}

INLINE void pool_forward_of(const pooling *p, const void *x, const float *weight,
                            const float *gamma, const float *beta, float eps, void *y, int threads,
                            int is_bf16) {
    const i64 N = p->heads, D = p->width, P = p->prefix;
    const i64 places = p->out[0] * p->out[1] * p->out[2], rows = p->out[0] * p->out[1];
    const i64 y_batch = (P + places) * N * D;
    for (i64 b = 0; b < p->batch; b++)
        for (i64 i = 0; i < P * N; i++) {
            float head[MAX_WIDTH];
            copy_head(x, b * p->batch_stride + (i / N) * p->token_stride + (i % N) * D, D, head,
                      is_bf16);
            normalise(head, D, gamma, beta, eps, y, b * y_batch + i * D, is_bf16);
        }
#pragma omp parallel for schedule(static) num_threads(threads)
    for (i64 index = 0; index < p->batch * rows; index++) {
        float pooled[MAX_WIDTH];
        i64 b = index / rows, row = index % rows, start[3], first[3], last[3];
        taps_of(row / p->out[1], 0, p, start, first, last);
        taps_of(row % p->out[1], 1, p, start + 1, first + 1, last + 1);
        for (i64 w = 0; w < p->out[2]; w++) {
            taps_of(w, 2, p, start + 2, first + 2, last + 2);
            for (i64 n = 0; n < N; n++) {
                i64 at = b * p->batch_stride + P * p->token_stride + n * D;
                pool_one(p, x, at, weight, start, first, last, pooled, is_bf16);
                i64 to = b * y_batch + ((P + row * p->out[2] + w) * N + n) * D;
                normalise(pooled, D, gamma, beta, eps, y, to, is_bf16);
            }
        }
    }
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

/* grad_weight[tap] += grad_pooled * x at the tap, for one head at one output position. */
INLINE void weight_gradient(const pooling *p, const void *x, i64 at, const i64 start[3],
                            const i64 first[3], const i64 last[3], const float *grad_pooled,
                            float *grad_weight, int is_bf16) {
    const i64 D = p->width;
    for (i64 kt = first[0]; kt < last[0]; kt++)
        for (i64 kh = first[1]; kh < last[1]; kh++) {
            i64 row = ((start[0] + kt) * p->in[1] + start[1] + kh) * p->in[2] + start[2];
            i64 tap = (kt * p->kernel[1] + kh) * p->kernel[2];
            for (i64 kw = first[2]; kw < last[2]; kw++) {
                i64 i = at + (row + kw) * p->token_stride;
                float *w = grad_weight + (tap + kw) * D;
                for (i64 d = 0; d < D; d += LANES)
                    store(w + d, load(w + d) + load(grad_pooled + d) * load_any(x, i + d, is_bf16));
            }
        }
}

/* Which output positions see an input position along one axis, and by which tap. */
INLINE i64 windows_of(i64 position, i64 axis, const pooling *p, i64 *outs, i64 *taps) {
    i64 found = 0;
    for (i64 tap = 0; tap < p->kernel[axis]; tap++) {
        i64 shifted = position + p->kernel[axis] / 2 - tap;
        if (shifted < 0 || shifted % p->stride[axis] || shifted / p->stride[axis] >= p->out[axis])
            continue;
        outs[found] = shifted / p->stride[axis];
        taps[found++] = tap;
    }
    return found;
}

#define MAX_KERNEL 16

/* grad_x of one token of the grid, all heads: sums over the windows it is in. */
INLINE void spread_one(const pooling *p, const float *grad_pooled, const float *weight,
                       const i64 count[3], i64 outs[3][MAX_KERNEL], i64 taps[3][MAX_KERNEL],
                       void *grad_x, i64 to, int is_bf16) {
    const i64 N = p->heads, D = p->width;
    for (i64 n = 0; n < N; n++)
        for (i64 d = 0; d < D; d += 2 * LANES) {
            int two = d + LANES < D;
            vec a0 = all(0), a1 = all(0);
            for (i64 t = 0; t < count[0]; t++)
                for (i64 h = 0; h < count[1]; h++)
                    for (i64 w = 0; w < count[2]; w++) {
                        i64 place = (outs[0][t] * p->out[1] + outs[1][h]) * p->out[2] + outs[2][w];
                        i64 tap = (taps[0][t] * p->kernel[1] + taps[1][h]) * p->kernel[2] +
                                  taps[2][w];
                        const float *g = grad_pooled + (place * N + n) * D + d;
                        const float *k = weight + tap * D + d;
                        a0 += load(g) * load(k);
                        if (two) a1 += load(g + LANES) * load(k + LANES);
                    }
            store_any(grad_x, to + n * D + d, a0, is_bf16);
            if (two) store_any(grad_x, to + n * D + d + LANES, a1, is_bf16);
        }
}

INLINE void pool_backward_of(const pooling *p, const void *x, const float *weight,
                             const float *gamma, float eps, const void *grad_y, void *grad_x,
                             float *grad_pooled, float *partial, int threads, int is_bf16) {
    const i64 N = p->heads, D = p->width, P = p->prefix;
    const i64 num_taps = p->kernel[0] * p->kernel[1] * p->kernel[2];
    const i64 places = p->out[0] * p->out[1] * p->out[2], rows = p->out[0] * p->out[1];
    const i64 in_rows = p->in[0] * p->in[1], y_batch = (P + places) * N * D;
    const i64 partial_size = (num_taps + 2) * D; /* weight, gamma, beta of one thread */
    for (i64 b = 0; b < p->batch; b++)
        for (i64 i = 0; i < P * N; i++) {
            float head[MAX_WIDTH];
            i64 at = b * p->batch_stride + (i / N) * p->token_stride + (i % N) * D;
            copy_head(x, at, D, head, is_bf16);
            normalise_backward(head, D, gamma, eps, grad_y, b * y_batch + i * D,
                               partial + num_taps * D, partial + (num_taps + 1) * D, is_bf16);
            for (i64 d = 0; d < D; d += LANES) store_any(grad_x, at + d, load(head + d), is_bf16);
        }
#pragma omp parallel num_threads(threads)
    {
        float *mine = partial + omp_get_thread_num() * partial_size;
#pragma omp for schedule(static)
        for (i64 index = 0; index < p->batch * rows; index++) {
            i64 b = index / rows, row = index % rows, start[3], first[3], last[3];
            taps_of(row / p->out[1], 0, p, start, first, last);
            taps_of(row % p->out[1], 1, p, start + 1, first + 1, last + 1);
            for (i64 w = 0; w < p->out[2]; w++) {
                taps_of(w, 2, p, start + 2, first + 2, last + 2);
                for (i64 n = 0; n < N; n++) {
                    i64 at = b * p->batch_stride + P * p->token_stride + n * D;
                    i64 place = row * p->out[2] + w;
                    float *pooled = grad_pooled + ((b * places + place) * N + n) * D;
                    pool_one(p, x, at, weight, start, first, last, pooled, is_bf16);
                    normalise_backward(pooled, D, gamma, eps, grad_y,
                                       b * y_batch + ((P + place) * N + n) * D,
                                       mine + num_taps * D, mine + (num_taps + 1) * D, is_bf16);
                    weight_gradient(p, x, at, start, first, last, pooled, mine, is_bf16);
                }
            }
        } /* all of grad_pooled is there before the next loop starts */
#pragma omp for schedule(static)
        for (i64 index = 0; index < p->batch * in_rows; index++) {
            i64 b = index / in_rows, row = index % in_rows, count[3];
            i64 outs[3][MAX_KERNEL], taps[3][MAX_KERNEL];
            count[0] = windows_of(row / p->in[1], 0, p, outs[0], taps[0]);
            count[1] = windows_of(row % p->in[1], 1, p, outs[1], taps[1]);
            for (i64 w = 0; w < p->in[2]; w++) {
                count[2] = windows_of(w, 2, p, outs[2], taps[2]);
                i64 to = b * p->batch_stride + (P + row * p->in[2] + w) * p->token_stride;
                spread_one(p, grad_pooled + b * places * N * D, weight, count, outs, taps, grad_x,
                           to, is_bf16);
            }
        }
    }
}

/* y (B, P + OT*OH*OW, N, D) <- x, whose heads lie where token_stride and batch_stride say;
 * weight (taps, D). */
void pool_forward(const pooling *p, const void *x, const float *weight, const float *gamma,
                  const float *beta, float eps, void *y, int threads, int is_bf16) {
    if (is_bf16)
        pool_forward_of(p, x, weight, gamma, beta, eps, y, threads, 1);
    else
        pool_forward_of(p, x, weight, gamma, beta, eps, y, threads, 0);
}

/* grad_x lies as x does. grad_pooled (B, OT*OH*OW, N, D) is room to work in; partial
 * (threads, taps + 2, D) starts at 0 and ends as each thread's sums for weight, gamma and beta. */
void pool_backward(const pooling *p, const void *x, const float *weight, const float *gamma,
                   float eps, const void *grad_y, void *grad_x, float *grad_pooled, float *partial,
                   int threads, int is_bf16) {
    if (is_bf16)
        pool_backward_of(p, x, weight, gamma, eps, grad_y, grad_x, grad_pooled, partial, threads,
                         1);
    else
        pool_backward_of(p, x, weight, gamma, eps, grad_y, grad_x, grad_pooled, partial, threads,
                         0);
}

/* Rows of scores of one head; the first key columns are the prefix's. */
typedef struct {
    i64 rows, first_row;  /* this many queries, from that one on, prefix first */
    i64 keys, row_stride; /* a multiple of LANES, at least keys */
    i64 width, query_stride, prefix;
    i64 q[3], k[3]; /* grids */
} scoring;

/* offsets[0..kT+kH+kW) of a query: its products with the tables' rows for its place. */
INLINE void offsets_of(const scoring *s, const float *query, const float *const tables[3],
                       const i64 place[3], float *offsets) {
    for (int axis = 0; axis < 3; axis++) {
        const i64 length = s->k[axis];
        if (tables[axis]) {
            const float *row = tables[axis] + place[axis] * length * s->width;
            i64 k = 0;
            for (; k + 4 <= length; k += 4, row += 4 * s->width) {
                vec a0 = all(0), a1 = all(0), a2 = all(0), a3 = all(0);
                for (i64 d = 0; d < s->width; d += LANES) {
                    vec x = load(query + d);
                    a0 += x * load(row + d);
                    a1 += x * load(row + s->width + d);
                    a2 += x * load(row + 2 * s->width + d);
                    a3 += x * load(row + 3 * s->width + d);
                }
                offsets[k] = sum(a0);
                offsets[k + 1] = sum(a1);
                offsets[k + 2] = sum(a2);
                offsets[k + 3] = sum(a3);
            }
            for (; k < length; k++, row += s->width) {
                vec a = all(0);
                for (i64 d = 0; d < s->width; d += LANES) a += load(query + d) * load(row + d);
                offsets[k] = sum(a);
            }
        } else {
            memset(offsets, 0, length * sizeof *offsets);
        }
        offsets += length;
    }
}

INLINE void place_of(const scoring *s, i64 row, i64 place[3]) {
    i64 i = s->first_row + row - s->prefix;
    place[0] = i / (s->q[1] * s->q[2]);
    place[1] = i / s->q[2] % s->q[1];
    place[2] = i % s->q[2];
}

/* scores <- scale * scores + offsets; what lies beyond the keys <- -infinity. The largest score. */
INLINE float complete(const scoring *s, i64 row, float *scores, float scale, const float *query,
                     const float *const tables[3]) {
    const i64 plane = s->k[1] * s->k[2];
    float top = -INFINITY;
    if (s->first_row + row < s->prefix) {
#pragma omp simd reduction(max : top)
        for (i64 j = 0; j < s->keys; j++) {
            scores[j] *= scale;
            top = scores[j] > top ? scores[j] : top;
        }
    } else {
        float offsets[MAX_WIDTH], in_plane[MAX_PLANE];
        i64 place[3];
        place_of(s, row, place);
        offsets_of(s, query, tables, place, offsets);
        const float *of_h = offsets + s->k[0], *of_w = of_h + s->k[1];
        for (i64 h = 0; h < s->k[1]; h++)
            for (i64 w = 0; w < s->k[2]; w++) in_plane[h * s->k[2] + w] = of_h[h] + of_w[w];
        for (i64 j = 0; j < s->prefix; j++) {
            scores[j] *= scale;
            top = scores[j] > top ? scores[j] : top;
        }
        float *grid = scores + s->prefix;
        for (i64 t = 0; t < s->k[0]; t++, grid += plane) {
            const float of_t = offsets[t];
#pragma omp simd reduction(max : top)
            for (i64 j = 0; j < plane; j++) {
                grid[j] = scale * grid[j] + (of_t + in_plane[j]);
                top = grid[j] > top ? grid[j] : top;
            }
        }
    }
    for (i64 j = s->keys; j < s->row_stride; j++) scores[j] = -INFINITY;
    return top;
}

/* scores (rows, row_stride) <- their softmax over the keys. log_sum (rows) <- log of the sum of
 * exponentials, kept for the backward pass. queries lie query_stride apart. */
void softmax_forward(const scoring *s, float *scores, float scale, const float *queries,
                     const float *table_t, const float *table_h, const float *table_w,
                     float *log_sum, int threads) {
    const float *const tables[3] = {table_t, table_h, table_w};
#pragma omp parallel for schedule(static) num_threads(threads)
    for (i64 row = 0; row < s->rows; row++) {
        float *x = scores + row * s->row_stride;
        float top = complete(s, row, x, scale, queries + row * s->query_stride, tables);
        vec total = all(0);
        for (i64 j = 0; j < s->row_stride; j += LANES) {
            vec y = exp_of_negative(load(x + j) - top);
            total += y;
            store(x + j, y);
        }
        float whole = sum(total), inverse = 1.0f / whole;
        for (i64 j = 0; j < s->row_stride; j += LANES) store(x + j, load(x + j) * inverse);
        log_sum[row] = top + logf(whole);
    }
}

/* scores (rows, row_stride), as softmax_forward got them, <- probabilities; grads, gradients of
 * the probabilities, <- gradients of the completed scores. Added to: grad_queries (rows, width
 * contiguous) by what comes through the offsets, and partial (threads, table sizes together), each
 * thread's sums for the tables. */
void softmax_backward(const scoring *s, float *scores, float *grads, float scale,
                      const float *queries, const float *table_t, const float *table_h,
                      const float *table_w, const float *log_sum, float *grad_queries,
                      float *partial, int threads) {
    const float *const tables[3] = {table_t, table_h, table_w};
    const i64 plane = s->k[1] * s->k[2];
    i64 sizes[3], partial_size = 0;
    for (int axis = 0; axis < 3; axis++) {
        sizes[axis] = tables[axis] ? s->q[axis] * s->k[axis] * s->width : 0;
        partial_size += sizes[axis];
    }
#pragma omp parallel num_threads(threads)
    {
        float *mine = partial + omp_get_thread_num() * partial_size;
#pragma omp for schedule(static)
        for (i64 row = 0; row < s->rows; row++) {
            float *x = scores + row * s->row_stride, *g = grads + row * s->row_stride;
            const float *query = queries + row * s->query_stride;
            complete(s, row, x, scale, query, tables);
            for (i64 j = s->keys; j < s->row_stride; j++) g[j] = 0;
            vec total = all(0);
            for (i64 j = 0; j < s->row_stride; j += LANES) {
                vec y = exp_of_negative(load(x + j) - log_sum[row]);
                total += y * load(g + j);
                store(x + j, y);
            }
            float mean = sum(total);
            for (i64 j = 0; j < s->row_stride; j += LANES)
                store(g + j, load(x + j) * (load(g + j) - mean));
            if (s->first_row + row >= s->prefix && partial_size) {
                float sums[MAX_WIDTH], in_plane[MAX_PLANE];
                memset(sums, 0, (s->k[0] + s->k[1] + s->k[2]) * sizeof *sums);
                memset(in_plane, 0, plane * sizeof *in_plane);
                float *of_h = sums + s->k[0], *of_w = of_h + s->k[1];
                const float *grid = g + s->prefix;
                for (i64 t = 0; t < s->k[0]; t++, grid += plane) {
                    float of_t = 0;
#pragma omp simd reduction(+ : of_t)
                    for (i64 j = 0; j < plane; j++) {
                        of_t += grid[j];
                        in_plane[j] += grid[j];
                    }
                    sums[t] = of_t;
                }
                for (i64 h = 0; h < s->k[1]; h++)
                    for (i64 w = 0; w < s->k[2]; w++) {
                        of_h[h] += in_plane[h * s->k[2] + w];
                        of_w[w] += in_plane[h * s->k[2] + w];
                    }
                i64 place[3];
                place_of(s, row, place);
                float *grad_query = grad_queries + row * s->width, *grad_table = mine;
                const float *of_axis = sums;
                for (int axis = 0; axis < 3; axis++) {
                    const i64 length = s->k[axis], at = place[axis] * length * s->width;
                    for (i64 d = 0; tables[axis] && d < s->width; d += LANES) {
                        const float *from = tables[axis] + at + d;
                        float *to = grad_table + at + d;
                        vec x = load(query + d), total_d = load(grad_query + d);
                        for (i64 k = 0; k < length; k++, from += s->width, to += s->width) {
                            total_d += of_axis[k] * load(from);
                            store(to, load(to) + of_axis[k] * x);
                        }
                        store(grad_query + d, total_d);
                    }
                    of_axis += length;
                    grad_table += sizes[axis];
                }
            }
        }
    }
}
