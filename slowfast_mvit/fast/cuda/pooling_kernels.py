"""The Triton kernels of ``pooling``. Only that module imports this one, at first launch.

A *tile* is ROWS rows of (token, head) in one line of the grid: they share a sample, a frame and a
row of the image. The prefix tokens of a sample are one more line. So places in time and height are
scalars, and only places in width differ within a tile. A row has the D channels of one head, in
registers of WIDTH, the next power of two, so that a LayerNorm needs no memory.

Letters:
    x (B, L, N, D) the tokens, strided: a token is 3*N*D numbers away from the next
    y (B, P + OT*OH*OW, N, D) the pooled tokens, contiguous
    T, H, W the grid of x     OT, OH, OW the grid of y     K*, S* kernel and stride of each axis
    parameters (KT*KH*KW + 2, D) float32: the filters, one tap a row, then weight and bias
        of the LayerNorm
"""

import triton
import triton.language as tl


@triton.jit
def _tile(
    tile,
    num_lines,
    line_length,
    tiles_in_line,
    N: tl.constexpr,
    P: tl.constexpr,
    ROWS: tl.constexpr,
):
    """The position of a tile: sample, line, its first token, and the token and head of each row."""
    lines = num_lines + (1 if P > 0 else 0)
    sample = (tile // (tiles_in_line * lines)).to(tl.int64)
    line = tile // tiles_in_line % lines
    in_grid = line < num_lines
    rows = tile % tiles_in_line * ROWS + tl.arange(0, ROWS)
    inside = rows < tl.where(in_grid, line_length, P) * N
    first_token = tl.where(in_grid, P + line * line_length, 0)
    return sample, line, in_grid, first_token, rows, inside


@triton.jit
def _under_tap(
    x_ptr, line, dt_dh, DW: tl.constexpr, w, head, inside, T, H, W, OH,
    N: tl.constexpr, D: tl.constexpr, P: tl.constexpr,
    KT: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr,
    ST: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """The inputs of one tap of the kernel for each row of a tile, (ROWS, WIDTH) float32."""
    t = line // OH * ST - KT // 2 + dt_dh // KH
    h = line % OH * SH - KH // 2 + dt_dh % KH
    at = w * SW - KW // 2 + DW
    channels = tl.arange(0, WIDTH)
    inside &= (t >= 0) & (t < T) & (h >= 0) & (h < H) & (at >= 0) & (at < W)
    offsets = (P + (t * H + h) * W + at) * (3 * N * D) + head * D
    return tl.load(
        x_ptr + offsets[:, None] + channels[None, :],
        mask=inside[:, None] & (channels < D)[None, :],
        other=0.0,
    ).to(tl.float32)


@triton.jit
def _pooled(
    x_ptr, filters_ptr, line, in_grid, rows, inside, T, H, W, OH,
    N: tl.constexpr, D: tl.constexpr, P: tl.constexpr,
    KT: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr,
    ST: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr,
    ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """The convolution for each row of a tile, (ROWS, WIDTH) float32; prefix tokens as they are."""
    channels = tl.arange(0, WIDTH)
    real = channels < D
    if in_grid:
        pooled = tl.full((ROWS, WIDTH), 0.0, tl.float32)
        for dt_dh in range(KT * KH):
            for dw in tl.static_range(KW):
                under = _under_tap(
                    x_ptr, line, dt_dh, dw, rows // N, rows % N, inside, T, H, W, OH,
                    N, D, P, KT, KH, KW, ST, SH, SW, WIDTH,
                )  # fmt: skip
                factors = tl.load(filters_ptr + (dt_dh * KW + dw) * D + channels, real, 0.0)
                pooled += under * factors[None, :]
    else:
        offsets = rows // N * (3 * N * D) + rows % N * D
        pooled = tl.load(
            x_ptr + offsets[:, None] + channels[None, :],
            mask=inside[:, None] & real[None, :],
            other=0.0,
        ).to(tl.float32)
    return pooled


@triton.jit
def _normalised(pooled, eps, D: tl.constexpr, WIDTH: tl.constexpr):
    """Each row with mean 0 and variance 1 over its D channels, and the factor of that scaling."""
    real = tl.arange(0, WIDTH) < D
    mean = tl.sum(pooled, axis=1) / D
    centred = tl.where(real[None, :], pooled - mean[:, None], 0.0)
    factor = 1.0 / tl.sqrt(tl.sum(centred * centred, axis=1) / D + eps)
    return centred * factor[:, None], factor


@triton.jit
def pool_forward(
    x_ptr, parameters_ptr, y_ptr, T, H, W, OT, OH, OW, tiles_in_line, eps,
    N: tl.constexpr, D: tl.constexpr, P: tl.constexpr,
    KT: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr,
    ST: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr,
    ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """y of one tile: convolution and LayerNorm with no intermediate in memory."""
    sample, line, in_grid, first_token, rows, inside = _tile(
        tl.program_id(0), OT * OH, OW, tiles_in_line, N, P, ROWS
    )
    x_ptr += sample * ((P + T * H * W) * 3 * N * D)
    y_ptr += sample * ((P + OT * OH * OW) * N * D)
    channels = tl.arange(0, WIDTH)
    real = channels < D
    pooled = _pooled(
        x_ptr, parameters_ptr, line, in_grid, rows, inside, T, H, W, OH,
        N, D, P, KT, KH, KW, ST, SH, SW, ROWS, WIDTH,
    )  # fmt: skip
    normalised, _ = _normalised(pooled, eps, D, WIDTH)
    weight = tl.load(parameters_ptr + KT * KH * KW * D + channels, real, 0.0)
    bias = tl.load(parameters_ptr + (KT * KH * KW + 1) * D + channels, real, 0.0)
    y = normalised * weight[None, :] + bias[None, :]
    offsets = (first_token * N + rows) * D
    tl.store(
        y_ptr + offsets[:, None] + channels[None, :],
        y.to(y_ptr.dtype.element_ty),
        mask=inside[:, None] & real[None, :],
    )


@triton.jit
def pool_backward_to_pooled(
    x_ptr, parameters_ptr, grad_y_ptr, grad_pooled_ptr, partial_ptr,
    T, H, W, OT, OH, OW, tiles_in_line, num_tiles, eps,
    N: tl.constexpr, D: tl.constexpr, P: tl.constexpr,
    KT: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr,
    ST: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr,
    ROWS: tl.constexpr, WIDTH: tl.constexpr, TILES: tl.constexpr, TAPS: tl.constexpr,
):  # fmt: skip
    """From the gradient of y to that of the convolution's result and, in part, of the parameters.

    A program computes TILES tiles, and adds up their gradients of the parameters in its part of
    ``partial``, (KT*KH*KW + 2, D). The convolution is computed again, and while the tokens of a
    tap are still in the cache they are multiplied with the gradient for the filter of that tap.
    """
    channels = tl.arange(0, WIDTH)
    real = channels < D
    taps = tl.arange(0, TAPS)
    weight = tl.load(parameters_ptr + KT * KH * KW * D + channels, real, 0.0)
    of_filters = tl.full((TAPS, WIDTH), 0.0, tl.float32)
    of_weight = tl.full((WIDTH,), 0.0, tl.float32)
    of_bias = tl.full((WIDTH,), 0.0, tl.float32)
    for step in range(TILES):
        tile = tl.program_id(0) * TILES + step
        sample, line, in_grid, first_token, rows, inside = _tile(
            tile, OT * OH, OW, tiles_in_line, N, P, ROWS
        )
        inside &= tile < num_tiles
        x_of_sample_ptr = x_ptr + sample * ((P + T * H * W) * 3 * N * D)
        pooled = _pooled(
            x_of_sample_ptr, parameters_ptr, line, in_grid, rows, inside, T, H, W, OH,
            N, D, P, KT, KH, KW, ST, SH, SW, ROWS, WIDTH,
        )  # fmt: skip
        normalised, factor = _normalised(pooled, eps, D, WIDTH)

        offsets = sample * ((P + OT * OH * OW) * N * D) + (first_token * N + rows) * D
        places = offsets[:, None] + channels[None, :]
        mask = inside[:, None] & real[None, :]
        grad = tl.load(grad_y_ptr + places, mask, 0.0).to(tl.float32)
        of_weight += tl.sum(grad * normalised, axis=0)
        of_bias += tl.sum(grad, axis=0)
        grad *= weight[None, :]
        mean = tl.sum(grad, axis=1) / D
        slope = tl.sum(grad * normalised, axis=1) / D
        grad = (grad - mean[:, None] - normalised * slope[:, None]) * factor[:, None]
        grad = tl.where(mask, grad, 0.0)
        tl.store(grad_pooled_ptr + places, grad.to(grad_pooled_ptr.dtype.element_ty), mask)

        for dt_dh in range(KT * KH):
            for dw in tl.static_range(KW):
                under = _under_tap(
                    x_of_sample_ptr, line, dt_dh, dw, rows // N, rows % N, inside & in_grid,
                    T, H, W, OH, N, D, P, KT, KH, KW, ST, SH, SW, WIDTH,
                )  # fmt: skip
                share = tl.sum(under * grad, axis=0)
                this_tap = taps == dt_dh * KW + dw
                of_filters += tl.where(this_tap[:, None], share[None, :], 0.0)

    partial_ptr += tl.program_id(0) * ((KT * KH * KW + 2) * D)
    tl.store(
        partial_ptr + taps[:, None] * D + channels[None, :],
        of_filters,
        mask=(taps < KT * KH * KW)[:, None] & real[None, :],
    )
    tl.store(partial_ptr + KT * KH * KW * D + channels, of_weight, real)
    tl.store(partial_ptr + (KT * KH * KW + 1) * D + channels, of_bias, real)


@triton.jit
def pool_backward_to_tokens(
    grad_pooled_ptr, parameters_ptr, grad_x_ptr, T, H, W, OT, OH, OW, tiles_in_line,
    N: tl.constexpr, D: tl.constexpr, P: tl.constexpr,
    KT: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr,
    ST: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr,
    ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """The gradient of one tile of x, gathered from the windows that contain its tokens.

    Along an axis a token is the input of every S-th tap only: of tap (t + K//2) % S and each S
    further, in as many windows to the left. Tokens that no window covers get zeros.
    """
    sample, line, in_grid, first_token, rows, inside = _tile(
        tl.program_id(0), T * H, W, tiles_in_line, N, P, ROWS
    )
    grad_pooled_ptr += sample * ((P + OT * OH * OW) * N * D)
    grad_x_ptr += sample * ((P + T * H * W) * 3 * N * D)
    channels = tl.arange(0, WIDTH)
    real = channels < D
    head = rows % N
    if in_grid:
        t, h, w = line // H + KT // 2, line % H + KH // 2, rows // N + KW // 2
        grad = tl.full((ROWS, WIDTH), 0.0, tl.float32)
        WINDOWS_H: tl.constexpr = (KH + SH - 1) // SH
        for window in range((KT + ST - 1) // ST * WINDOWS_H):
            tap_t, out_t = t % ST + window // WINDOWS_H * ST, t // ST - window // WINDOWS_H
            tap_h, out_h = h % SH + window % WINDOWS_H * SH, h // SH - window % WINDOWS_H
            covered = (tap_t < KT) & (out_t >= 0) & (out_t < OT)
            covered &= (tap_h < KH) & (out_h >= 0) & (out_h < OH)
            for window_w in tl.static_range((KW + SW - 1) // SW):
                tap_w, out_w = w % SW + window_w * SW, w // SW - window_w
                mask = inside & covered & (tap_w < KW) & (out_w >= 0) & (out_w < OW)
                mask = mask[:, None] & real[None, :]
                offsets = (P + (out_t * OH + out_h) * OW + out_w) * (N * D) + head * D
                of_window = tl.load(
                    grad_pooled_ptr + offsets[:, None] + channels[None, :], mask, 0.0
                )
                if SW == 1:  # one tap for the whole tile
                    tap = (tap_t * KH + tap_h) * KW + window_w
                    factors = tl.load(
                        parameters_ptr + tap * D + channels, covered & real, 0.0
                    )[None, :]  # fmt: skip
                else:
                    tap = (tap_t * KH + tap_h) * KW + tap_w
                    factors = tl.load(
                        parameters_ptr + tap[:, None] * D + channels[None, :], mask, 0.0
                    )
                grad += of_window.to(tl.float32) * factors
    else:
        grad = tl.load(
            grad_pooled_ptr + rows[:, None] * D + channels[None, :],
            mask=inside[:, None] & real[None, :],
            other=0.0,
        ).to(tl.float32)
    offsets = (first_token + rows // N) * (3 * N * D) + head * D
    tl.store(
        grad_x_ptr + offsets[:, None] + channels[None, :],
        grad.to(grad_x_ptr.dtype.element_ty),
        mask=inside[:, None] & real[None, :],
    )


@triton.jit
def sum_partials(
    partial_ptr, filters_ptr, norm_weight_ptr, norm_bias_ptr, num_programs,
    D: tl.constexpr, TAPS: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Sum one row of the partial sums over all programs, always in the same order.

    The first TAPS rows go to the filters' gradient, (D, TAPS), the last two to the LayerNorm's.
    """
    row = tl.program_id(0)
    channels = tl.arange(0, WIDTH)
    real = channels < D
    total = tl.full((ROWS, WIDTH), 0.0, tl.float32)
    start = 0
    while start < num_programs:
        programs = start + tl.arange(0, ROWS)
        total += tl.load(
            partial_ptr + (programs[:, None] * (TAPS + 2) + row) * D + channels[None, :],
            mask=(programs < num_programs)[:, None] & real[None, :],
            other=0.0,
        )
        start += ROWS
    result = tl.sum(total, axis=0)
    if row < TAPS:
        tl.store(filters_ptr + channels * TAPS + row, result, real)
    elif row == TAPS:
        tl.store(norm_weight_ptr + channels, result, real)
    else:
        tl.store(norm_bias_ptr + channels, result, real)
