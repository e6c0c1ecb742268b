/* Vectors of S values: the operations that the generated kernels are written in (see fastrnn/backends/tiled/emitter.py).

   FASTRNN_BITS, 32 or 64, is the element type; FASTRNN_AVX512 or FASTRNN_AVX2 the instruction set. Without them vectors
   have 16 bytes, as the compiler has them for the machine (SSE2, NEON), or as loops where it knows no vectors.

   A fused multiply-add is one where it is written and nowhere else; compile without contraction. */

#ifndef FASTRNN_VECTOR_H
#define FASTRNN_VECTOR_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "machine.h"

#if FASTRNN_BITS == 32
typedef float S;
typedef int32_t I;
#define SIGN INT32_MIN
#else
typedef double S;
typedef int64_t I;
#define SIGN INT64_MIN
#endif

#define VALUES(address) ((S *)(intptr_t)(address))

#if defined(FASTRNN_AVX512) || defined(FASTRNN_AVX2)

#include <immintrin.h>

#if defined(FASTRNN_AVX512)
#define LANES (64 / (int64_t)sizeof(S))
#if FASTRNN_BITS == 32
typedef __m512 V;
typedef __mmask16 M;
#define OP(name) _mm512_##name##_ps
#define COMPARE _mm512_cmp_ps_mask
#define FROM_BITS _mm512_castsi512_ps
#define TO_BITS _mm512_castps_si512
#define BITS(name) _mm512_##name##_epi32
#else
typedef __m512d V;
typedef __mmask8 M;
#define OP(name) _mm512_##name##_pd
#define COMPARE _mm512_cmp_pd_mask
#define FROM_BITS _mm512_castsi512_pd
#define TO_BITS _mm512_castpd_si512
#define BITS(name) _mm512_##name##_epi64
#endif
#define AND _mm512_and_si512
#define XOR _mm512_xor_si512
#define CHOOSE(mask, u, v) OP(mask_blend)(mask, v, u)

static INLINE M first_lanes(int64_t count)
{
    return (M)(count >= LANES ? ~0u : count <= 0 ? 0u : (1u << count) - 1u);
}

static INLINE V v_load_first(const S *at, int64_t count) { return OP(maskz_loadu)(first_lanes(count), at); }

static INLINE void v_store_first(S *at, V a, int64_t count)
{
    if (count >= LANES)
        OP(storeu)(at, a);
    else
        OP(mask_storeu)(at, first_lanes(count), a);
}

#else /* AVX2 */

#define LANES (32 / (int64_t)sizeof(S))
#if FASTRNN_BITS == 32
typedef __m256 V;
#define OP(name) _mm256_##name##_ps
#define FROM_BITS _mm256_castsi256_ps
#define TO_BITS _mm256_castps_si256
#define BITS(name) _mm256_##name##_epi32
#define SET_BITS _mm256_set1_epi32
#else
typedef __m256d V;
#define OP(name) _mm256_##name##_pd
#define FROM_BITS _mm256_castsi256_pd
#define TO_BITS _mm256_castpd_si256
#define BITS(name) _mm256_##name##_epi64
#define SET_BITS _mm256_set1_epi64x
#endif
#define AND _mm256_and_si256
#define XOR _mm256_xor_si256
#define COMPARE OP(cmp)
#define CHOOSE(mask, u, v) OP(blendv)(v, u, mask)

static INLINE __m256i first_lanes(int64_t count)
{
    static const I lanes[2 * LANES] = {-1, -1, -1, -1,
#if FASTRNN_BITS == 32
                                       -1, -1, -1, -1,
#endif
                                       0};
    const int64_t some = count < 0 ? 0 : count > LANES ? LANES : count;
    return _mm256_loadu_si256((const __m256i *)(const void *)(lanes + LANES - some));
}

static INLINE V v_load_first(const S *at, int64_t count) { return OP(maskload)(at, first_lanes(count)); }

static INLINE void v_store_first(S *at, V a, int64_t count)
{
    if (count >= LANES)
        OP(storeu)(at, a);
    else
        OP(maskstore)(at, first_lanes(count), a);
}

