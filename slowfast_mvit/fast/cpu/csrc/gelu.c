/* GELU of a linear layer's output, its bias added on the way: gelu_forward, gelu_backward.
 *
 * gelu(x) = x P(x), P the normal distribution function. Its tail is exp(-x^2/2) times a smooth
 * function, so that large negative numbers keep their digits, which 1 + erf loses.
 */

#include "vectors.h"

/* P(x); density is exp(-x^2/2). The tail is a polynomial in t = 1 / (1 + 0.305 |x|), fitted by
 * least squares to P(-|x|) / (t density) with a relative error below 1e-7 for |x| < 13.2. */
INLINE vec normal_distribution(vec x, vec density) {
    vec a = (vec)((ivec)x & 0x7fffffff);
    vec t = 1.0f / (a * 0.305f + 1.0f);
    vec p = all(3.669921204e-2f);
    p = p * t - 1.529883946e-1f;
    p = p * t + 1.857170212e-1f;
    p = p * t - 3.797690331e-2f;
    p = p * t + 1.210216909e-1f;
    p = p * t + 1.034208747e-1f;
    p = p * t + 1.224668128e-1f;
    p = p * t + 1.216397332e-1f;
    vec tail = p * t * density;
    ivec is_negative = x < 0;
    return (vec)((is_negative & (ivec)tail) | (~is_negative & (ivec)(1.0f - tail)));
}

INLINE void gelu_rows(const void *x, const float *bias, void *y, i64 at, i64 width, int is_bf16) {
    for (i64 d = 0; d < width; d += LANES) {
        vec sum = load_any(x, at + d, is_bf16) + load(bias + d);
        vec density = exp_of_negative(sum * sum * -0.5f);
        store_any(y, at + d, sum * normal_distribution(sum, density), is_bf16);
    }
}

/* y (rows, width) <- gelu(x + bias); y may be x. */
void gelu_forward(const void *x, const float *bias, void *y, i64 rows, i64 width, int threads,
                  int is_bf16) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (i64 row = 0; row < rows; row++) {
        if (is_bf16)
            gelu_rows(x, bias, y, row * width, width, 1);
        else
            gelu_rows(x, bias, y, row * width, width, 0);
    }
}

INLINE void gelu_rows_backward(const void *x, const float *bias, void *grad, void *y, i64 at,
                               i64 width, int is_bf16) {
    for (i64 d = 0; d < width; d += LANES) {
        vec sum = load_any(x, at + d, is_bf16) + load(bias + d);
        vec density = exp_of_negative(sum * sum * -0.5f), p = normal_distribution(sum, density);
        vec slope = sum * density * 0.3989422804f + p; /* 1 / sqrt(2 pi) */
        store_any(grad, at + d, load_any(grad, at + d, is_bf16) * slope, is_bf16);
        store_any(y, at + d, sum * p, is_bf16);
    }
}

/* grad (rows, width), of gelu(x + bias), <- that of x; y <- gelu(x + bias). */
void gelu_backward(const void *x, const float *bias, void *grad, void *y, i64 rows, i64 width,
                   int threads, int is_bf16) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (i64 row = 0; row < rows; row++) {
        if (is_bf16)
            gelu_rows_backward(x, bias, grad, y, row * width, width, 1);
        else
            gelu_rows_backward(x, bias, grad, y, row * width, width, 0);
    }
}
