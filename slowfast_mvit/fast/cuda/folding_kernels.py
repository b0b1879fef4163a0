"""The Triton kernels of ``folding``. Only ``folding_launch`` imports this module.

A *row* is one head of one token. All rows are contiguous, tokens before heads, so a tile is ROWS of
them, across the ends of samples and lines. Channels are held as WIDTH, columns of offsets as
COLUMNS, the next powers of two. A row of folded queries has FOLDED numbers.

The rows of the three tables are one matrix (R, D), handled in chunks of CHUNK rows. Two lists of
numbers give the row of it for a query at place p of an axis and a column:

    rows_of_columns   (places, COLUMNS): the row of the tables for a column, or -1
    columns_of_rows   (places, a multiple of CHUNK): the column for a row of the tables, or -1

where the places of the three axes are counted together: t, then T + h, then T + H + w.
"""

import triton
import triton.language as tl


@triton.jit
def _rows(tile, length, N: tl.constexpr, ROWS: tl.constexpr):
    """The rows of a tile, counted over all samples, and the token of each in its sample."""
    start = tile.to(tl.int64) * ROWS
    in_sample = (start % (length * N)).to(tl.int32) + tl.arange(0, ROWS)
    return start + tl.arange(0, ROWS), in_sample // N % length


@triton.jit
def _places(tokens, T, H, W, P: tl.constexpr):
    """Masks of the tokens on the grid, and their places along the three axes."""
    in_grid = tokens >= P
    place = tl.where(in_grid, tokens - P, 0)
    return in_grid, place // (H * W), T + place // W % H, T + H + place % W


@triton.jit
def _by_axis(t, h, w, numbers, end_t, end_h):
    """For each row and number the place along the axis that the number belongs to."""
    of_h_or_w = tl.where((numbers < end_h)[None, :], h[:, None], w[:, None])
    return tl.where((numbers < end_t)[None, :], t[:, None], of_h_or_w)


@triton.jit
def _table_rows(tables_ptr, chunk, R, D: tl.constexpr, CHUNK: tl.constexpr, WIDTH: tl.constexpr):
    """One chunk of the tables, (CHUNK, WIDTH)."""
    numbers = chunk * CHUNK + tl.arange(0, CHUNK)
    channels = tl.arange(0, WIDTH)
    return tl.load(
        tables_ptr + numbers[:, None] * D + channels[None, :],
        mask=(numbers < R)[:, None] & (channels < D)[None, :],
        other=0.0,
    )


