/* Attention with bfloat16 products: attend, attend_backward; only where multiplies_bfloat16.
 *
 * A block of queries at a time: its scores stay in the cache, in float32. Exponentials and
 * gradients of scores are rounded to bfloat16 for the next product, as in any fused attention.
 *
 * The queries of a head are split into slices, so that there is work for each thread. The gradients
 * of keys and values are summed for each slice, and then over the slices in their order.
 */

#include "products.h"
#include "scores.h"

/* Whether this library has, and this process may use, instructions for bfloat16 products. */
i64 multiplies_bfloat16(i64 threads) {
#ifdef __AMX_BF16__
    (void)has_tiles();
#endif
#ifdef __AVX512BF16__
    return threads > 0;
#else
    return 0 * threads;
#endif
}

#ifdef __AVX512BF16__

#define ROWS 32          /* queries of a block */
#define ROWS_BACKWARD 64 /* each block adds to the gradients of all keys and values */

/* A call. s is that of all queries of a head; batches and heads are adjacent in memory as in
 * (B, L, N, D). */
typedef struct {
    const scoring *s;
    i64 heads, units, slices; /* (clip, head) pairs; slices of the queries of each */
    i64 keys, width;          /* padded */
    float scale;
    i64 add_from;
    const float *tables[3];
} call;

INLINE call call_of(const scoring *s, i64 batch, i64 heads, float scale, i64 add_from,
                    const float *t, const float *h, const float *w, i64 threads) {
    const i64 units = batch * heads, slices = units ? (threads + units - 1) / units : 1;
    return (call){s, heads, units, slices, padded(s->keys), padded(s->width), scale, add_from,
                  {t, h, w}};
}

/* Numbers before the first row of a (clip, head) pair in a tensor (B, length, N, D). */
INLINE i64 start_of(const call *c, i64 unit, i64 length) {
    return (unit / c->heads * length * c->heads + unit % c->heads) * c->s->width;
}

INLINE void *scratch(i64 bytes) { return aligned_alloc(64, (bytes + 63) / 64 * 64); }

/* The rows of one block of a slice, and the record of a block from there. */
INLINE scoring block_of(const call *c, i64 first, i64 last, i64 most) {
    scoring block = *c->s;
    block.first_row = first;
    block.rows = last - first < most ? last - first : most;
    block.row_stride = c->keys;
    return block;
}

/* to (most, padded width) <- rows that are stride apart, and zeros. */
INLINE void copy_rows(const call *c, const half *from, i64 stride, i64 rows, i64 most, half *to) {
    memset(to, 0, most * c->width * sizeof *to);
    for (i64 row = 0; row < rows; row++)
        memcpy(to + row * c->width, from + row * stride, c->s->width * sizeof *to);
}

INLINE void to_float(const half *from, i64 width, float *to) {
    for (i64 d = 0; d < width; d += LANES) store(to + d, load_any(from, d, 1));
}

/* e^x for x <= 0, within 2^-18 of its value; bfloat16 has 2^-9. 0 below -87. NaN stays NaN. */
INLINE __m512 exponential(__m512 x) {
    const __mmask16 normal = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-87.0f), _CMP_NLT_UQ);
    x *= 1.44269504088896341f;
    const __m512 n = _mm512_roundscale_ps(x, 8), r = x - n;
    __m512 p = _mm512_set1_ps(1.32187e-3f);
    p = p * r + 9.6717e-3f;
    p = p * r + 5.550893e-2f;
    p = p * r + 2.4022238e-1f;
    p = p * r + 6.9314686e-1f;
    p = p * r + 1.0f;
    return _mm512_maskz_scalef_ps(normal, p, n);
}

