/* Depthwise 3-D pooling of every head, then LayerNorm: pool_forward, pool_backward. */

#include "pool_rows.h"
#include "pool_tiles.h"

/* pool_forward of the grid where it is_dense. */
INLINE void pool_tiles(const pooling *p, const void *x, const float *weight, const float *gamma,
                       const float *beta, float eps, void *y, int threads, int is_bf16) {
    const tiling cut = tiling_of(p);
#pragma omp parallel num_threads(threads)
    {
        float *tokens = allocate_tokens(p, &cut), *pooled = allocate_pooled(p, &cut);
#pragma omp for schedule(static)
        for (i64 index = 0; index < p->batch * p->heads * cut.num_tiles; index++) {
            const tile at = nth_tile(p, &cut, index);
            pool_tile(p, &cut, &at, x, weight, gamma, beta, eps, y, tokens, pooled, is_bf16);
        }
        free(tokens);
        free(pooled);
    }
}

/* y (B, P + OT*OH*OW, N, D) <- x, whose heads lie where token_stride and batch_stride say;
 * weight (taps, D). */
void pool_forward(const pooling *p, const void *x, const float *weight, const float *gamma,
                  const float *beta, float eps, void *y, int threads, int is_bf16) {
    for (i64 b = 0; b < p->batch; b++) pass_prefix(p, b, x, gamma, beta, eps, y, is_bf16);
    if (is_dense(p)) {
        if (is_bf16)
            pool_tiles(p, x, weight, gamma, beta, eps, y, threads, 1);
        else
            pool_tiles(p, x, weight, gamma, beta, eps, y, threads, 0);
        return;
    }
#pragma omp parallel for schedule(static) num_threads(threads)
    for (i64 index = 0; index < p->batch * p->out[0] * p->out[1]; index++) {
        if (is_bf16)
            pool_row(p, index, x, weight, gamma, beta, eps, y, 1);
        else
            pool_row(p, index, x, weight, gamma, beta, eps, y, 0);
    }
}

/* By each thread of a team: its share of grad_pooled and of the sums of the parameters. */
INLINE void to_pooled(const pooling *p, const void *x, const float *weight, const float *gamma,
                      float eps, const void *grad_y, float *grad_pooled, float *sums,
                      int is_bf16) {
    if (!is_dense(p)) {
#pragma omp for schedule(static)
        for (i64 index = 0; index < p->batch * p->out[0] * p->out[1]; index++)
            pool_row_backward(p, index, x, weight, gamma, eps, grad_y, grad_pooled, sums, is_bf16);
        return;
    }
    const tiling cut = tiling_of(p);
    float *tokens = allocate_tokens(p, &cut), *pooled = allocate_pooled(p, &cut);
#pragma omp for schedule(static)
    for (i64 index = 0; index < p->batch * p->heads * cut.num_tiles; index++) {
        const tile at = nth_tile(p, &cut, index);
        pool_tile_backward(p, &cut, &at, x, weight, gamma, eps, grad_y, grad_pooled, sums, tokens,
                           pooled, is_bf16);
    }
    free(tokens);
    free(pooled);
}

/* By each thread of a team: its share of grad_x. */
INLINE void to_tokens(const pooling *p, const float *weight, const float *grad_pooled,
                      void *grad_x, int is_bf16) {
    if (!is_dense(p) || p->stride[0] * p->stride[1] * p->stride[2] != 1) {
#pragma omp for schedule(static)
        for (i64 index = 0; index < p->batch * p->in[0] * p->in[1]; index++)
            spread_row(p, index, weight, grad_pooled, grad_x, is_bf16);
        return;
    }
    pooling turned = *p;
    turned.prefix = 0;
    turned.token_stride = p->heads * p->width;
    turned.batch_stride = p->in[0] * p->in[1] * p->in[2] * turned.token_stride;
    const i64 num_taps = p->kernel[0] * p->kernel[1] * p->kernel[2], D = p->width;
    const tiling cut = tiling_of(&turned);
    float *tokens = allocate_tokens(&turned, &cut), *spread = allocate_pooled(&turned, &cut);
    float *turned_weight = allocate(num_taps * D);
    for (i64 tap = 0; tap < num_taps; tap++)
        memcpy(turned_weight + tap * D, weight + (num_taps - 1 - tap) * D, D * sizeof(float));
#pragma omp for schedule(static)
    for (i64 index = 0; index < p->batch * p->heads * cut.num_tiles; index++) {
        const tile at = nth_tile(&turned, &cut, index);
        spread_tile(p, &turned, &cut, &at, grad_pooled, turned_weight, grad_x, tokens, spread,
                    is_bf16);
    }
    free(tokens);
    free(spread);
    free(turned_weight);
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
        if (is_bf16) /* all of grad_pooled is there before its second use starts */
            to_pooled(p, x, weight, gamma, eps, grad_y, grad_pooled, sums, 1);
        else
            to_pooled(p, x, weight, gamma, eps, grad_y, grad_pooled, sums, 0);
        if (is_bf16)
            to_tokens(p, weight, grad_pooled, grad_x, 1);
        else
            to_tokens(p, weight, grad_pooled, grad_x, 0);
    }
}
