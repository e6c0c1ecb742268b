/* Vectors of S values: the operations that the generated kernels are written in (see fastrnn/backends/tiled/emitter.py).

   FASTRNN_BITS, 32 or 64, is the element type; FASTRNN_AVX512, FASTRNN_AVX2 or FASTRNN_NEON the instruction set. Without
   one vectors have 16 bytes: SSE2 on x86, and elsewhere whatever the compiler makes of its own vector types, or of loops
   where it has none; FASTRNN_NO_INTRINSICS and with it FASTRNN_NO_VECTORS are for testing those forms.

   A fused multiply-add is one where it is written and nowhere else; compile without contraction. */

#ifndef FASTRNN_VECTOR_H
#define FASTRNN_VECTOR_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "machine.h"

#if defined(_MSC_VER) && !defined(__clang__)
#pragma fp_contract(off) /* which was on by default until 2022 */
#endif

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

static INLINE int64_t read_whole(int64_t address) { return *(const int64_t *)(intptr_t)address; }

#if defined(FASTRNN_AVX512) || defined(FASTRNN_AVX2) || (defined(FASTRNN_X86) && !defined(FASTRNN_NO_INTRINSICS))

#include <immintrin.h>

#if defined(FASTRNN_AVX512)
#define LANES (64 / (int64_t)sizeof(S))
#if FASTRNN_BITS == 32
typedef __m512 V;
typedef __mmask16 M;
#define OP(name) _mm512_##name##_ps
#define MASK_OF _mm512_cmp_ps_mask
#define FROM_BITS _mm512_castsi512_ps
#define TO_BITS _mm512_castps_si512
#define BITS(name) _mm512_##name##_epi32
#else
typedef __m512d V;
typedef __mmask8 M;
#define OP(name) _mm512_##name##_pd
#define MASK_OF _mm512_cmp_pd_mask
#define FROM_BITS _mm512_castsi512_pd
#define TO_BITS _mm512_castpd_si512
#define BITS(name) _mm512_##name##_epi64
#endif
#define AND _mm512_and_si512
#define XOR _mm512_xor_si512
#define GREATER(a, b) MASK_OF(a, b, _CMP_GT_OQ)
#define UNORDERED(a, b) MASK_OF(a, b, _CMP_UNORD_Q)
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

#elif defined(FASTRNN_AVX2)

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
#define GREATER(a, b) OP(cmp)(a, b, _CMP_GT_OQ)
#define UNORDERED(a, b) OP(cmp)(a, b, _CMP_UNORD_Q)
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

#else /* SSE2 */

#define FIRST_BY_ONE
#define LANES (16 / (int64_t)sizeof(S))
#if FASTRNN_BITS == 32
typedef __m128 V;
#define OP(name) _mm_##name##_ps
#define FROM_BITS _mm_castsi128_ps
#define TO_BITS _mm_castps_si128
#define BITS(name) _mm_##name##_epi32
#define SET_BITS _mm_set1_epi32
#else
typedef __m128d V;
#define OP(name) _mm_##name##_pd
#define FROM_BITS _mm_castsi128_pd
#define TO_BITS _mm_castpd_si128
#define BITS(name) _mm_##name##_epi64
#define SET_BITS _mm_set1_epi64x
#endif
#define AND _mm_and_si128
#define XOR _mm_xor_si128
#define GREATER OP(cmpgt)
#define UNORDERED OP(cmpunord)
#define CHOOSE choose

static INLINE V choose(V mask, V u, V v) { return OP(or)(OP(and)(mask, u), OP(andnot)(mask, v)); }

#endif

#ifndef SET_BITS
#define SET_BITS BITS(set1)
#endif

static INLINE V v_splat(S a) { return OP(set1)(a); }
static INLINE V v_load(const S *at) { return OP(loadu)(at); }

/* A vector of weights, which each row of a tile multiplies. GCC would rather read it from memory again for each of them
   than keep it, and AVX2 has just as many reads as multiply-adds in a cycle: a sixth of the time (LSTM, two rows). It
   would also shuffle the reads; kept in order, and in loops that begin with a cache line, a lone row takes a seventh
   less where the core is shared and weights come from the second cache (LSTM, H = 96 to 160, AVX-512). */