#endif

#ifndef SET_BITS
#define SET_BITS BITS(set1)
#endif

static INLINE V v_splat(S a) { return OP(set1)(a); }
static INLINE V v_load(const S *at) { return OP(loadu)(at); }

/* A vector of weights, which each row of a tile multiplies. GCC would rather read it from memory again for each of them
   than keep it, and AVX2 has just as many reads as multiply-adds in a cycle: a sixth of the time (LSTM, two rows). */
static INLINE V v_load_aligned(const S *at)
{
    V a = OP(load)(at);
#if defined(FASTRNN_AVX2) && defined(__GNUC__) && !defined(__clang__)
    __asm__("" : "+x"(a));
#endif
    return a;
}

static INLINE void v_store(S *at, V a) { OP(storeu)(at, a); }
static INLINE V v_add(V a, V b) { return OP(add)(a, b); }
static INLINE V v_sub(V a, V b) { return OP(sub)(a, b); }
static INLINE V v_mul(V a, V b) { return OP(mul)(a, b); }
static INLINE V v_div(V a, V b) { return OP(div)(a, b); }
static INLINE V v_fma(V a, V b, V c) { return OP(fmadd)(a, b, c); }
static INLINE V v_min(V a, V b) { return OP(min)(a, b); }
static INLINE V v_max(V a, V b) { return OP(max)(a, b); }
static INLINE V v_neg(V a) { return FROM_BITS(XOR(TO_BITS(a), SET_BITS(SIGN))); }
static INLINE V v_abs(V a) { return FROM_BITS(AND(TO_BITS(a), SET_BITS(~SIGN))); }
static INLINE V v_select_gt(V a, V b, V u, V v) { return CHOOSE(COMPARE(a, b, _CMP_GT_OQ), u, v); }
static INLINE V v_select_nan(V a, V u, V v) { return CHOOSE(COMPARE(a, a, _CMP_UNORD_Q), u, v); }
static INLINE V v_shifted(V a, int count) { return FROM_BITS(BITS(slli)(TO_BITS(a), count)); }

#else /* 16 bytes */

#define LANES (16 / (int64_t)sizeof(S))

#if defined(__GNUC__)

typedef S V __attribute__((vector_size(16)));
typedef I VI __attribute__((vector_size(16)));

#if FASTRNN_BITS == 32
#define SPLAT(a) {(a), (a), (a), (a)}
#else
#define SPLAT(a) {(a), (a)}
#endif

static INLINE V choose(VI mask, V u, V v) { return (V)((mask & (VI)u) | (~mask & (VI)v)); }

static INLINE V v_splat(S a)
{
    const V v = SPLAT(a);
    return v;
}

static INLINE VI splat_bits(I a)
{
    const VI v = SPLAT(a);
    return v;
}

static INLINE V v_add(V a, V b) { return a + b; }
static INLINE V v_sub(V a, V b) { return a - b; }
static INLINE V v_mul(V a, V b) { return a * b; }
static INLINE V v_div(V a, V b) { return a / b; }
static INLINE V v_neg(V a) { return (V)((VI)a ^ splat_bits(SIGN)); }
static INLINE V v_abs(V a) { return (V)((VI)a & splat_bits(~SIGN)); }
static INLINE V v_select_gt(V a, V b, V u, V v) { return choose((VI)(a > b), u, v); }
static INLINE V v_select_nan(V a, V u, V v) { return choose((VI)(a == a), v, u); }
static INLINE V v_shifted(V a, int count)
{
#if FASTRNN_BITS == 32
    typedef uint32_t VU __attribute__((vector_size(16)));
#else
    typedef uint64_t VU __attribute__((vector_size(16)));
#endif
    return (V)((VU)a << count);
}

