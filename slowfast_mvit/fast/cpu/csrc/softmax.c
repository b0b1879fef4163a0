/* Softmax of scores with relative positions: softmax_forward, softmax_finish, softmax_backward. */

#include "scores.h"

/* scores (rows, row_stride) <- exponentials of the completed scores less the largest of their row.
 * inverse (rows) <- 1 / their sum; log_sum (rows) <- the logarithm of the sum of the exponentials
 * of the completed scores, saved for the backward pass. Queries are query_stride apart. */
void softmax_forward(const scoring *s, float *scores, float scale, const float *queries,
                     const float *table_t, const float *table_h, const float *table_w,
                     float *inverse, float *log_sum, i64 threads) {
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
        float whole = sum(total);
        inverse[row] = 1.0f / whole;
        log_sum[row] = top + logf(whole);
    }
}

/* out <- inverse * out, plus the query from row add_from on. Rows of out have the layout of the
 * queries. The division is here, as there are fewer outputs than scores. */
void softmax_finish(const scoring *s, float *out, const float *queries, const float *inverse,
                    i64 add_from, i64 threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (i64 row = 0; row < s->rows; row++) {
        float *to = out + row * s->query_stride;
        const float *query = queries + row * s->query_stride;
        const float factor = inverse[row], share = row >= add_from ? 1.0f : 0.0f;
        for (i64 d = 0; d < s->width; d += LANES)
            store(to + d, load(to + d) * factor + load(query + d) * share);
    }
}

/* scores (rows, row_stride), as softmax_forward takes them, <- probabilities; grads, gradients of
 * the probabilities, <- gradients of the completed scores. The gradients through the offsets are
 * added to grad_queries (rows, width contiguous), those of the tables to partial (threads, sizes of
 * all tables), which has sums for each thread. */
void softmax_backward(const scoring *s, float *scores, float *grads, float scale,
                      const float *queries, const float *table_t, const float *table_h,
                      const float *table_w, const float *log_sum, float *grad_queries,
                      float *partial, i64 threads) {
    const float *const tables[3] = {table_t, table_h, table_w};
    const i64 partial_size = tables_size(s, tables);
#pragma omp parallel num_threads(threads)
    {
        float *sums_of_thread = partial + omp_get_thread_num() * partial_size;
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
            offsets_backward(s, row, g, query, tables, grad_queries + row * s->width, sums_of_thread);
        }
    }
}