static INLINE V v_load_aligned(const S *at)
{
    V a = OP(load)(at);
#if (defined(FASTRNN_AVX512) || defined(FASTRNN_AVX2)) && defined(__GNUC__) && !defined(__clang__)
    __asm__ volatile("" : "+v"(a));
#endif
    return a;
}

static INLINE void v_store(S *at, V a) { OP(storeu)(at, a); }
static INLINE V v_add(V a, V b) { return OP(add)(a, b); }
static INLINE V v_sub(V a, V b) { return OP(sub)(a, b); }
static INLINE V v_mul(V a, V b) { return OP(mul)(a, b); }
static INLINE V v_div(V a, V b) { return OP(div)(a, b); }
static INLINE V v_min(V a, V b) { return OP(min)(a, b); }
static INLINE V v_max(V a, V b) { return OP(max)(a, b); }
static INLINE V v_neg(V a) { return FROM_BITS(XOR(TO_BITS(a), SET_BITS(SIGN))); }
static INLINE V v_abs(V a) { return FROM_BITS(AND(TO_BITS(a), SET_BITS(~SIGN))); }
static INLINE V v_select_gt(V a, V b, V u, V v) { return CHOOSE(GREATER(a, b), u, v); }
static INLINE V v_select_nan(V a, V u, V v) { return CHOOSE(UNORDERED(a, a), u, v); }
static INLINE V v_shifted(V a, int count) { return FROM_BITS(BITS(slli)(TO_BITS(a), count)); }
#if defined(FASTRNN_AVX512) || defined(FASTRNN_AVX2)
static INLINE V v_fma(V a, V b, V c) { return OP(fmadd)(a, b, c); }
#endif

/* A product added to a running sum, which stays in its register. Twelve sums leave four of AVX2's sixteen registers, and
   GCC, which gives the result whatever register it likes, then runs out of them: it moves sums about and keeps one in
   memory, 5 to 12 % of a layer's time (Zen 3, 128 to 512 units). */
#if defined(FASTRNN_AVX2) && defined(__GNUC__) && !defined(__clang__)
static INLINE V v_accumulate(V a, V b, V c)
{
#if FASTRNN_BITS == 32
    __asm__("vfmadd231ps %2, %1, %0" : "+x"(c) : "x"(a), "x"(b));
#else
    __asm__("vfmadd231pd %2, %1, %0" : "+x"(c) : "x"(a), "x"(b));
#endif
    return c;
}
#elif defined(FASTRNN_AVX512) || defined(FASTRNN_AVX2)
#define v_accumulate v_fma
#endif

#elif defined(FASTRNN_NEON)

#include <arm_neon.h>

#define FIRST_BY_ONE
#define LANES (16 / (int64_t)sizeof(S))
#if FASTRNN_BITS == 32
typedef float32x4_t V;
#define OP(name) v##name##_f32
#define FROM_BITS vreinterpretq_f32_s32
#define TO_BITS vreinterpretq_s32_f32
#define BITS(name) v##name##_s32
#else
typedef float64x2_t V;
#define OP(name) v##name##_f64
#define FROM_BITS vreinterpretq_f64_s64
#define TO_BITS vreinterpretq_s64_f64
#define BITS(name) v##name##_s64
#endif

static INLINE V v_splat(S a) { return OP(dupq_n)(a); }
static INLINE V v_load(const S *at) { return OP(ld1q)(at); }
static INLINE V v_load_aligned(const S *at) { return OP(ld1q)(at); }
static INLINE void v_store(S *at, V a) { OP(st1q)(at, a); }
static INLINE V v_add(V a, V b) { return OP(addq)(a, b); }
static INLINE V v_sub(V a, V b) { return OP(subq)(a, b); }
static INLINE V v_mul(V a, V b) { return OP(mulq)(a, b); }
static INLINE V v_div(V a, V b) { return OP(divq)(a, b); }
static INLINE V v_fma(V a, V b, V c) { return OP(fmaq)(c, a, b); }
#define v_accumulate v_fma
static INLINE V v_neg(V a) { return OP(negq)(a); }
static INLINE V v_abs(V a) { return OP(absq)(a); }
static INLINE V v_select_gt(V a, V b, V u, V v) { return OP(bslq)(OP(cgtq)(a, b), u, v); }
static INLINE V v_select_nan(V a, V u, V v) { return OP(bslq)(OP(ceqq)(a, a), v, u); }
static INLINE V v_min(V a, V b) { return v_select_gt(b, a, a, b); } /* as on x86: b where one is NaN */
static INLINE V v_max(V a, V b) { return v_select_gt(a, b, a, b); }
static INLINE V v_shifted(V a, int count) { return FROM_BITS(BITS(shlq)(TO_BITS(a), BITS(dupq_n)(count))); }