/* out <- the attention of the queries of a block. */
INLINE void attend_block(const call *c, const scoring *block, const half *q, const half *keys,
                         const half *values, half *queries, float *scores, half *probs,
                         float *outs, half *out, float *log_sum) {
    const i64 stride = c->s->query_stride, D = c->s->width;
    float inverse[ROWS], query[MAX_WIDTH];
    copy_rows(c, q, stride, block->rows, ROWS, queries);
    multiply(queries, c->width, keys, scores, c->keys, ROWS, c->keys, c->width, 0);
    for (i64 row = 0; row < block->rows; row++) {
        float *x = scores + row * c->keys;
        to_float(q + row * stride, D, query);
        const float top = complete(block, row, x, c->scale, query, c->tables);
        __m512 total = _mm512_setzero_ps();
        for (i64 j = 0; j < c->keys; j += 16) {
            const __m512 y = exponential(_mm512_loadu_ps(x + j) - top);
            total += y;
            half *prob = probs + row * c->keys + j;
            _mm256_storeu_si256((__m256i *)prob, (__m256i)_mm512_cvtneps_pbh(y));
        }
        const float whole = _mm512_reduce_add_ps(total);
        inverse[row] = 1.0f / whole;
        log_sum[row] = top + logf(whole);
    }
    multiply(probs, c->keys, values, outs, c->width, ROWS, c->width, c->keys, 0);
    for (i64 row = 0; row < block->rows; row++) {
        const float share = block->first_row + row >= c->add_from ? 1.0f : 0.0f;
        for (i64 d = 0; d < D; d += LANES) {
            const vec of_query = share * load_any(q, row * stride + d, 1);
            const vec sum = load(outs + row * c->width + d) * inverse[row] + of_query;
            store_any(out, row * stride + d, sum, 1);
        }
    }
}

/* out (B, Lq, N, D) and log_sum (B, N, Lq) <- as in softmax_forward and softmax_finish. */
void attend(const scoring *s, i64 batch, i64 heads, float scale, i64 add_from, const half *q,
            const half *k, const half *v, const float *table_t, const float *table_h,
            const float *table_w, half *out, float *log_sum, i64 threads) {
    const call c =
        call_of(s, batch, heads, scale, add_from, table_t, table_h, table_w, threads);
    const i64 of_keys = c.keys * c.width;
#pragma omp parallel num_threads(threads)
    {
        half *keys = scratch(2 * (2 * of_keys + ROWS * (c.width + c.keys)));
        half *values = keys + of_keys, *queries = values + of_keys, *probs = queries + ROWS * c.width;
        float *scores = scratch(4 * ROWS * (c.keys + c.width)), *outs = scores + ROWS * c.keys;
        memset(probs, 0, 2 * ROWS * c.keys);
        begin_products();
#pragma omp for schedule(static)
        for (i64 index = 0; index < c.units * c.slices; index++) {
            const i64 unit = index / c.slices, slice = index % c.slices;
            const i64 of_k = start_of(&c, unit, s->keys), of_q = start_of(&c, unit, s->rows);
            const i64 last = s->rows * (slice + 1) / c.slices;
            pack_transposed(k + of_k, s->query_stride, s->keys, s->width, keys);
            pack(v + of_k, s->query_stride, s->keys, s->width, values);
            for (i64 row = s->rows * slice / c.slices; row < last; row += ROWS) {
                const scoring block = block_of(&c, row, last, ROWS);
                const i64 at = of_q + row * s->query_stride;
                attend_block(&c, &block, q + at, keys, values, queries, scores, probs, outs,
                             out + at, log_sum + unit * s->rows + row);
            }
        }
        end_products();
        free(keys);
        free(scores);
    }
}

/* Scratch memory of a thread for the backward pass. */
typedef struct {
    half *keys, *values, *keys_by_row; /* packed: for scores, their gradients, those of queries */
    half *queries, *grads, *queries_t, *grads_t;
    half *grad_scores_by_row, *grad_scores_packed, *probs_packed;
    float *scores, *grad_scores, *grad_queries;
    void *halves, *floats;
} buffers;

INLINE buffers new_buffers(const call *c) {
    const i64 of_keys = c->keys * c->width, rows = ROWS_BACKWARD;
    const i64 of_rows = rows * c->width, of_scores = rows * c->keys;
    half *at = scratch(2 * (3 * of_keys + 4 * of_rows + 3 * of_scores));
    float *of_floats = scratch(4 * (2 * of_scores + of_rows));
    buffers b = {.halves = at, .floats = of_floats};
    half **const by_keys[] = {&b.keys, &b.values, &b.keys_by_row};
    half **const by_rows[] = {&b.queries, &b.grads, &b.queries_t, &b.grads_t};
    half **const by_scores[] = {&b.grad_scores_by_row, &b.grad_scores_packed, &b.probs_packed};
    for (int i = 0; i < 3; i++, at += of_keys) *by_keys[i] = at;
    for (int i = 0; i < 4; i++, at += of_rows) *by_rows[i] = at;
    for (int i = 0; i < 3; i++, at += of_scores) *by_scores[i] = at;
    b.scores = of_floats;
    b.grad_scores = of_floats + of_scores;
    b.grad_queries = of_floats + 2 * of_scores;
    return b;
}

