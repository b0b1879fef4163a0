/* Softmax of scores with relative positions: softmax_forward, softmax_finish, softmax_backward. */

#include "vectors.h"

/* Rows of scores of one head; the first columns are those of the prefix keys. */
typedef struct {
    i64 rows, first_row;  /* number of queries; the first of them, prefix included */
    i64 keys, row_stride; /* a multiple of LANES, at least keys */
    i64 width, query_stride, prefix;
    i64 q[3], k[3]; /* grids */
} scoring;

/* products[0..num) of a query with adjacent rows of a table, four at a time or one. */
INLINE void multiply_rows(const float *query, const float *row, i64 width, const int num,
                          float *products) {
    vec sums[4] = {0};
    for (i64 d = 0; d < width; d += LANES) {
        vec x = load(query + d);
        for (int i = 0; i < num; i++) sums[i] += x * load(row + i * width + d);
    }
    for (int i = 0; i < num; i++) products[i] = sum(sums[i]);
}

/* offsets[0..kT+kH+kW) of a query: its products with the rows of the tables for its place. */
INLINE void offsets_of(const scoring *s, const float *query, const float *const tables[3],
                       const i64 place[3], float *offsets) {
    for (int axis = 0; axis < 3; axis++) {
        const i64 length = s->k[axis], D = s->width;
        if (tables[axis]) {
            const float *row = tables[axis] + place[axis] * length * D;
            i64 k = 0;
            for (; k + 4 <= length; k += 4) multiply_rows(query, row + k * D, D, 4, offsets + k);
            for (; k < length; k++) multiply_rows(query, row + k * D, D, 1, offsets + k);
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

/* scores <- scale * scores + offsets; what is beyond the keys <- -infinity. The largest score. */
INLINE float complete(const scoring *s, i64 row, float *scores, float scale, const float *query,
                      const float *const tables[3]) {
    const int is_prefix = s->first_row + row < s->prefix;
    const i64 plane = s->k[1] * s->k[2], without_offset = is_prefix ? s->keys : s->prefix;
    float top = -INFINITY;
    for (i64 j = 0; j < without_offset; j++) {
        scores[j] *= scale;
        top = scores[j] > top ? scores[j] : top;
    }
    if (!is_prefix) {
        float offsets[MAX_WIDTH], in_plane[MAX_PLANE];
        i64 place[3];
        place_of(s, row, place);
        offsets_of(s, query, tables, place, offsets);
        const float *of_h = offsets + s->k[0], *of_w = of_h + s->k[1];
        for (i64 h = 0; h < s->k[1]; h++)
            for (i64 w = 0; w < s->k[2]; w++) in_plane[h * s->k[2] + w] = of_h[h] + of_w[w];
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
    const i64 plane = s->k[1] * s->k[2];
    i64 sizes[3], partial_size = 0;
    for (int axis = 0; axis < 3; axis++) {
        sizes[axis] = tables[axis] ? s->q[axis] * s->k[axis] * s->width : 0;
        partial_size += sizes[axis];
    }
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
                float *grad_query = grad_queries + row * s->width, *grad_table = sums_of_thread;
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
