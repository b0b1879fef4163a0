/* Products of bfloat16 matrices with sums in float32: in tiles (AMX), or in vectors of pairs.
 *
 * The second operand is packed: for each 16 columns and each 32 rows a tile of (16 pairs of rows,
 * 16 columns, 2). Sizes are multiples of GRAIN; what fills them up is 0.
 */

#pragma once

#ifdef __AVX512BF16__

#include "vectors.h"

#include <stdlib.h>

#define GRAIN 32

typedef uint16_t half;

INLINE i64 padded(i64 length) { return (length + GRAIN - 1) / GRAIN * GRAIN; }

/* 16 numbers from each of two rows, in pairs. */
INLINE __m512i pairs(__m256i first, __m256i second) {
    return _mm512_or_si512(_mm512_cvtepu16_epi32(first),
                           _mm512_slli_epi32(_mm512_cvtepu16_epi32(second), 16));
}

/* Columns d and d + 1 of up to 16 rows, in pairs. */
INLINE __m512i column_pairs(const half *x, i64 stride, i64 rows, i64 d) {
    const __m512i lane = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    const __m512i at = _mm512_mullo_epi32(lane, _mm512_set1_epi32((int)stride));
    const __mmask16 present = rows >= 16 ? 0xffff : rows > 0 ? (1 << rows) - 1 : 0;
    return _mm512_mask_i32gather_epi32(_mm512_setzero_si512(), present, at, x + d, 2);
}

/* packed <- x (rows, width), to be multiplied from the left by (m, rows). */
INLINE void pack(const half *x, i64 stride, i64 rows, i64 width, half *packed) {
    for (i64 c = 0; c < padded(width); c += 16) {
        const __mmask16 present = c + 16 <= width ? 0xffff : c < width ? 0xff : 0;
        for (i64 r = 0; r < padded(rows); r += 2, packed += 32) {
            const half *from = x + r * stride + c;
            __m256i first = _mm256_maskz_loadu_epi16(r < rows ? present : 0, from);
            __m256i second = _mm256_maskz_loadu_epi16(r + 1 < rows ? present : 0, from + stride);
            _mm512_storeu_si512(packed, pairs(first, second));
        }
    }
}

/* packed <- the transpose of x (rows, width), to be multiplied from the left by (m, width). */
INLINE void pack_transposed(const half *x, i64 stride, i64 rows, i64 width, half *packed) {
    for (i64 r = 0; r < padded(rows); r += 16)
        for (i64 d = 0; d < padded(width); d += 2, packed += 32) {
            const i64 present = d < width ? rows - r : 0;
            _mm512_storeu_si512(packed, column_pairs(x + r * stride, stride, present, d));
        }
}

/* y (width, rows) <- the transpose of x (rows, width), both without gaps and not packed. */
INLINE void transpose(const half *x, i64 rows, i64 width, half *y) {
    for (i64 r = 0; r < rows; r += 16)
        for (i64 d = 0; d < width; d += 2) {
            __m512i both = column_pairs(x + r * width, width, 16, d);
            half *to = y + d * rows + r;
            _mm256_storeu_si256((__m256i *)to, _mm512_cvtepi32_epi16(both));
            _mm256_storeu_si256((__m256i *)(to + rows),
                                _mm512_cvtepi32_epi16(_mm512_srli_epi32(both, 16)));
        }
}