/* x (2 rows, keys) of float32, rounded: as pairs at packed, whose tiles of 16 keys are tile apart;
 * and in rows, if not NULL. */
INLINE void round_pairs(const call *c, const float *x, i64 tile, half *packed, half *rows) {
    for (i64 j = 0; j < c->keys; j += 16) {
        const __m256i first = (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(x + j));
        const __m256i second = (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(x + c->keys + j));
        _mm512_storeu_si512(packed + j / 16 * tile, pairs(first, second));
        if (!rows) continue;
        _mm256_storeu_si256((__m256i *)(rows + j), first);
        _mm256_storeu_si256((__m256i *)(rows + c->keys + j), second);
    }
}

/* scores <- probabilities, grads <- gradients of the completed scores, of one row. */
INLINE void softmax_row_backward(const call *c, float *scores, float *grads, float log_sum) {
    __m512 total = _mm512_setzero_ps();
    for (i64 j = 0; j < c->keys; j += 16) {
        const __m512 y = exponential(_mm512_loadu_ps(scores + j) - log_sum);
        total += y * _mm512_loadu_ps(grads + j);
        _mm512_storeu_ps(scores + j, y);
    }
    const float mean = _mm512_reduce_add_ps(total);
    for (i64 j = 0; j < c->keys; j += 16)
        _mm512_storeu_ps(grads + j, _mm512_loadu_ps(scores + j) *
                                        (_mm512_loadu_ps(grads + j) - mean));
}

/* grad_q <- the gradients of the queries of a block; grad_k and grad_v (padded width, padded keys)
 * and grad_tables += its part of theirs, that of the keys without scale. */
INLINE void attend_block_backward(const call *c, const scoring *block, const buffers *b,
                                  const half *q, const half *grad, const float *log_sum,
                                  half *grad_q, float *grad_k, float *grad_v, float *grad_tables) {
    const i64 R = ROWS_BACKWARD, K = c->keys, W = c->width, D = c->s->width;
    const i64 stride = c->s->query_stride;
    copy_rows(c, q, stride, block->rows, R, b->queries);
    copy_rows(c, grad, stride, block->rows, R, b->grads);
    transpose(b->queries, R, W, b->queries_t);
    transpose(b->grads, R, W, b->grads_t);
    multiply(b->queries, W, b->keys, b->scores, K, R, K, W, 0);
    multiply(b->grads, W, b->values, b->grad_scores, K, R, K, W, 0);
    float through_offsets[ROWS_BACKWARD][MAX_WIDTH], query[MAX_WIDTH];
    for (i64 row = 0; row < R; row++) {
        float *x = b->scores + row * K, *g = b->grad_scores + row * K;
        if (row < block->rows) {
            to_float(q + row * stride, D, query);
            complete(block, row, x, c->scale, query, c->tables);
            softmax_row_backward(c, x, g, log_sum[row]);
            memset(through_offsets[row], 0, D * sizeof(float));
            offsets_backward(block, row, g, query, c->tables, through_offsets[row], grad_tables);
        } else {
            memset(x, 0, K * sizeof *x);
            memset(g, 0, K * sizeof *g);
        }
        if (row % 2) {
            const i64 at = row / 2 * 32;
            round_pairs(c, x - K, R * 16, b->probs_packed + at, 0);
            round_pairs(c, g - K, R * 16, b->grad_scores_packed + at,
                        b->grad_scores_by_row + (row - 1) * K);
        }
    }
    multiply(b->grad_scores_by_row, K, b->keys_by_row, b->grad_queries, W, R, W, K, 0);
    multiply(b->grads_t, R, b->probs_packed, grad_v, K, W, K, R, 1);
    multiply(b->queries_t, R, b->grad_scores_packed, grad_k, K, W, K, R, 1);
    for (i64 row = 0; row < block->rows; row++) {
        const float share = block->first_row + row >= c->add_from ? 1.0f : 0.0f;
        for (i64 d = 0; d < D; d += LANES) {
            const vec of_out = share * load_any(grad, row * stride + d, 1);
            const vec sum = load(b->grad_queries + row * W + d) * c->scale + of_out;
            store_any(grad_q, row * stride + d, sum + load(through_offsets[row] + d), 1);
        }
    }
}

