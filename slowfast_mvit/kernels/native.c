/* Three parts of pooling attention for CPUs, float32 or bfloat16 in memory, float32 in registers.
 *
 *   pool_forward, pool_backward          depthwise 3-D pooling of every head, then LayerNorm
 *   max_forward, max_backward            max pooling of the skip path
 *   softmax_forward, softmax_backward    scores -> probabilities, relative positions added
 *
 * native.py compiles this file when it is first needed and describes the arguments; the plain
 * twins are PyTorch's own operations, in pool_qkv.py, pooling.py and models/attention.py.
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

#ifdef __AVX2__
#include <immintrin.h>
#endif

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
#ifdef __AVX2__ /* the compiler would take five instructions for it */
    return (vec)((uvec)_mm256_cvtepu16_epi32((__m128i)half) << 16);
#else
    return (vec)(__builtin_convertvector(half, uvec) << 16);
#endif
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

/* A run of output positions side by side that have the same taps on the grid. */
typedef struct {
    i64 start[3], first[3], last[3]; /* of the first position; the others lie stride[2] further */
} window;

#define RUN 4

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

/* y (B, P + OT*OH*OW, N, D) <- x, whose heads lie where token_stride and batch_stride say;
 * weight (taps, D). */
void pool_forward(const pooling *p, const void *x, const float *weight, const float *gamma,
                  const float *beta, float eps, void *y, int threads, int is_bf16) {
    for (i64 b = 0; b < p->batch; b++) pass_prefix(p, b, x, gamma, beta, eps, y, is_bf16);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (i64 index = 0; index < p->batch * p->out[0] * p->out[1]; index++) {
        if (is_bf16)
            pool_row(p, index, x, weight, gamma, beta, eps, y, 1);
        else
            pool_row(p, index, x, weight, gamma, beta, eps, y, 0);
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

/* The windows that tokens of a run are in: output places and taps along each axis, of the first. */
typedef struct {
    i64 count[3], outs[3][MAX_KERNEL], taps[3][MAX_KERNEL];
} windows;

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

/* grad_x lies as x does. grad_pooled (B, OT*OH*OW, N, D) is room to work in; partial
 * (threads, taps + 2, D) starts at 0 and ends as each thread's sums for weight, gamma and beta. */
void pool_backward(const pooling *p, const void *x, const float *weight, const float *gamma,
                   float eps, const void *grad_y, void *grad_x, float *grad_pooled, float *partial,
                   int threads, int is_bf16) {
    const i64 num_taps = p->kernel[0] * p->kernel[1] * p->kernel[2];
    for (i64 b = 0; b < p->batch; b++)
        pass_prefix_backward(p, b, x, gamma, eps, grad_y, grad_x, partial, is_bf16);
#pragma omp parallel num_threads(threads)
    {
        float *sums = partial + omp_get_thread_num() * (num_taps + 2) * p->width;
#pragma omp for schedule(static)
        for (i64 index = 0; index < p->batch * p->out[0] * p->out[1]; index++) {
            if (is_bf16)
                pool_row_backward(p, index, x, weight, gamma, eps, grad_y, grad_pooled, sums, 1);
            else
                pool_row_backward(p, index, x, weight, gamma, eps, grad_y, grad_pooled, sums, 0);
        } /* all of grad_pooled is there before the next loop starts */
#pragma omp for schedule(static)
        for (i64 index = 0; index < p->batch * p->in[0] * p->in[1]; index++) {
            if (is_bf16)
                spread_row(p, index, weight, grad_pooled, grad_x, 1);
            else
                spread_row(p, index, weight, grad_pooled, grad_x, 0);
        }
    }
}

/* The largest of each channel over the windows of one row of outputs, and by which tap it came:
 * the first one where several are the largest, as PyTorch has it. NaN is larger than all. */
INLINE void max_row(const pooling *p, i64 index, const void *x, void *y, uint8_t *taps,
                    int is_bf16) {
    const i64 C = p->width, rows = p->out[0] * p->out[1], places = rows * p->out[2];
    const i64 b = index / rows, row = index % rows;
    window win;
    taps_of(row / p->out[1], 0, p, win.start, win.first, win.last);
    taps_of(row % p->out[1], 1, p, win.start + 1, win.first + 1, win.last + 1);
    for (i64 w = 0; w < p->out[2]; w++) {
        taps_of(w, 2, p, win.start + 2, win.first + 2, win.last + 2);
        i64 place = row * p->out[2] + w;
        for (i64 c = 0; c < C; c += LANES) {
            vec highest = all(-INFINITY);
            ivec where = {0};
            int is_first = 1;
            for (i64 kt = win.first[0]; kt < win.last[0]; kt++)
                for (i64 kh = win.first[1]; kh < win.last[1]; kh++)
                    for (i64 kw = win.first[2]; kw < win.last[2]; kw++) {
                        i64 token = ((win.start[0] + kt) * p->in[1] + win.start[1] + kh) *
                                        p->in[2] + win.start[2] + kw;
                        int tap = (int)((kt * p->kernel[1] + kh) * p->kernel[2] + kw);
                        vec one = load_any(
                            x, b * p->batch_stride + (p->prefix + token) * p->token_stride + c,
                            is_bf16);
                        ivec wins = (one > highest) | (one != one) | -is_first;
                        highest = (vec)((wins & (ivec)one) | (~wins & (ivec)highest));
                        where = (wins & tap) | (~wins & where);
                        is_first = 0;
                    }
            store_any(y, (b * (p->prefix + places) + p->prefix + place) * C + c, highest, is_bf16);
            for (int lane = 0; lane < LANES; lane++)
                taps[(b * places + place) * C + c + lane] = (uint8_t)where[lane];
        }
    }
}

/* grad_x of one row of the grid of max_row's input. */
INLINE void max_row_backward(const pooling *p, i64 index, const void *grad_y, const uint8_t *taps,
                             void *grad_x, int is_bf16) {
    const i64 C = p->width, rows = p->in[0] * p->in[1], b = index / rows, row = index % rows;
    const i64 places = p->out[0] * p->out[1] * p->out[2];
    windows in;
    in.count[0] = windows_of(row / p->in[1], 0, p, in.outs[0], in.taps[0]);
    in.count[1] = windows_of(row % p->in[1], 1, p, in.outs[1], in.taps[1]);
    for (i64 w = 0; w < p->in[2]; w++) {
        in.count[2] = windows_of(w, 2, p, in.outs[2], in.taps[2]);
        i64 to = b * p->batch_stride + (p->prefix + row * p->in[2] + w) * p->token_stride;
        for (i64 c = 0; c < C; c += LANES) {
            vec total = all(0);
            for (i64 i = 0; i < in.count[0]; i++)
                for (i64 j = 0; j < in.count[1]; j++)
                    for (i64 k = 0; k < in.count[2]; k++) {
                        i64 place = (in.outs[0][i] * p->out[1] + in.outs[1][j]) * p->out[2] +
                                    in.outs[2][k];
                        int tap = (int)((in.taps[0][i] * p->kernel[1] + in.taps[1][j]) *
                                            p->kernel[2] + in.taps[2][k]);
                        const uint8_t *came = taps + (b * places + place) * C + c;
                        vec one = load_any(
                            grad_y, (b * (p->prefix + places) + p->prefix + place) * C + c,
                            is_bf16);
                        ivec mine;
                        for (int lane = 0; lane < LANES; lane++) mine[lane] = -(came[lane] == tap);
                        total += (vec)(mine & (ivec)one);
                    }
            store_any(grad_x, to + c, total, is_bf16);
        }
    }
}

/* The prefix tokens of all clips, from one tensor (B, from_tokens, C) to the other. */
INLINE void copy_prefix(const pooling *p, const void *from, i64 from_tokens, void *to,
                        i64 to_tokens, int is_bf16) {
    const i64 size = is_bf16 ? 2 : 4;
    for (i64 b = 0; b < p->batch; b++)
        memcpy((char *)to + b * to_tokens * p->width * size,
               (const char *)from + b * from_tokens * p->width * size, p->prefix * p->width * size);
}

/* y (B, P + OT*OH*OW, C) and taps (B, OT*OH*OW, C) <- x (B, P + T*H*W, C). */
void max_forward(const pooling *p, const void *x, void *y, uint8_t *taps, int threads,
                 int is_bf16) {
    const i64 places = p->out[0] * p->out[1] * p->out[2], tokens = p->in[0] * p->in[1] * p->in[2];
    copy_prefix(p, x, p->prefix + tokens, y, p->prefix + places, is_bf16);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (i64 index = 0; index < p->batch * p->out[0] * p->out[1]; index++) {
        if (is_bf16)
            max_row(p, index, x, y, taps, 1);
        else
            max_row(p, index, x, y, taps, 0);
    }
}

void max_backward(const pooling *p, const void *grad_y, const uint8_t *taps, void *grad_x,
                  int threads, int is_bf16) {
    const i64 places = p->out[0] * p->out[1] * p->out[2], tokens = p->in[0] * p->in[1] * p->in[2];
    copy_prefix(p, grad_y, p->prefix + places, grad_x, p->prefix + tokens, is_bf16);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (i64 index = 0; index < p->batch * p->in[0] * p->in[1]; index++) {
        if (is_bf16)
            max_row_backward(p, index, grad_y, taps, grad_x, 1);
        else
            max_row_backward(p, index, grad_y, taps, grad_x, 0);
    }
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
