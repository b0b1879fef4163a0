/* Windows of a pooling on a grid of tokens, seen from its output and from its input. */

#pragma once

#include "vectors.h"

#define RUN 4 /* adjacent outputs that are computed together */
#define MAX_KERNEL 16

/* One pooling: sizes are in tokens, strides in elements. */
typedef struct {
    i64 batch, heads, width, prefix;
    i64 in[3], out[3], kernel[3], stride[3];
    i64 token_stride, batch_stride; /* of the input tokens */
} pooling;

INLINE i64 volume(const i64 thw[3]) { return thw[0] * thw[1] * thw[2]; }

/* Adjacent output positions with the same taps on the grid: [first, last) along each axis. start is
 * the input position of tap 0 of the first output; that of the next one is stride[2] further. */
typedef struct {
    i64 start[3], first[3], last[3];
} window;

INLINE void set_taps(window *win, const pooling *p, int axis, i64 position) {
    const i64 start = position * p->stride[axis] - p->kernel[axis] / 2;
    const i64 end = p->in[axis] - start;
    win->start[axis] = start;
    win->first[axis] = start < 0 ? -start : 0;
    win->last[axis] = end < p->kernel[axis] ? end : p->kernel[axis];
}

/* The windows that contain an input position: output positions and taps along each axis. */
typedef struct {
    i64 count[3], outs[3][MAX_KERNEL], taps[3][MAX_KERNEL];
} windows;

INLINE void set_windows(windows *in, const pooling *p, int axis, i64 position) {
    i64 count = 0;
    for (i64 tap = 0; tap < p->kernel[axis]; tap++) {
        const i64 shifted = position + p->kernel[axis] / 2 - tap, out = shifted / p->stride[axis];
        if (shifted < 0 || shifted % p->stride[axis] || out >= p->out[axis]) continue;
        in->outs[axis][count] = out;
        in->taps[axis][count++] = tap;
    }
    in->count[axis] = count;
}
