// AVX-512 (F, BW, VL, DQ). Compiled three times: as it is, with VNNI, and with VNNI and VBMI2.

#if defined(__x86_64__)

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace {

// Byte controls for a byte shuffle of the four columns that a nibble of a mask stands for: the survivors in order, the others
// zero; and how many survivors there are before each column.
struct NibbleTables {
    alignas(64) uint32_t control[16];
    alignas(64) uint32_t survivors[16];
    constexpr NibbleTables() : control(), survivors() {
        for (uint32_t nibble = 0; nibble < 16; nibble++) {
            uint32_t found = 0, bytes = 0;
            for (uint32_t j = 0; j < 4; j++) bytes |= (nibble >> j & 1 ? found++ : 0x80u) << (8 * j);
            control[nibble] = bytes;
            survivors[nibble] = found * 0x01010101u;
        }
    }
};
constexpr NibbleTables NIBBLES;
// Nibble L of a mask word goes to 32-bit lane L: lanes 0 to 7 are given the low half of the word, 8 to 15 the high one.
alignas(64) constexpr uint32_t SHIFTS[16] = {0, 4, 8, 12, 16, 20, 24, 28, 0, 4, 8, 12, 16, 20, 24, 28};

struct Isa {
    using F = __m512;
    using I = __m512i;
    using Bytes = __m512i;
    static constexpr int WIDTH = 16;  // floats in a vector
    static constexpr int MOST_SUMS = 16;  // that are kept in registers
#if defined(__AVX512VNNI__)
    static constexpr int BIAS_INT8 = 128;  // the unsigned side of the dot product is the weight
    static constexpr int BIAS_INT4 = 8;
#else
    static constexpr int BIAS_INT8 = 0;
    static constexpr int BIAS_INT4 = 0;
#endif
#if defined(__AVX512VBMI2__)
    static constexpr bool HALVES = true;  // 16-bit values come out as even and odd columns apart
#else
    static constexpr bool HALVES = false;
#endif

    // ---- floats
    static inline F zero() { return _mm512_setzero_ps(); }
    static inline F set(float x) { return _mm512_set1_ps(x); }
    static inline F load(const float *x) { return _mm512_loadu_ps(x); }
    static inline F shifted(const uint16_t *x, int by) {  // 16 bits each, as parts of floats
        const __m256i narrow = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(x));
        return _mm512_castsi512_ps(_mm512_sll_epi32(_mm512_cvtepu16_epi32(narrow), _mm_cvtsi32_si128(by)));
    }
    static inline void store(float *to, F x) { _mm512_storeu_ps(to, x); }
    static inline F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
    static inline F add(F a, F b) { return _mm512_add_ps(a, b); }
    static inline F mul(F a, F b) { return _mm512_mul_ps(a, b); }
    static inline float sum(F x) { return _mm512_reduce_add_ps(x); }
    static inline float value(float x) { return x; }
    static inline float value(uint16_t x) { return _mm_cvtss_f32(_mm_castsi128_ps(_mm_cvtsi32_si128(int(uint32_t(x) << 16)))); }
    static inline F floats(const float *x) { return load(x); }
    static inline F floats(const uint16_t *x) {
        const __m256i words = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(x));
        return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(words), 16));
    }
    static inline F floats(const int8_t *x) {
        return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i *>(x))));
    }
    static inline F gather(const float *x, const uint16_t *columns) {
        const __m256i words = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(columns));
        return _mm512_i32gather_ps(_mm512_cvtepu16_epi32(words), x, 4);
    }

    // ---- a block of 64 columns as floats: survivors where the mask has bits, else zero
    template <class V>
    static inline void expand_in_order(const V *from, uint64_t mask, F (&out)[4]) {
        out[0] = _mm512_maskz_expand_ps(__mmask16(mask), floats(from));
        out[1] = _mm512_maskz_expand_ps(__mmask16(mask >> 16), floats(from + _mm_popcnt_u32(uint16_t(mask))));
        out[2] = _mm512_maskz_expand_ps(__mmask16(mask >> 32), floats(from + _mm_popcnt_u32(uint32_t(mask))));
        out[3] = _mm512_maskz_expand_ps(__mmask16(mask >> 48), floats(from + _mm_popcnt_u64(mask & 0xffffffffffffull)));
    }
    static inline void expand(const float *from, uint64_t mask, F (&out)[4]) { expand_in_order(from, mask, out); }
