/* Max pooling of the skip path: max_forward, max_backward. */

#include "grids.h"

/* The largest of each channel over the windows of one row of outputs, and by which tap it came:
 * the first one where several are the largest, as PyTorch has it. NaN is larger than all. */
INLINE void max_row(const pooling *p, i64 index, const void *x, void *y, uint8_t *taps,
                    int is_bf16) {
    const i64 C = p->width, rows = p->out[0] * p->out[1], places = rows * p->out[2];
    const i64 b = index / rows, row = index % rows;
    window win;
    taps_of(row / p->out[1], 0, p, win.start, win.first, win.last);
    taps_of(row % p->out[1], 1, p, win.start + 1, win.first + 1, win.last + 1);
    for (i64 w = 0; w < p->out[2]; w++) {
        taps_of(w, 2, p, win.start + 2, win.first + 2, win.last + 2);
        i64 place = row * p->out[2] + w;
        for (i64 c = 0; c < C; c += LANES) {
            vec highest = all(-INFINITY);
            ivec where = {0};
            int is_first = 1;
            for (i64 kt = win.first[0]; kt < win.last[0]; kt++)
                for (i64 kh = win.first[1]; kh < win.last[1]; kh++)
                    for (i64 kw = win.first[2]; kw < win.last[2]; kw++) {
                        i64 token = ((win.start[0] + kt) * p->in[1] + win.start[1] + kh) *
                                        p->in[2] + win.start[2] + kw;
                        int tap = (int)((kt * p->kernel[1] + kh) * p->kernel[2] + kw);
                        vec one = load_any(
                            x, b * p->batch_stride + (p->prefix + token) * p->token_stride + c,
                            is_bf16);
                        ivec wins = (one > highest) | (one != one) | -is_first;
                        highest = (vec)((wins & (ivec)one) | (~wins & (ivec)highest));
                        where = (wins & tap) | (~wins & where);
                        is_first = 0;
                    }
            store_any(y, (b * (p->prefix + places) + p->prefix + place) * C + c, highest, is_bf16);
            for (int lane = 0; lane < LANES; lane++)
                taps[(b * places + place) * C + c + lane] = (uint8_t)where[lane];
        }
    }
}

/* grad_x of one row of the grid of max_row's input. */
INLINE void max_row_backward(const pooling *p, i64 index, const void *grad_y, const uint8_t *taps,
                             void *grad_x, int is_bf16) {
    const i64 C = p->width, rows = p->in[0] * p->in[1], b = index / rows, row = index % rows;
    const i64 places = p->out[0] * p->out[1] * p->out[2];
    windows in;
    in.count[0] = windows_of(row / p->in[1], 0, p, in.outs[0], in.taps[0]);
    in.count[1] = windows_of(row % p->in[1], 1, p, in.outs[1], in.taps[1]);
    for (i64 w = 0; w < p->in[2]; w++) {
        in.count[2] = windows_of(w, 2, p, in.outs[2], in.taps[2]);
        i64 to = b * p->batch_stride + (p->prefix + row * p->in[2] + w) * p->token_stride;
        for (i64 c = 0; c < C; c += LANES) {
            vec total = all(0);
            for (i64 i = 0; i < in.count[0]; i++)
                for (i64 j = 0; j < in.count[1]; j++)
                    for (i64 k = 0; k < in.count[2]; k++) {
                        i64 place = (in.outs[0][i] * p->out[1] + in.outs[1][j]) * p->out[2] +
                                    in.outs[2][k];
                        int tap = (int)((in.taps[0][i] * p->kernel[1] + in.taps[1][j]) *
                                            p->kernel[2] + in.taps[2][k]);
                        const uint8_t *came = taps + (b * places + place) * C + c;
                        vec one = load_any(
                            grad_y, (b * (p->prefix + places) + p->prefix + place) * C + c,
                            is_bf16);
                        ivec mine;
                        for (int lane = 0; lane < LANES; lane++) mine[lane] = -(came[lane] == tap);
                        total += (vec)(mine & (ivec)one);
                    }
            store_any(grad_x, to + c, total, is_bf16);
        }
    }
}

/* The prefix tokens of all clips, from one tensor (B, from_tokens, C) to the other. */
INLINE void copy_prefix(const pooling *p, const void *from, i64 from_tokens, void *to,
                        i64 to_tokens, int is_bf16) {
    const i64 size = is_bf16 ? 2 : 4;
    for (i64 b = 0; b < p->batch; b++)
        memcpy((char *)to + b * to_tokens * p->width * size,
               (const char *)from + b * from_tokens * p->width * size, p->prefix * p->width * size);
}

/* y (B, P + OT*OH*OW, C) and taps (B, OT*OH*OW, C) <- x (B, P + T*H*W, C). */
void max_forward(const pooling *p, const void *x, void *y, uint8_t *taps, int threads,
                 int is_bf16) {
    const i64 places = p->out[0] * p->out[1] * p->out[2], tokens = p->in[0] * p->in[1] * p->in[2];
    copy_prefix(p, x, p->prefix + tokens, y, p->prefix + places, is_bf16);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (i64 index = 0; index < p->batch * p->out[0] * p->out[1]; index++) {
        if (is_bf16)
            max_row(p, index, x, y, taps, 1);
        else
            max_row(p, index, x, y, taps, 0);
    }
}

void max_backward(const pooling *p, const void *grad_y, const uint8_t *taps, void *grad_x,
                  int threads, int is_bf16) {
    const i64 places = p->out[0] * p->out[1] * p->out[2], tokens = p->in[0] * p->in[1] * p->in[2];
    copy_prefix(p, grad_y, p->prefix + places, grad_x, p->prefix + tokens, is_bf16);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (i64 index = 0; index < p->batch * p->in[0] * p->in[1]; index++) {
        if (is_bf16)
            max_row_backward(p, index, grad_y, taps, grad_x, 1);
        else
            max_row_backward(p, index, grad_y, taps, grad_x, 0);
    }
}
