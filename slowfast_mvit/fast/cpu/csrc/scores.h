/* Scores of queries and keys with their relative positions, and the gradients through these. */

#pragma once

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

/* grid <- scale * grid + offsets, and the largest of it. in_plane has those of height and width. */
INLINE float add_offsets(const scoring *s, float *grid, float scale, const float *offsets,
                         const float *in_plane) {
    const i64 plane = s->k[1] * s->k[2];
#ifdef __AVX512F__ /* a frame of 49 keys leaves one for which a loop of vectors has an epilogue */
    __m512 tops = _mm512_set1_ps(-INFINITY);
    for (i64 j = 0; j < plane; j += 16) {
        const __mmask16 present = plane - j < 16 ? (1 << (plane - j)) - 1 : 0xffff;
        const __m512 here = _mm512_maskz_loadu_ps(present, in_plane + j);
        float *to = grid + j;
        for (i64 t = 0; t < s->k[0]; t++, to += plane) {
            const __m512 x = scale * _mm512_maskz_loadu_ps(present, to) + (offsets[t] + here);
            _mm512_mask_storeu_ps(to, present, x);
            tops = _mm512_mask_max_ps(tops, present, tops, x);
        }
    }
    return _mm512_reduce_max_ps(tops);
#else
    float top = -INFINITY;
    for (i64 t = 0; t < s->k[0]; t++, grid += plane) {
        const float of_t = offsets[t];
#pragma omp simd reduction(max : top)
        for (i64 j = 0; j < plane; j++) {
            grid[j] = scale * grid[j] + (of_t + in_plane[j]);
            top = grid[j] > top ? grid[j] : top;
        }
    }
    return top;
#endif
}

/* scores <- scale * scores + offsets; what is beyond the keys <- -infinity. The largest score. */
INLINE float complete(const scoring *s, i64 row, float *scores, float scale, const float *query,
                      const float *const tables[3]) {
    const int is_prefix = s->first_row + row < s->prefix;
    const i64 without_offset = is_prefix ? s->keys : s->prefix;
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
        const float top_of_grid = add_offsets(s, scores + s->prefix, scale, offsets, in_plane);
        top = top_of_grid > top ? top_of_grid : top;
    }
    for (i64 j = s->keys; j < s->row_stride; j++) scores[j] = -INFINITY;
    return top;
}

/* Numbers in the tables, which have a row for each query and key position of an axis. */
INLINE i64 table_size(const scoring *s, const float *const tables[3], int axis) {
    return tables[axis] ? s->q[axis] * s->k[axis] * s->width : 0;
}

INLINE i64 tables_size(const scoring *s, const float *const tables[3]) {
    return table_size(s, tables, 0) + table_size(s, tables, 1) + table_size(s, tables, 2);
}

/* grad_query (width) and grad_tables (all tables) += the gradients through the offsets of a row,
 * whose completed scores have the gradients grads. */
INLINE void offsets_backward(const scoring *s, i64 row, const float *grads, const float *query,
                             const float *const tables[3], float *grad_query, float *grad_tables) {
    if (s->first_row + row < s->prefix || !tables_size(s, tables)) return;
    const i64 plane = s->k[1] * s->k[2];
    float sums[MAX_WIDTH], in_plane[MAX_PLANE];
    memset(sums, 0, (s->k[0] + s->k[1] + s->k[2]) * sizeof *sums);
    memset(in_plane, 0, plane * sizeof *in_plane);
    float *of_h = sums + s->k[0], *of_w = of_h + s->k[1];
    const float *grid = grads + s->prefix;
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
    const float *of_axis = sums;
    for (int axis = 0; axis < 3; axis++) {
        const i64 length = s->k[axis], at = place[axis] * length * s->width;
        for (i64 d = 0; tables[axis] && d < s->width; d += LANES) {
            const float *from = tables[axis] + at + d;
            float *to = grad_tables + at + d;
            vec x = load(query + d), total_d = load(grad_query + d);
            for (i64 k = 0; k < length; k++, from += s->width, to += s->width) {
                total_d += of_axis[k] * load(from);
                store(to, load(to) + of_axis[k] * x);
            }
            store(grad_query + d, total_d);
        }
        of_axis += length;
        grad_tables += table_size(s, tables, axis);
    }
}
