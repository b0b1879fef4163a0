/* Vectors of eight numbers, or of sixteen where a file says so: float32 or bfloat16 in memory, float32 in registers.
 *
 * native.py compiles the files of this folder at first use and calls their functions. Every integer
 * argument is an i64, and the last one is the number of threads. The plain forms are PyTorch's own
 * operations, in models/pooling.py and models/attention.py.
 *
 * Letters: B batch, N heads, D head width (a multiple of 8), P prefix tokens; (T, H, W) the grid
 * of the input tokens, (OT, OH, OW) that of the output tokens.
 *
 * Each thread has its own sums over positions, which the caller adds up in the order of the
 * threads, and the work is split statically: the same number of threads gives the same bits.
 */

#pragma once

#include <math.h>
#include <omp.h>
#include <stdint.h>
#include <string.h>

#ifdef __AVX2__
#include <immintrin.h>
#endif

#ifndef LANES
#define LANES 8 /* a file may define 16 */
#endif
#define MAX_WIDTH 512
#define MAX_PLANE 4096

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t ivec __attribute__((vector_size(4 * LANES)));
typedef uint16_t hvec __attribute__((vector_size(2 * LANES)));
typedef uint32_t uvec __attribute__((vector_size(4 * LANES)));
typedef int64_t i64;

#define INLINE static inline __attribute__((always_inline))

/* Calls f with the dtype as a constant: the compiler makes one form for each dtype. */
#define FOR_DTYPE(f, ...) (is_bf16 ? f(__VA_ARGS__, 1) : f(__VA_ARGS__, 0))

INLINE vec load(const float *from) {
    vec x;
    memcpy(&x, from, sizeof x);
    return x;
}

INLINE void store(float *to, vec x) { memcpy(to, &x, sizeof x); }

INLINE vec all(float x) { return x - (vec){0}; }

#if LANES == 8
INLINE float sum(vec x) {
#ifdef __AVX2__ /* the same order in vectors */
    __m128 four = _mm256_castps256_ps128((__m256)x) + _mm256_extractf128_ps((__m256)x, 1);
    four += _mm_movehl_ps(four, four);
    return four[0] + four[1];
#endif
    return ((x[0] + x[4]) + (x[2] + x[6])) + ((x[1] + x[5]) + (x[3] + x[7]));
}
#endif

/* LANES elements of a float32 or bfloat16 array, from element i on. */
INLINE vec load_any(const void *from, i64 i, int is_bf16) {
    if (!is_bf16) return load((const float *)from + i);
    hvec half;
    memcpy(&half, (const uint16_t *)from + i, sizeof half);
#if LANES == 16 && defined(__AVX512F__)
    return (vec)((uvec)_mm512_cvtepu16_epi32((__m256i)half) << 16);
#elif LANES == 8 && defined(__AVX2__) /* one instruction, where the compiler generates five */
    return (vec)((uvec)_mm256_cvtepu16_epi32((__m128i)half) << 16);
#else
    return (vec)(__builtin_convertvector(half, uvec) << 16);
#endif
}

/* Rounds to the nearest bfloat16, ties to even; NaN stays NaN. */
INLINE void store_any(void *to, i64 i, vec x, int is_bf16) {
    if (!is_bf16) {
        store((float *)to + i, x);
        return;
    }
#if LANES == 16 && defined(__AVX512BF16__) /* what is below 2^-126 becomes 0 */
    __m256i half = (__m256i)_mm512_cvtneps_pbh((__m512)x);
#else
    uvec bits = (uvec)x;
    uvec rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    uvec is_nan = (uvec)(x != x);
    rounded = (is_nan & 0x7fc0) | (~is_nan & rounded);
#if LANES == 8 && defined(__AVX2__)
    __m256i wide = (__m256i)rounded;
    __m128i half = _mm_packus_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1));
#else
    hvec half = __builtin_convertvector(rounded, hvec);
#endif
#endif
    memcpy((uint16_t *)to + i, &half, sizeof half);
}

/* e^x for x <= 0, within 2 units in the last place; 0 below -87. NaN stays NaN. */
INLINE vec exp_of_negative(vec x) {
    const vec shift = all(12582912.0f); /* 1.5 * 2^23: adding it rounds to an integer */
    ivec tiny = x < -87.0f;
    vec shifted = x * 1.44269504088896341f + shift;
    vec n = shifted - shift;
    vec r = x - n * 0.693359375f;
    r = r + n * 2.12194440e-4f;
    vec p = all(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    ivec power = ((ivec)shifted - (ivec)shift) << 23;
    ivec result = (ivec)p + power;
    return (vec)(~tiny & result);
}