/* to (rows of keys) <- factor times the sum of the slices, each (padded width, padded keys). */
INLINE void add_slices(const call *c, const float *sums, i64 apart, float factor, half *to) {
    for (i64 j = 0; j < c->s->keys; j++)
        for (i64 d = 0; d < c->s->width; d += LANES) {
            vec total = all(0);
            for (i64 slice = 0; slice < c->slices; slice++)
                for (int i = 0; i < LANES; i++)
                    total[i] += sums[slice * apart + (d + i) * c->keys + j];
            store_any(to, j * c->s->query_stride + d, total * factor, 1);
        }
}

/* grad_q, grad_k and grad_v like q, k and v <- their gradients, where grad is that of out. partial
 * (threads, sizes of all tables), which starts as zeros, has the sums of each thread. */
void attend_backward(const scoring *s, i64 batch, i64 heads, float scale, i64 add_from,
                     const half *grad, const half *q, const half *k, const half *v,
                     const float *table_t, const float *table_h, const float *table_w,
                     const float *log_sum, half *grad_q, half *grad_k, half *grad_v,
                     float *partial, i64 threads) {
    const call c =
        call_of(s, batch, heads, scale, add_from, table_t, table_h, table_w, threads);
    const i64 of_keys = c.keys * c.width, stride = s->query_stride;
    /* Of keys and of values: for each slice, or, if heads are not split, for each thread. */
    float *sums = scratch(4 * 2 * of_keys * (c.slices > 1 ? c.units * c.slices : threads));
#pragma omp parallel num_threads(threads)
    {
        const buffers b = new_buffers(&c);
        const i64 thread = omp_get_thread_num();
        float *of_tables = partial + thread * tables_size(s, c.tables);
        begin_products();
#pragma omp for schedule(static)
        for (i64 index = 0; index < c.units * c.slices; index++) {
            const i64 unit = index / c.slices, slice = index % c.slices;
            const i64 of_k = start_of(&c, unit, s->keys), of_q = start_of(&c, unit, s->rows);
            const i64 last = s->rows * (slice + 1) / c.slices;
            float *of_k_sums = sums + 2 * of_keys * (c.slices > 1 ? index : thread);
            memset(of_k_sums, 0, 4 * 2 * of_keys);
            pack_transposed(k + of_k, stride, s->keys, s->width, b.keys);
            pack_transposed(v + of_k, stride, s->keys, s->width, b.values);
            pack(k + of_k, stride, s->keys, s->width, b.keys_by_row);
            for (i64 row = s->rows * slice / c.slices; row < last; row += ROWS_BACKWARD) {
                const scoring block = block_of(&c, row, last, ROWS_BACKWARD);
                const i64 at = of_q + row * stride;
                attend_block_backward(&c, &block, &b, q + at, grad + at,
                                      log_sum + unit * s->rows + row, grad_q + at, of_k_sums,
                                      of_k_sums + of_keys, of_tables);
            }
            if (c.slices == 1) {
                add_slices(&c, of_k_sums, 0, scale, grad_k + of_k);
                add_slices(&c, of_k_sums + of_keys, 0, 1.0f, grad_v + of_k);
            }
        }
        end_products();
#pragma omp for schedule(static)
        for (i64 unit = 0; unit < (c.slices > 1 ? c.units : 0); unit++) {
            const float *of_unit = sums + 2 * of_keys * c.slices * unit;
            const i64 of_k = start_of(&c, unit, s->keys);
            add_slices(&c, of_unit, 2 * of_keys, scale, grad_k + of_k);
            add_slices(&c, of_unit + of_keys, 2 * of_keys, 1.0f, grad_v + of_k);
        }
        free(b.halves);
        free(b.floats);
    }
    free(sums);
}

#endif