#if defined(__AVX512VBMI2__)
    static inline void halves(__m512i words, F &even, F &odd) {
        even = _mm512_castsi512_ps(_mm512_slli_epi32(words, 16));
        odd = _mm512_castsi512_ps(_mm512_and_si512(words, _mm512_set1_epi32(int(0xffff0000u))));
    }
    static inline void expand(const uint16_t *from, uint64_t mask, F (&out)[4]) {
        const uint16_t *second = from + _mm_popcnt_u32(uint32_t(mask));
        halves(_mm512_maskz_expand_epi16(__mmask32(mask), _mm512_loadu_si512(from)), out[0], out[1]);
        halves(_mm512_maskz_expand_epi16(__mmask32(mask >> 32), _mm512_loadu_si512(second)), out[2], out[3]);
    }
    static inline void widen(const uint16_t *from, F (&out)[4]) {
        halves(_mm512_loadu_si512(from), out[0], out[1]);
        halves(_mm512_loadu_si512(from + 32), out[2], out[3]);
    }
#else
    static inline void expand(const uint16_t *from, uint64_t mask, F (&out)[4]) { expand_in_order(from, mask, out); }
    static inline void widen(const uint16_t *from, F (&out)[4]) {
        for (int part = 0; part < 4; part++) out[part] = floats(from + 16 * part);
    }
#endif

    // ---- a block of 64 columns as bytes, biased
#if defined(__AVX512VNNI__)
    static inline Bytes biased(Bytes x) { return _mm512_xor_si512(x, _mm512_set1_epi8(char(0x80))); }
#else
    static inline Bytes biased(Bytes x) { return x; }
#endif
    static inline Bytes bytes(const int8_t *from) { return biased(_mm512_loadu_si512(from)); }
    static inline void store_bytes(uint8_t *to, Bytes x) { _mm512_storeu_si512(to, x); }
    // Codes of 4 bits are held less -8: around zero where there is no bias.
    static inline __m512i centred(__m512i codes) { return BIAS_INT4 ? codes : _mm512_sub_epi8(codes, _mm512_set1_epi8(8)); }
    static inline __m256i centred(__m256i codes) { return BIAS_INT4 ? codes : _mm256_sub_epi8(codes, _mm256_set1_epi8(8)); }
    static inline __m256i thirty_two(const uint8_t *from) { return _mm256_loadu_si256(reinterpret_cast<const __m256i *>(from)); }
    static inline Bytes nibbles(const uint8_t *from) {
        const __m512i wide = _mm512_cvtepu8_epi16(thirty_two(from));
        return centred(_mm512_and_si512(_mm512_or_si512(wide, _mm512_slli_epi16(wide, 4)), _mm512_set1_epi8(15)));
    }
    static inline void nibbles(const uint8_t *from, Bytes (&out)[2]) {
        const __m512i both = _mm512_loadu_si512(from), low = _mm512_set1_epi8(15);
        out[0] = centred(_mm512_and_si512(both, low));
        out[1] = centred(_mm512_and_si512(_mm512_srli_epi16(both, 4), low));
    }
    static inline Bytes expand_nibbles(const uint8_t *from, uint64_t mask) {
        const __m256i wide = _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i *>(from)));
        const __m256i codes = _mm256_and_si256(_mm256_or_si256(wide, _mm256_slli_epi16(wide, 4)), _mm256_set1_epi8(15));
        return expand_codes(centred(codes), mask);
    }
    static inline void expand_nibbles(const uint8_t *from, const uint64_t *mask, Bytes (&out)[2]) {
        const __m256i both = thirty_two(from), low = _mm256_set1_epi8(15);
        out[0] = expand_codes(centred(_mm256_and_si256(both, low)), mask[0]);
        out[1] = expand_codes(centred(_mm256_and_si256(_mm256_srli_epi16(both, 4), low)), mask[1]);
    }
