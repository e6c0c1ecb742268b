/* What C leaves to compilers and machines: inlining, atomic words, denormals, what the processor has.

   A word is an int64 at an address. What a thread has written before `store_release` is there for whoever sees its value
   by `load_acquire`. */

#ifndef FASTRNN_MACHINE_H
#define FASTRNN_MACHINE_H

#include <stdint.h>

#include "fields.h"

#define SPINS 1024 /* looks between two offers to let another thread run: some 20 us */

#if defined(_MSC_VER) && !defined(__clang__)
#define INLINE __forceinline
#define NOINLINE __declspec(noinline)
#else
#define INLINE inline __attribute__((always_inline))
#define NOINLINE __attribute__((noinline))
#endif

#if defined(__x86_64__) || defined(_M_X64) || defined(__SSE2__)
#define FASTRNN_X86
#include <xmmintrin.h>
#define PREFETCH(address) _mm_prefetch((const char *)(intptr_t)(address), _MM_HINT_T0)
#define PREFETCH_SECOND(address) _mm_prefetch((const char *)(intptr_t)(address), _MM_HINT_T1)
#elif defined(__GNUC__)
#define PREFETCH(address) __builtin_prefetch((const void *)(intptr_t)(address))
#define PREFETCH_SECOND(address) __builtin_prefetch((const void *)(intptr_t)(address), 0, 2)
#else
#define PREFETCH(address) ((void)(address))
#define PREFETCH_SECOND(address) ((void)(address))
#endif

#if defined(_MSC_VER)
#include <float.h>
#include <intrin.h>
#endif

#if defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
#else
#include <sched.h>
#endif

#if defined(FASTRNN_X86) && !defined(_MSC_VER)
#include <cpuid.h> /* after Windows' own headers, which declare what is a macro here */
#endif

#define WORD(address) ((int64_t *)(intptr_t)(address))

/* Ask for the cache lines of some bytes, which are needed soon but not at once: into the second cache. GCC drops calls
   of a function that does nothing but fetch, as if they were without effect; the empty instruction is one. */
static INLINE void fetch_bytes(int64_t at, int64_t count)
{
    for (int64_t line = at / CACHE_LINE; line <= (at + count - 1) / CACHE_LINE; line++)
        PREFETCH_SECOND(line * CACHE_LINE);
#if defined(__GNUC__)
    __asm__ volatile("");
#endif
}

#if defined(_MSC_VER) && !defined(__clang__)

static INLINE int64_t load_acquire(int64_t at) { return _InterlockedOr64((volatile long long *)WORD(at), 0); }
static INLINE void store_release(int64_t at, int64_t value)
{
    _InterlockedExchange64((volatile long long *)WORD(at), value);
}
static INLINE int exchange_if(int64_t at, int64_t expected, int64_t value)
{
    return _InterlockedCompareExchange64((volatile long long *)WORD(at), value, expected) == expected;
}
static INLINE int64_t fetch_add(int64_t at, int64_t value)
{
    return _InterlockedExchangeAdd64((volatile long long *)WORD(at), value);
}

#else