static void multiply_in_pairs(const half *a, i64 a_stride, const half *b, float *c, i64 c_stride,
                              i64 m, i64 n, i64 k, const int add) {
    for (i64 j = 0; j < n; j += 32)
        for (i64 i = 0; i < m; i += 8) {
            const half *left = b + j * k, *right = left + 16 * k;
            float *to = c + i * c_stride + j;
            __m512 sums[8][2];
            for (int r = 0; r < 8; r++)
                for (int side = 0; side < 2; side++)
                    sums[r][side] = add ? _mm512_loadu_ps(to + r * c_stride + side * 16)
                                        : _mm512_setzero_ps();
            for (i64 s = 0; s < k; s += 2) {
                const __m512bh of_left = (__m512bh)_mm512_loadu_si512(left + s * 16);
                const __m512bh of_right = (__m512bh)_mm512_loadu_si512(right + s * 16);
                for (int r = 0; r < 8; r++) {
                    int32_t pair;
                    memcpy(&pair, a + (i + r) * a_stride + s, sizeof pair);
                    const __m512bh x = (__m512bh)_mm512_set1_epi32(pair);
                    sums[r][0] = _mm512_dpbf16_ps(sums[r][0], x, of_left);
                    sums[r][1] = _mm512_dpbf16_ps(sums[r][1], x, of_right);
                }
            }
            for (int r = 0; r < 8; r++)
                for (int side = 0; side < 2; side++)
                    _mm512_storeu_ps(to + r * c_stride + side * 16, sums[r][side]);
        }
}

#ifdef __AMX_BF16__

#include <sys/syscall.h>
#include <unistd.h>

/* Whether this process may use tiles: Linux gives the permission once, on request. */
static int has_tiles(void) {
    static int known = 0; /* 1 for no, 2 for yes */
    if (!known) known = syscall(SYS_arch_prctl, 0x1023, 18) == 0 ? 2 : 1;
    return known == 2;
}

/* By each thread, before and after its products. */
INLINE void begin_products(void) {
    struct {
        uint8_t palette, start, reserved[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } shapes = {.palette = 1};
    for (int i = 0; i < 8; i++) shapes.bytes[i] = 64, shapes.rows[i] = 16;
    if (has_tiles()) _tile_loadconfig(&shapes);
}

INLINE void end_products(void) {
    if (has_tiles()) _tile_release();
}

static void multiply_in_tiles(const half *a, i64 a_stride, const half *b, float *c, i64 c_stride,
                              i64 m, i64 n, i64 k, const int add) {
    const i64 a_bytes = a_stride * 2, c_bytes = c_stride * 4;
    __asm__ volatile("" ::: "memory"); /* the compiler does not see what tiles read */
    for (i64 j = 0; j < n; j += 32)
        for (i64 i = 0; i < m; i += 32) {
            const half *x = a + i * a_stride, *left = b + j * k, *right = left + 16 * k;
            float *to = c + i * c_stride + j, *below = to + 16 * c_stride;
            if (add) {
                _tile_loadd(0, to, c_bytes);
                _tile_loadd(1, to + 16, c_bytes);
                _tile_loadd(2, below, c_bytes);
                _tile_loadd(3, below + 16, c_bytes);
            } else {
                _tile_zero(0);
                _tile_zero(1);
                _tile_zero(2);
                _tile_zero(3);
            }
            for (i64 s = 0; s < k; s += 32) {
                _tile_loadd(4, x + s, a_bytes);
                _tile_loadd(5, x + 16 * a_stride + s, a_bytes);
                _tile_loadd(6, left + s * 16, 64);
                _tile_loadd(7, right + s * 16, 64);
                _tile_dpbf16ps(0, 4, 6);
                _tile_dpbf16ps(1, 4, 7);
                _tile_dpbf16ps(2, 5, 6);
                _tile_dpbf16ps(3, 5, 7);
            }
            _tile_stored(0, to, c_bytes);
            _tile_stored(1, to + 16, c_bytes);
            _tile_stored(2, below, c_bytes);
            _tile_stored(3, below + 16, c_bytes);
        }
}

#else

INLINE void begin_products(void) {}
INLINE void end_products(void) {}

#endif

/* c (m, n) <- a (m, k) b, plus c with add; b is packed. */
INLINE void multiply(const half *a, i64 a_stride, const half *b, float *c, i64 c_stride, i64 m,
                     i64 n, i64 k, const int add) {
#ifdef __AMX_BF16__
    if (has_tiles()) {
        multiply_in_tiles(a, a_stride, b, c, c_stride, m, n, k, add);
        return;
    }
#endif
    multiply_in_pairs(a, a_stride, b, c, c_stride, m, n, k, add);
}

#endif
