/* Max pooling of the skip path: max_forward, max_backward. */

#include "grids.h"

/* The largest value of each channel over the windows of one row of outputs, and its tap: the first
 * one where several are the largest, as in PyTorch. NaN counts as larger than all. */
INLINE void max_row(const pooling *p, i64 index, const void *x, void *y, uint8_t *taps,
                    int is_bf16) {
    const i64 C = p->width, rows = p->out[0] * p->out[1], places = rows * p->out[2];
    const i64 b = index / rows, row = index % rows;
    window win;
    set_taps(&win, p, 0, row / p->out[1]);
    set_taps(&win, p, 1, row % p->out[1]);
    for (i64 w = 0; w < p->out[2]; w++) {
        set_taps(&win, p, 2, w);
        i64 place = row * p->out[2] + w;
        for (i64 c = 0; c < C; c += LANES) {
            vec highest = all(-INFINITY);
            ivec where = {0};
            int is_first = 1;
            for (i64 kt = win.first[0]; kt < win.last[0]; kt++)
                for (i64 kh = win.first[1]; kh < win.last[1]; kh++)
                    for (i64 kw = win.first[2]; kw < win.last[2]; kw++) {
                        i64 line = (win.start[0] + kt) * p->in[1] + win.start[1] + kh;
                        i64 token = p->prefix + line * p->in[2] + win.start[2] + kw;
                        int tap = (int)((kt * p->kernel[1] + kh) * p->kernel[2] + kw);
                        i64 from = b * p->batch_stride + token * p->token_stride + c;
                        vec one = load_any(x, from, is_bf16);
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

/* grad_x of one row of the input grid of max_row. */
INLINE void max_row_backward(const pooling *p, i64 index, const void *grad_y, const uint8_t *taps,
                             void *grad_x, int is_bf16) {
    const i64 C = p->width, rows = p->in[0] * p->in[1], b = index / rows, row = index % rows;
    const i64 places = volume(p->out);
    windows in;
    set_windows(&in, p, 0, row / p->in[1]);
    set_windows(&in, p, 1, row % p->in[1]);
    for (i64 w = 0; w < p->in[2]; w++) {
        set_windows(&in, p, 2, w);
        i64 to = b * p->batch_stride + (p->prefix + row * p->in[2] + w) * p->token_stride;
        for (i64 c = 0; c < C; c += LANES) {
            vec total = all(0);
            for (i64 i = 0; i < in.count[0]; i++)
                for (i64 j = 0; j < in.count[1]; j++)
                    for (i64 k = 0; k < in.count[2]; k++) {
                        i64 line = in.outs[0][i] * p->out[1] + in.outs[1][j];
                        i64 place = line * p->out[2] + in.outs[2][k];
                        i64 filter_row = in.taps[0][i] * p->kernel[1] + in.taps[1][j];
                        int tap = (int)(filter_row * p->kernel[2] + in.taps[2][k]);
                        const uint8_t *winners = taps + (b * places + place) * C + c;
                        i64 from = (b * (p->prefix + places) + p->prefix + place) * C + c;
                        ivec won;
                        for (int i = 0; i < LANES; i++) won[i] = -(winners[i] == tap);
                        total += (vec)(won & (ivec)load_any(grad_y, from, is_bf16));
                    }
            store_any(grad_x, to + c, total, is_bf16);
        }
    }
}

/* The prefix tokens of all clips, from one tensor (B, P + num_from, C) to the other. */
INLINE void copy_prefix(const pooling *p, const void *from, i64 num_from, void *to, i64 num_to,
                        int is_bf16) {
    const i64 token = p->width * (is_bf16 ? 2 : 4);
    for (i64 b = 0; b < p->batch; b++)
        memcpy((char *)to + b * (p->prefix + num_to) * token,
               (const char *)from + b * (p->prefix + num_from) * token, p->prefix * token);
}

/* y (B, P + OT*OH*OW, C) and taps (B, OT*OH*OW, C) <- x (B, P + T*H*W, C). */
void max_forward(const pooling *p, const void *x, void *y, uint8_t *taps, i64 is_bf16,
                 i64 threads) {
    copy_prefix(p, x, volume(p->in), y, volume(p->out), is_bf16);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (i64 index = 0; index < p->batch * p->out[0] * p->out[1]; index++)
        FOR_DTYPE(max_row, p, index, x, y, taps);
}

void max_backward(const pooling *p, const void *grad_y, const uint8_t *taps, void *grad_x,
                  i64 is_bf16, i64 threads) {
    copy_prefix(p, grad_y, volume(p->out), grad_x, volume(p->in), is_bf16);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (i64 index = 0; index < p->batch * p->in[0] * p->in[1]; index++)
        FOR_DTYPE(max_row_backward, p, index, grad_y, taps, grad_x);
}