static INLINE int64_t load_acquire(int64_t at) { return __atomic_load_n(WORD(at), __ATOMIC_ACQUIRE); }
static INLINE void store_release(int64_t at, int64_t value) { __atomic_store_n(WORD(at), value, __ATOMIC_RELEASE); }
/* Write `value` if `expected` is there; whether it was. */
static INLINE int exchange_if(int64_t at, int64_t expected, int64_t value)
{
    return __atomic_compare_exchange_n(WORD(at), &expected, value, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}
/* Add; what was there before. */
static INLINE int64_t fetch_add(int64_t at, int64_t value)
{
    return __atomic_fetch_add(WORD(at), value, __ATOMIC_ACQ_REL);
}

#endif

/* Let the processor's other hardware thread run for a moment, and save energy. */
static INLINE void rest(void)
{
#if defined(FASTRNN_X86)
    _mm_pause();
#elif defined(__aarch64__) && defined(__GNUC__)
    __asm__ volatile("yield");
#elif defined(_M_ARM64)
    __yield();
#endif
}

/* Let another thread of the system run: the one that is waited for may have no processor. */
static INLINE void give_way(void)
{
#if defined(_WIN32)
    SwitchToThread();
#else
    sched_yield();
#endif
}

/* Look at a word until it is at least `value`; how often that took long. */
static NOINLINE int64_t wait_for(int64_t at, int64_t value)
{
    int64_t looks = 1;
    for (; load_acquire(at) < value; looks++) {
        rest();
        if (looks % SPINS == 0)
            give_way();
    }
    return looks / SPINS;
}

static NOINLINE void meet_team(int64_t frame)
{
    const int64_t *fields = WORD(frame);
    const int64_t counters = fields[F_COUNTERS], mine = counters + fields[F_MEMBER] * F_COUNTER_BYTES;
    const int64_t count = *WORD(mine) + 1;
    store_release(mine, count);
    for (int64_t k = 0; k < fields[F_TEAM]; k++)
        WORD(mine)[1] += wait_for(counters + k * F_COUNTER_BYTES, count);
}

/* Wait until all members of the frame's team have come through as many stages; nothing where there is none. */
static INLINE void meet(int64_t frame)
{
    if (WORD(frame)[F_TEAM] > 1)
        meet_team(frame);
}

/* Treat denormal numbers as zero from here on; returns the mode before, for `restore_mode`. */
static INLINE int64_t flush_denormals(void)
{
#if defined(FASTRNN_X86)
    const unsigned int before = _mm_getcsr();
    _mm_setcsr(before | 0x8040u); /* flush to zero, denormals are zero */
    return (int64_t)before;
#elif defined(__aarch64__) && defined(__GNUC__)
    uint64_t before;
    __asm__ volatile("mrs %0, fpcr" : "=r"(before));
    __asm__ volatile("msr fpcr, %0" : : "r"(before | (UINT64_C(1) << 24)));
    return (int64_t)before;
#elif defined(_M_ARM64)
    const unsigned int before = _controlfp(0, 0);
    _controlfp(_DN_FLUSH, _MCW_DN);
    return (int64_t)before;
#else
    return 0;
#endif
}

static INLINE void restore_mode(int64_t mode)
{
#if defined(FASTRNN_X86)
    _mm_setcsr((unsigned int)mode);
#elif defined(__aarch64__) && defined(__GNUC__)
    __asm__ volatile("msr fpcr, %0" : : "r"((uint64_t)mode));
#elif defined(_M_ARM64)
    _controlfp((unsigned int)mode, _MCW_DN);
#else
    (void)mode;
#endif
}

#if defined(FASTRNN_X86)
/* What the instruction CPUID says of a leaf: EAX, EBX, ECX and EDX. */
static inline void processor_says(unsigned int leaf, unsigned int *found)
{
#if defined(_MSC_VER)
    __cpuidex((int *)found, (int)leaf, 0);
#else
    __cpuid_count(leaf, 0, found[0], found[1], found[2], found[3]);
#endif
}
#endif

/* Whether the processor and the system have an instruction set: 1 for AVX2 with FMA, 2 for AVX-512 (F, DQ, BW, VL). */
static inline int processor_has(int which)
{
#if defined(FASTRNN_X86) && defined(_MSC_VER) && !defined(__clang__)
    int found[4];
    unsigned long long saved;
    __cpuid(found, 0);
    if (found[0] < 7)
        return 0;
    __cpuid(found, 1);
    if (!(found[2] & (1 << 27)) || !(found[2] & (1 << 12)))
        return 0;
    saved = _xgetbv(0);
    __cpuidex(found, 7, 0);
    if (which == 1)
        return (saved & 0x06) == 0x06 && (found[1] & (1 << 5)) != 0;
    return (saved & 0xe6) == 0xe6 && (found[1] & 0xc0030000u) == 0xc0030000u;
#elif defined(FASTRNN_X86) && defined(__GNUC__)
    __builtin_cpu_init();
    if (which == 1)
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") && processor_has(1);
#else
    (void)which;
    return 0;
#endif
}

/* Whether the processor takes vectors of 64 bytes in two halves. A Zen 4 does: AMD's family 25 with AVX-512. */
static inline int processor_halves(void)
{
#if defined(FASTRNN_X86)
    unsigned int found[4], version;
    processor_says(0, found);
    if (found[1] != 0x68747541u) /* "Auth" of "AuthenticAMD" */
        return 0;
    processor_says(1, found);
    version = found[0];
    return ((version >> 8) & 15) + ((version >> 20) & 255) == 25 && processor_has(2);
#else
    return 0;
#endif
}

#endif
