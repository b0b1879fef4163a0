/* Depthwise 3-D pooling of every head, then LayerNorm: pool_forward, pool_backward. */

#include "pool_rows.h"
#include "pool_tiles.h"

/* By each thread of a team: its share of the outputs. */
INLINE void pool(const pooling *p, const void *x, const float *weight, const output *out,
                 int is_bf16) {
    if (is_dense(p)) {
        pool_tiles(p, x, weight, out, is_bf16, is_bf16);
    } else {
#pragma omp for schedule(static)
        for (i64 index = 0; index < p->batch * p->out[0] * p->out[1]; index++)
            pool_row(p, index, x, weight, out, is_bf16);
    }
}

/* By each thread of a team: its share of grad_x. Where no stride is above 1, that is grad_pooled,
 * convolved with the reversed filters. */
INLINE void spread(const pooling *p, const float *weight, const float *grad_pooled, void *grad_x,
                   int is_bf16) {
    if (!is_dense(p) || volume(p->stride) != 1) {
#pragma omp for schedule(static)
        for (i64 index = 0; index < p->batch * p->in[0] * p->in[1]; index++)
            spread_row(p, index, weight, grad_pooled, grad_x, is_bf16);
        return;
    }
    const i64 num_taps = volume(p->kernel), D = p->width;
    pooling reversed = *p;
    reversed.prefix = 0;
    reversed.token_stride = p->heads * D;
    reversed.batch_stride = volume(p->in) * reversed.token_stride;
    const output to = {
        .y = (char *)grad_x + p->prefix * p->token_stride * (is_bf16 ? 2 : 4),
        .token_stride = p->token_stride,
        .batch_stride = p->batch_stride,
    };
    float *reversed_weight = allocate(num_taps * D);
    for (i64 tap = 0; tap < num_taps; tap++)
        memcpy(reversed_weight + tap * D, weight + (num_taps - 1 - tap) * D, D * sizeof(float));
    pool_tiles(&reversed, grad_pooled, reversed_weight, &to, 0, is_bf16);
    free(reversed_weight);
}

/* y (B, P + OT*OH*OW, N, D) <- x, whose heads are at token_stride and batch_stride;
 * weight (taps, D). */
void pool_forward(const pooling *p, const void *x, const float *weight, const float *gamma,
                  const float *beta, float eps, void *y, i64 is_bf16, i64 threads) {
    const i64 token = p->heads * p->width, clip = (p->prefix + volume(p->out)) * token;
    const output out = {y, token, clip, gamma, beta, eps, 0, 0};
    finish_prefix(p, x, &out, 0, is_bf16);
#pragma omp parallel num_threads(threads)
    FOR_DTYPE(pool, p, x, weight, &out);
}

/* grad_x has the layout of x. grad_pooled (B, OT*OH*OW, N, D) is scratch memory; partial
 * (threads, taps + 2, D) starts as zeros and ends as the sums of each thread for weight, gamma and
 * beta. */
void pool_backward(const pooling *p, const void *x, const float *weight, const float *gamma,
                   float eps, const void *grad_y, void *grad_x, float *grad_pooled, float *partial,
                   i64 is_bf16, i64 threads) {
    const i64 token = p->heads * p->width, clip = (p->prefix + volume(p->out)) * token;
    output out = {(void *)grad_y, token, clip, gamma, 0, eps, grad_pooled, partial};
    finish_prefix(p, x, &out, grad_x, is_bf16);
#pragma omp parallel num_threads(threads) firstprivate(out)
    {
        out.sums += omp_get_thread_num() * (volume(p->kernel) + 2) * p->width;
        FOR_DTYPE(pool, p, x, weight, &out); /* ends with a barrier: grad_pooled is complete */
        FOR_DTYPE(spread, p, weight, grad_pooled, grad_x);
    }
}