@triton.jit
def _spread(
    grad_ptr, columns_of_rows_ptr, rows, tokens, num_rows, chunk, T, H, W, end_t, end_h,
    D: tl.constexpr, P: tl.constexpr, FOLDED: tl.constexpr,
    CHUNK: tl.constexpr, CHUNKS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """The gradients of a tile's offsets, each under the row of the tables it came from."""
    columns = tl.arange(0, COLUMNS)
    offsets = tl.load(
        grad_ptr + rows[:, None] * FOLDED + D + columns[None, :],
        mask=(rows < num_rows)[:, None] & (D + columns < FOLDED)[None, :],
        other=0.0,
    )
    in_grid, t, h, w = _places(tokens, T, H, W, P)
    numbers = chunk * CHUNK + tl.arange(0, CHUNK)
    places = _by_axis(t, h, w, numbers, end_t, end_h)
    column = tl.load(columns_of_rows_ptr + places * (CHUNKS * CHUNK) + numbers[None, :])
    column = column.to(tl.int32)
    known = in_grid[:, None] & (column >= 0)
    spread = tl.gather(offsets, tl.where(known, column, 0), 1)
    return tl.where(known, spread, 0.0)


@triton.jit
def fold_forward(
    q_ptr, tables_ptr, rows_of_columns_ptr, folded_ptr,
    length, num_rows, T, H, W, R, end_t, end_h, scale,
    N: tl.constexpr, D: tl.constexpr, P: tl.constexpr, FOLDED: tl.constexpr,
    ROWS: tl.constexpr, WIDTH: tl.constexpr, COLUMNS: tl.constexpr,
    CHUNK: tl.constexpr, CHUNKS: tl.constexpr,
):  # fmt: skip
    """Queries, their offsets and zeros in adjacent channels.

    A query is multiplied with every row of the tables, on the matrix units, and the products
    for its place are picked.
    """
    rows, tokens = _rows(tl.program_id(0), length, N, ROWS)
    inside = rows < num_rows
    channels = tl.arange(0, WIDTH)
    mask = inside[:, None] & (channels < D)[None, :]
    q = tl.load(q_ptr + rows[:, None] * D + channels[None, :], mask, 0.0)

    columns = tl.arange(0, COLUMNS)
    in_grid, t, h, w = _places(tokens, T, H, W, P)
    places = _by_axis(t, h, w, columns, end_t, end_h)
    wanted = tl.load(rows_of_columns_ptr + places * COLUMNS + columns[None, :])
    wanted = tl.where(in_grid[:, None], wanted, -1)
    offsets = tl.full((ROWS, COLUMNS), 0.0, tl.float32)
    for chunk in range(CHUNKS):
        table = _table_rows(tables_ptr, chunk, R, D, CHUNK, WIDTH)
        products = tl.dot(q, tl.trans(table), input_precision="ieee")
        here = (wanted >= chunk * CHUNK) & (wanted < chunk * CHUNK + CHUNK)
        picked = tl.gather(products, tl.where(here, wanted - chunk * CHUNK, 0), 1)
        offsets += tl.where(here, picked, 0.0)

    tl.store(folded_ptr + rows[:, None] * FOLDED + channels[None, :], q, mask)
    tl.store(
        folded_ptr + rows[:, None] * FOLDED + D + columns[None, :],
        (offsets / scale).to(folded_ptr.dtype.element_ty),
        mask=inside[:, None] & (D + columns < FOLDED)[None, :],
    )


@triton.jit
def fold_backward_to_queries(
    grad_ptr, tables_ptr, columns_of_rows_ptr, grad_q_ptr,
    length, num_rows, T, H, W, R, end_t, end_h, scale,
    N: tl.constexpr, D: tl.constexpr, P: tl.constexpr, FOLDED: tl.constexpr,
    ROWS: tl.constexpr, WIDTH: tl.constexpr, COLUMNS: tl.constexpr,
    CHUNK: tl.constexpr, CHUNKS: tl.constexpr,
):  # fmt: skip
    """The gradient of the queries: their own, and that of their offsets through the tables."""
    rows, tokens = _rows(tl.program_id(0), length, N, ROWS)
    channels = tl.arange(0, WIDTH)
    mask = (rows < num_rows)[:, None] & (channels < D)[None, :]
    through_tables = tl.full((ROWS, WIDTH), 0.0, tl.float32)
    for chunk in range(CHUNKS):
        spread = _spread(
            grad_ptr, columns_of_rows_ptr, rows, tokens, num_rows, chunk,
            T, H, W, end_t, end_h, D, P, FOLDED, CHUNK, CHUNKS, COLUMNS,
        )  # fmt: skip
        table = _table_rows(tables_ptr, chunk, R, D, CHUNK, WIDTH)
        through_tables += tl.dot(spread.to(table.dtype), table, input_precision="ieee")
    own = tl.load(grad_ptr + rows[:, None] * FOLDED + channels[None, :], mask, 0.0)
    grad_q = own.to(tl.float32) + through_tables / scale
    tl.store(
        grad_q_ptr + rows[:, None] * D + channels[None, :],
        grad_q.to(grad_q_ptr.dtype.element_ty),
        mask,
    )


@triton.jit
def fold_backward_to_tables(
    grad_ptr, folded_ptr, columns_of_rows_ptr, partial_ptr,
    length, num_rows, T, H, W, R, end_t, end_h, scale,
    N: tl.constexpr, D: tl.constexpr, P: tl.constexpr, FOLDED: tl.constexpr,
    ROWS: tl.constexpr, WIDTH: tl.constexpr, COLUMNS: tl.constexpr,
    CHUNK: tl.constexpr, CHUNKS: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    """Partial gradients of one chunk of the tables from TILES tiles, (programs, R, D) float32."""
    chunk = tl.program_id(1)
    channels = tl.arange(0, WIDTH)
    total = tl.full((CHUNK, WIDTH), 0.0, tl.float32)
    for step in range(TILES):
        rows, tokens = _rows(tl.program_id(0) * TILES + step, length, N, ROWS)
        spread = _spread(
            grad_ptr, columns_of_rows_ptr, rows, tokens, num_rows, chunk,
            T, H, W, end_t, end_h, D, P, FOLDED, CHUNK, CHUNKS, COLUMNS,
        )  # fmt: skip
        q = tl.load(
            folded_ptr + rows[:, None] * FOLDED + channels[None, :],
            mask=(rows < num_rows)[:, None] & (channels < D)[None, :],
            other=0.0,
        )
        total += tl.dot(tl.trans(spread.to(q.dtype)), q, input_precision="ieee")
    numbers = chunk * CHUNK + tl.arange(0, CHUNK)
    tl.store(
        partial_ptr + (tl.program_id(0) * R + numbers)[:, None] * D + channels[None, :],
        total / scale,
        mask=(numbers < R)[:, None] & (channels < D)[None, :],
    )


@triton.jit
def unfold_forward(
    attended_ptr, residual_ptr, out_ptr,
    length, num_rows, num_without_residual,
    N: tl.constexpr, D: tl.constexpr, FOLDED: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """The first D channels of the output of attention, plus the residual."""
    rows, tokens = _rows(tl.program_id(0), length, N, ROWS)
    channels = tl.arange(0, WIDTH)
    mask = (rows < num_rows)[:, None] & (channels < D)[None, :]
    places = rows[:, None] * D + channels[None, :]
    attended = tl.load(attended_ptr + rows[:, None] * FOLDED + channels[None, :], mask, 0.0)
    with_residual = mask & (tokens >= num_without_residual)[:, None]
    residual = tl.load(residual_ptr + places, with_residual, 0.0)
    out = attended.to(tl.float32) + residual.to(tl.float32)
    tl.store(out_ptr + places, out.to(out_ptr.dtype.element_ty), mask)


@triton.jit
def unfold_backward(
    grad_ptr, grad_attended_ptr, grad_residual_ptr,
    length, num_rows, num_without_residual,
    N: tl.constexpr, D: tl.constexpr, FOLDED: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """The gradient with zeros where channels were cut, and with zeros where nothing was added."""
    rows, tokens = _rows(tl.program_id(0), length, N, ROWS)
    inside = (rows < num_rows)[:, None]
    channels = tl.arange(0, WIDTH)
    mask = inside & (channels < D)[None, :]
    places = rows[:, None] * D + channels[None, :]
    grad = tl.load(grad_ptr + places, mask, 0.0)
    tl.store(
        grad_attended_ptr + rows[:, None] * FOLDED + channels[None, :],
        grad,
        mask=inside & (channels < FOLDED)[None, :],
    )
    with_residual = (tokens >= num_without_residual)[:, None]
    tl.store(grad_residual_ptr + places, tl.where(with_residual, grad, 0.0), mask)