#elif (defined(__GNUC__) || defined(__clang__)) && !defined(FASTRNN_NO_VECTORS) /* the compiler's own vectors */

#define FIRST_BY_ONE
#define LANES (16 / (int64_t)sizeof(S))

typedef S V __attribute__((vector_size(16)));
typedef I VI __attribute__((vector_size(16)));

#if FASTRNN_BITS == 32
typedef uint32_t VU __attribute__((vector_size(16)));
#define SPLAT(a) {(a), (a), (a), (a)}
#else
typedef uint64_t VU __attribute__((vector_size(16)));
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
static INLINE V v_min(V a, V b) { return choose((VI)(a < b), a, b); }
static INLINE V v_max(V a, V b) { return choose((VI)(a > b), a, b); }
static INLINE V v_shifted(V a, int count) { return (V)((VU)a << count); }

static INLINE V v_load(const S *at)
{
    V a;
    memcpy(&a, at, sizeof a);
    return a;
}

static INLINE V v_load_aligned(const S *at) { return v_load(at); }

static INLINE void v_store(S *at, V a) { memcpy(at, &a, sizeof a); }

#else /* plain loops, for compilers without vectors; FASTRNN_NO_VECTORS tests them */

#define FIRST_BY_ONE
#define LANES (16 / (int64_t)sizeof(S))

typedef struct {
    S of[16 / sizeof(S)];
} V;

#define LANE_BY_LANE(expression)                                                                                       \
    V result;                                                                                                          \
    for (int k = 0; k < LANES; k++)                                                                                    \
        result.of[k] = (expression);                                                                                   \
    return result

static INLINE S lane_shifted(S a, int count)
{
    I bits;
    memcpy(&bits, &a, sizeof bits);
#if FASTRNN_BITS == 32
    bits = (I)((uint32_t)bits << count);
#else
    bits = (I)((uint64_t)bits << count);
#endif
    memcpy(&a, &bits, sizeof a);
    return a;
}

static INLINE V v_splat(S a) { LANE_BY_LANE(a); }
static INLINE V v_load(const S *at) { LANE_BY_LANE(at[k]); }
static INLINE V v_load_aligned(const S *at) { return v_load(at); }
static INLINE void v_store(S *at, V a) { memcpy(at, &a, sizeof a); }
static INLINE V v_add(V a, V b) { LANE_BY_LANE(a.of[k] + b.of[k]); }
static INLINE V v_sub(V a, V b) { LANE_BY_LANE(a.of[k] - b.of[k]); }
static INLINE V v_mul(V a, V b) { LANE_BY_LANE(a.of[k] * b.of[k]); }
static INLINE V v_div(V a, V b) { LANE_BY_LANE(a.of[k] / b.of[k]); }
static INLINE V v_neg(V a) { LANE_BY_LANE(-a.of[k]); }
static INLINE V v_abs(V a) { LANE_BY_LANE((S)fabs((double)a.of[k])); }
static INLINE V v_select_gt(V a, V b, V u, V v) { LANE_BY_LANE(a.of[k] > b.of[k] ? u.of[k] : v.of[k]); }
static INLINE V v_select_nan(V a, V u, V v) { LANE_BY_LANE(a.of[k] == a.of[k] ? v.of[k] : u.of[k]); }
static INLINE V v_min(V a, V b) { LANE_BY_LANE(a.of[k] < b.of[k] ? a.of[k] : b.of[k]); }
static INLINE V v_max(V a, V b) { LANE_BY_LANE(a.of[k] > b.of[k] ? a.of[k] : b.of[k]); }
static INLINE V v_shifted(V a, int count) { LANE_BY_LANE(lane_shifted(a.of[k], count)); }

#endif

/* The first place in some memory where a vector may begin. */
static INLINE int64_t aligned(const S *memory)
{
    const int64_t size = LANES * (int64_t)sizeof(S);
    return ((int64_t)(intptr_t)memory + size - 1) / size * size;
}

#if defined(FIRST_BY_ONE)

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

#endif