#if defined(__SSE2__)
#include <emmintrin.h>
#if FASTRNN_BITS == 32
static INLINE V v_min(V a, V b) { return (V)_mm_min_ps((__m128)a, (__m128)b); }
static INLINE V v_max(V a, V b) { return (V)_mm_max_ps((__m128)a, (__m128)b); }
#else
static INLINE V v_min(V a, V b) { return (V)_mm_min_pd((__m128d)a, (__m128d)b); }
static INLINE V v_max(V a, V b) { return (V)_mm_max_pd((__m128d)a, (__m128d)b); }
#endif
#else
static INLINE V v_min(V a, V b) { return choose((VI)(a < b), a, b); }
static INLINE V v_max(V a, V b) { return choose((VI)(a > b), a, b); }
#endif

#if defined(FASTRNN_NEON)
#include <arm_neon.h>
#if FASTRNN_BITS == 32
static INLINE V v_fma(V a, V b, V c) { return (V)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b); }
#else
static INLINE V v_fma(V a, V b, V c) { return (V)vfmaq_f64((float64x2_t)c, (float64x2_t)a, (float64x2_t)b); }
#endif
#endif

#else /* a compiler that knows no vectors */

typedef struct {
    S lane[16 / sizeof(S)];
} V;

#define EACH(expression)                 \
    V r;                                 \
    for (int64_t k = 0; k < LANES; k++)  \
        r.lane[k] = (expression);        \
    return r

static INLINE S shifted_bits(S a, int count)
{
#if FASTRNN_BITS == 32
    uint32_t bits;
#else
    uint64_t bits;
#endif
    memcpy(&bits, &a, sizeof a);
    bits <<= count;
    memcpy(&a, &bits, sizeof a);
    return a;
}

static INLINE V v_splat(S a) { EACH(a); }
static INLINE V v_add(V a, V b) { EACH(a.lane[k] + b.lane[k]); }
static INLINE V v_sub(V a, V b) { EACH(a.lane[k] - b.lane[k]); }
static INLINE V v_mul(V a, V b) { EACH(a.lane[k] * b.lane[k]); }
static INLINE V v_div(V a, V b) { EACH(a.lane[k] / b.lane[k]); }
static INLINE V v_neg(V a) { EACH(-a.lane[k]); }
static INLINE V v_abs(V a) { EACH((S)fabs(a.lane[k])); }
static INLINE V v_min(V a, V b) { EACH(a.lane[k] < b.lane[k] ? a.lane[k] : b.lane[k]); }
static INLINE V v_max(V a, V b) { EACH(a.lane[k] > b.lane[k] ? a.lane[k] : b.lane[k]); }
static INLINE V v_select_gt(V a, V b, V u, V v) { EACH(a.lane[k] > b.lane[k] ? u.lane[k] : v.lane[k]); }
static INLINE V v_select_nan(V a, V u, V v) { EACH(a.lane[k] != a.lane[k] ? u.lane[k] : v.lane[k]); }
static INLINE V v_shifted(V a, int count) { EACH(shifted_bits(a.lane[k], count)); }

#if defined(FASTRNN_NEON)
static INLINE V v_fma(V a, V b, V c) { EACH((S)(FASTRNN_BITS == 32 ? fmaf(a.lane[k], b.lane[k], c.lane[k]) : fma(a.lane[k], b.lane[k], c.lane[k]))); }
#endif

#endif

static INLINE V v_load(const S *at)
{
    V a;
    memcpy(&a, at, sizeof a);
    return a;
}

static INLINE V v_load_aligned(const S *at) { return v_load(at); }

static INLINE void v_store(S *at, V a) { memcpy(at, &a, sizeof a); }

static INLINE V v_load_first(const S *at, int64_t count)
{
    S lanes[16 / sizeof(S)] = {0};
    if (count >= LANES)
        return v_load(at);
    for (int64_t k = 0; k < count; k++)
        lanes[k] = at[k];
    return v_load(lanes);
}

static INLINE void v_store_first(S *at, V a, int64_t count)
{
    if (count >= LANES)
        v_store(at, a);
    else if (count > 0) {
        S lanes[16 / sizeof(S)];
        v_store(lanes, a);
        for (int64_t k = 0; k < count; k++)
            at[k] = lanes[k];
    }
}

#endif

static INLINE int64_t read_whole(int64_t address) { return *(const int64_t *)(intptr_t)address; }

#endif