#if defined(__AVX512VBMI2__)
    static inline Bytes expand_bytes(const int8_t *from, uint64_t mask) {
        return biased(_mm512_maskz_expand_epi8(__mmask64(mask), _mm512_loadu_si512(from)));
    }
    static inline Bytes expand_pairs(const int8_t *from, uint64_t mask) {
        const __m256i pairs = thirty_two(reinterpret_cast<const uint8_t *>(from));
        return biased(_mm512_maskz_expand_epi8(__mmask64(mask), _mm512_castsi256_si512(pairs)));
    }
    static inline Bytes expand_codes(__m256i codes, uint64_t mask) {
        return _mm512_mask_expand_epi8(_mm512_set1_epi8(8), __mmask64(mask), _mm512_castsi256_si512(codes));
    }
#else
    static inline __m512i nibbles_of(uint64_t mask) {
        const __m512i low = _mm512_set1_epi32(int(uint32_t(mask)));
        const __m512i both = _mm512_mask_set1_epi32(low, 0xff00, int(uint32_t(mask >> 32)));
        return _mm512_srlv_epi32(both, _mm512_load_si512(SHIFTS));  // a lane's upper bits do not count in a permutation
    }
    static inline Bytes expand_bytes(const int8_t *from, uint64_t mask) {
        const __m512i nibble = nibbles_of(mask);
        const __m512i control = _mm512_permutexvar_epi32(nibble, _mm512_load_si512(NIBBLES.control));
        const __m512i found = _mm512_permutexvar_epi32(nibble, _mm512_load_si512(NIBBLES.survivors));
        // Survivors in the lanes before, within 128 bits: shifted by one lane, and then by two.
        const __m512i one = _mm512_bslli_epi128(found, 4);
        const __m512i before = _mm512_add_epi8(one, _mm512_bslli_epi128(_mm512_add_epi8(found, one), 8));
        const uint64_t quarters[3] = {mask & 0xffff, mask & 0xffffffff, mask & 0xffffffffffff};
        __m512i values = _mm512_castsi128_si512(_mm_loadu_si128(reinterpret_cast<const __m128i *>(from)));
        values = _mm512_mask_broadcast_i32x4(values, 0x00f0, sixteen(from + _mm_popcnt_u64(quarters[0])));
        values = _mm512_mask_broadcast_i32x4(values, 0x0f00, sixteen(from + _mm_popcnt_u64(quarters[1])));
        values = _mm512_mask_broadcast_i32x4(values, 0xf000, sixteen(from + _mm_popcnt_u64(quarters[2])));
        return biased(_mm512_shuffle_epi8(values, _mm512_add_epi8(control, before)));
    }
    static inline __m128i sixteen(const int8_t *from) { return _mm_loadu_si128(reinterpret_cast<const __m128i *>(from)); }
    // 32 survivors, eight to each 128 bits
    static inline Bytes spread_pairs(__m256i pairs, uint64_t mask) {
        const __m512i control = _mm512_permutexvar_epi32(nibbles_of(mask), _mm512_load_si512(NIBBLES.control));
        const __m512i before = _mm512_set4_epi32(0x06060606, 0x04040404, 0x02020202, 0);
        const __m512i values = _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 0, 1, 1, 2, 2, 3, 3), _mm512_castsi256_si512(pairs));
        return _mm512_shuffle_epi8(values, _mm512_add_epi8(control, before));
    }
    static inline Bytes expand_pairs(const int8_t *from, uint64_t mask) {
        return biased(spread_pairs(thirty_two(reinterpret_cast<const uint8_t *>(from)), mask));
    }
    // What was pruned is, once biased, the bias.
    static inline Bytes expand_codes(__m256i codes, uint64_t mask) {
        if (!BIAS_INT4) return spread_pairs(codes, mask);
        return _mm512_xor_si512(spread_pairs(_mm256_xor_si256(codes, _mm256_set1_epi8(8)), mask), _mm512_set1_epi8(8));
    }
#endif

    // ---- whole numbers: in every lane the sum of four products
#if defined(__AVX512VNNI__)
    static inline I dot(Bytes weights, const int8_t *x) {
        return _mm512_dpbusd_epi32(_mm512_setzero_si512(), weights, _mm512_loadu_si512(x));
    }
#else
    // |w| · sign(w) x: pairs of products stay within 16 bits, since neither side exceeds 128 and x not 127
    static inline I dot(Bytes weights, const int8_t *x) {
        const __m512i codes = _mm512_loadu_si512(x);
        const __m512i turned = _mm512_mask_sub_epi8(codes, _mm512_movepi8_mask(weights), _mm512_setzero_si512(), codes);
        return _mm512_madd_epi16(_mm512_maddubs_epi16(_mm512_abs_epi8(weights), turned), _mm512_set1_epi16(1));
    }
