/* Scores -> probabilities, relative positions added: softmax_forward, softmax_finish, softmax_backward. */

#include "vectors.h"

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

/* scores (rows, row_stride) <- exponentials of the completed scores less the largest of their row.
 * inverse (rows) <- 1 / their sum; log_sum (rows) <- the logarithm of the sum of the exponentials of
 * the completed scores, kept for the backward pass. queries lie query_stride apart. */
void softmax_forward(const scoring *s, float *scores, float scale, const float *queries,
                     const float *table_t, const float *table_h, const float *table_w,
                     float *inverse, float *log_sum, int threads) {
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

/* out <- inverse * out, and the query added from row number add_from on. Rows of out lie as those
 * of the queries do. There are fewer of these numbers than of scores, so they are divided. */
void softmax_finish(const scoring *s, float *out, const float *queries, const float *inverse,
                    i64 add_from, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (i64 row = 0; row < s->rows; row++) {
        float *to = out + row * s->query_stride;
        const float *query = queries + row * s->query_stride;
        const float factor = inverse[row], share = row >= add_from ? 1.0f : 0.0f;
        for (i64 d = 0; d < s->width; d += LANES)
            store(to + d, load(to + d) * factor + load(query + d) * share);
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
