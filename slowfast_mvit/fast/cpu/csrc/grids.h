/* Windows on a grid of tokens, seen from what goes out and from what comes in. */

#pragma once

#include "vectors.h"

#define RUN 4 /* outputs side by side that are computed together */

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