#endif
    static inline F to_float(I x) { return _mm512_cvtepi32_ps(x); }

    // ---- sixteen sums, one a lane
    using Lanes = __m512i;
    static inline Lanes lanes(const int32_t *from) { return _mm512_loadu_si512(from); }
#if defined(__AVX512VNNI__)
    static inline void add_products(Bytes weights, const int8_t *x, Lanes &sums) {
        sums = _mm512_dpbusd_epi32(sums, weights, _mm512_loadu_si512(x));
    }
#else
    static inline void add_products(Bytes weights, const int8_t *x, Lanes &sums) {
        sums = _mm512_add_epi32(sums, dot(weights, x));
    }
#endif
    // total + sums · a · b
    static inline F add_lanes(Lanes sums, const F *a, const float *b, F total) {
        return fma(to_float(sums), mul(*a, load(b)), total);
    }

    // ---- four weights times the same four columns of many tokens: in every lane a token's sum of four products
    static inline I ints(const int32_t *from) { return _mm512_loadu_si512(from); }
    static inline int32_t four(const uint8_t *from) {
        int32_t found;
        std::memcpy(&found, from, 4);
        return found;
    }
    using Unit = __m512i;
    static inline Unit unit(const uint8_t *weights) { return _mm512_set1_epi32(four(weights)); }
#if defined(__AVX512VNNI__)
    // Written so since GCC copies each sum to another register and back where the intrinsic is used in a loop.
    static inline I add_unit(I sum, Unit weights, const int8_t *x) {
        asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(weights), "vm"(*reinterpret_cast<const __m512i_u *>(x)));
        return sum;
    }
#else
    static inline I add_unit(I sum, Unit weights, const int8_t *x) { return _mm512_add_epi32(sum, dot(weights, x)); }
#endif

    // ---- activations: the bits of the largest magnitude of 64, and their codes with the sum of these
    static inline int32_t largest_bits(const float *x) {
        const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
        __m512i most = _mm512_setzero_si512();
        for (int part = 0; part < 4; part++)
            most = _mm512_max_epi32(most, _mm512_and_si512(magnitude, _mm512_loadu_si512(x + 16 * part)));
        return _mm512_reduce_max_epi32(most);
    }
    static inline int32_t codes(const float *x, float inverse, int8_t *out) {
        __m512i sum = _mm512_setzero_si512();
        for (int part = 0; part < 4; part++) {
            const __m512i found = _mm512_cvtps_epi32(_mm512_mul_ps(load(x + 16 * part), set(inverse)));
            sum = _mm512_add_epi32(sum, found);
            _mm_storeu_si128(reinterpret_cast<__m128i *>(out + 16 * part), _mm512_cvtepi32_epi8(found));
        }
        return _mm512_reduce_add_epi32(sum);
    }

    // ---- the columns, from `base` on, that a mask keeps; up to 64 bytes are written
#if defined(__AVX512VBMI2__)
    static inline int columns(uint64_t mask, int base, uint8_t *out) {
        const __m512i all = _mm512_set_epi64(0x3f3e3d3c3b3a3938, 0x3736353433323130, 0x2f2e2d2c2b2a2928, 0x2726252423222120,
                                             0x1f1e1d1c1b1a1918, 0x1716151413121110, 0x0f0e0d0c0b0a0908, 0x0706050403020100);
        const __m512i from = _mm512_add_epi8(all, _mm512_set1_epi8(char(base)));
        _mm512_storeu_si512(out, _mm512_maskz_compress_epi8(__mmask64(mask), from));
        return int(_mm_popcnt_u64(mask));
    }
#else
    static inline int columns(uint64_t mask, int base, uint8_t *out) {
        const int length = int(_mm_popcnt_u64(mask));
        for (int k = 0; k < length; k++, mask &= mask - 1) out[k] = uint8_t(base + __builtin_ctzll(mask));
        return length;
    }
#endif
};

}  // namespace

#include "engine.h"

const Kernels *ENTRY() { return &KERNELS; }

#endif
