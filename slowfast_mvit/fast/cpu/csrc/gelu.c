/* GELU of the output of a linear layer without its bias, which is added here: gelu.
 *
 * gelu(x) = x P(x), P the normal distribution function. Its tail is exp(-x^2/2) times a smooth
 * function, so that large negative numbers keep their digits, which 1 + erf loses.
 */

#ifdef __AVX512F__
#define LANES 16
#endif
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

INLINE void gelu_row(const void *x, const float *bias, void *y, void *grad, i64 at, i64 width,
                     int is_bf16) {
    for (i64 d = 0; d < width; d += LANES) {
        vec sum = load_any(x, at + d, is_bf16) + load(bias + d);
        vec density = exp_of_negative(sum * sum * -0.5f), p = normal_distribution(sum, density);
        if (grad) {
            vec slope = sum * density * 0.3989422804f + p; /* 1 / sqrt(2 pi) */
            store_any(grad, at + d, load_any(grad, at + d, is_bf16) * slope, is_bf16);
        }
        store_any(y, at + d, sum * p, is_bf16);
    }
}

/* y (rows, width, a multiple of 16) <- gelu(x + bias); y may be x. grad, if not NULL, is the gradient of y
 * and becomes the gradient of x. */
void gelu(const void *x, const float *bias, void *y, void *grad, i64 rows, i64 width, i64 is_bf16,
          i64 threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (i64 row = 0; row < rows; row++)
        FOR_DTYPE(gelu_row, x, bias, y, grad, row * width, width);
}
