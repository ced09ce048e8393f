// AVX2, FMA and F16C.

#if defined(__x86_64__)

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace {

// Of the eight columns that a byte of a mask stands for: which of the survivors goes into each; 0x80 where none does.
struct ByteTable {
    alignas(64) uint64_t control[256];
    constexpr ByteTable() : control() {
        for (uint64_t byte = 0; byte < 256; byte++) {
            uint64_t found = 0, bytes = 0;
            for (uint64_t j = 0; j < 8; j++) bytes |= (byte >> j & 1 ? found++ : 0x80ull) << (8 * j);
            control[byte] = bytes;
        }
    }
};
constexpr ByteTable TABLE;

struct Isa {
    using F = __m256;
    using I = __m256i;
    struct Bytes {
        __m256i low, high;
    };
    static constexpr int WIDTH = 8;
    static constexpr int MOST_SUMS = 8;  // that are kept in registers
    static constexpr int BIAS_INT8 = 0;
    static constexpr int BIAS_INT4 = 0;
    static constexpr bool HALVES = false;

    // ---- floats
    static inline F zero() { return _mm256_setzero_ps(); }
    static inline F set(float x) { return _mm256_set1_ps(x); }
    static inline F load(const float *x) { return _mm256_loadu_ps(x); }
    static inline F shifted(const uint16_t *x, int by) {
        const __m128i narrow = _mm_loadu_si128(reinterpret_cast<const __m128i *>(x));
        return _mm256_castsi256_ps(_mm256_sll_epi32(_mm256_cvtepu16_epi32(narrow), _mm_cvtsi32_si128(by)));
    }
    static inline void store(float *to, F x) { _mm256_storeu_ps(to, x); }
    static inline F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
    static inline F add(F a, F b) { return _mm256_add_ps(a, b); }
    static inline F mul(F a, F b) { return _mm256_mul_ps(a, b); }
    static inline float sum(F x) {
        __m128 four = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
        four = _mm_add_ps(four, _mm_movehl_ps(four, four));
        return _mm_cvtss_f32(_mm_add_ss(four, _mm_shuffle_ps(four, four, 1)));
    }
    static inline float value(float x) { return x; }
    static inline float value(uint16_t x) { return _mm_cvtss_f32(_mm_castsi128_ps(_mm_cvtsi32_si128(int(uint32_t(x) << 16)))); }
    static inline F floats(const float *x) { return load(x); }
    static inline F floats(const uint16_t *x) {
        const __m128i words = _mm_loadu_si128(reinterpret_cast<const __m128i *>(x));
        return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(words), 16));
    }
    static inline F floats(const int8_t *x) {
        return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i *>(x))));
    }
    static inline F gather(const float *x, const uint16_t *columns) {
        const __m128i words = _mm_loadu_si128(reinterpret_cast<const __m128i *>(columns));
        return _mm256_i32gather_ps(x, _mm256_cvtepu16_epi32(words), 4);
    }

    // ---- a block of 64 columns as floats: survivors where the mask has bits, else zero
    template <class V>
    static inline void expand(const V *from, uint64_t mask, F (&out)[8]) {
#pragma GCC unroll 8
        for (int part = 0; part < 8; part++) {
            const uint64_t byte = mask >> (8 * part) & 0xff;
            const __m256i order = _mm256_cvtepi8_epi32(_mm_cvtsi64_si128(int64_t(TABLE.control[byte])));
            const __m256 values = _mm256_permutevar8x32_ps(floats(from), order);
            out[part] = _mm256_andnot_ps(_mm256_castsi256_ps(_mm256_srai_epi32(order, 31)), values);
            from += _mm_popcnt_u32(uint32_t(byte));
        }
    }
    static inline void widen(const uint16_t *from, F (&out)[8]) {
        for (int part = 0; part < 8; part++) out[part] = floats(from + 8 * part);
    }

    // ---- a block of 64 columns as bytes
    static inline __m256i thirty_two(const void *from) { return _mm256_loadu_si256(static_cast<const __m256i *>(from)); }
    static inline __m128i sixteen(const void *from) { return _mm_loadu_si128(static_cast<const __m128i *>(from)); }
    static inline Bytes bytes(const int8_t *from) { return {thirty_two(from), thirty_two(from + 32)}; }
    static inline void store_bytes(uint8_t *to, Bytes x) {
        _mm256_storeu_si256(reinterpret_cast<__m256i *>(to), x.low);
        _mm256_storeu_si256(reinterpret_cast<__m256i *>(to + 32), x.high);
    }
    // Codes of 4 bits are held less -8.
    static inline __m256i centred(__m256i codes) { return _mm256_sub_epi8(codes, _mm256_set1_epi8(8)); }
    static inline __m256i split(__m128i both) {
        const __m256i wide = _mm256_cvtepu8_epi16(both);
        return centred(_mm256_and_si256(_mm256_or_si256(wide, _mm256_slli_epi16(wide, 4)), _mm256_set1_epi8(15)));
    }
    static inline __m256i low_codes(__m256i both) { return centred(_mm256_and_si256(both, _mm256_set1_epi8(15))); }
    static inline __m256i high_codes(__m256i both) { return low_codes(_mm256_srli_epi16(both, 4)); }
    static inline Bytes nibbles(const uint8_t *from) { return {split(sixteen(from)), split(sixteen(from + 16))}; }
    static inline void nibbles(const uint8_t *from, Bytes (&out)[2]) {
        const __m256i first = thirty_two(from), second = thirty_two(from + 32);
        out[0] = {low_codes(first), low_codes(second)};
        out[1] = {high_codes(first), high_codes(second)};
    }
    // 16 columns out of the (at least 16) values at hand
    static inline __m128i spread(__m128i values, uint32_t mask) {
        const uint64_t skip = uint64_t(_mm_popcnt_u32(mask & 0xff)) * 0x0101010101010101ull;
        const int64_t low = int64_t(TABLE.control[mask & 0xff]), high = int64_t(TABLE.control[mask >> 8 & 0xff] + skip);
        return _mm_shuffle_epi8(values, _mm_set_epi64x(high, low));
    }
    static inline Bytes expand_bytes(const int8_t *from, uint64_t mask) {
        __m128i part[4];
#pragma GCC unroll 4
        for (int k = 0; k < 4; k++) {
            const uint32_t bits = uint32_t(mask >> (16 * k)) & 0xffff;
            part[k] = spread(sixteen(from), bits);
            from += _mm_popcnt_u32(bits);
        }
        return {_mm256_set_m128i(part[1], part[0]), _mm256_set_m128i(part[3], part[2])};
    }
    static inline Bytes expand_pairs(const int8_t *from, uint64_t mask) { return expand_codes(thirty_two(from), mask); }
    // 32 survivors, eight of every 16 columns
    static inline Bytes expand_codes(__m256i codes, uint64_t mask) {
        const __m128i low = _mm256_castsi256_si128(codes), high = _mm256_extracti128_si256(codes, 1);
        return {_mm256_set_m128i(spread(_mm_srli_si128(low, 8), uint32_t(mask >> 16)), spread(low, uint32_t(mask))),
                _mm256_set_m128i(spread(_mm_srli_si128(high, 8), uint32_t(mask >> 48)), spread(high, uint32_t(mask >> 32)))};
    }
    static inline Bytes expand_nibbles(const uint8_t *from, uint64_t mask) { return expand_codes(split(sixteen(from)), mask); }
    static inline void expand_nibbles(const uint8_t *from, const uint64_t *mask, Bytes (&out)[2]) {
        const __m256i both = thirty_two(from);
        out[0] = expand_codes(low_codes(both), mask[0]);
        out[1] = expand_codes(high_codes(both), mask[1]);
    }

    // ---- whole numbers: in every lane the sum of four products, and of the four 32 columns on
    // |w| · sign(w) x: pairs of products stay within 16 bits, since neither side exceeds 128 and x not 127
    static inline __m256i products(__m256i weights, __m256i codes) {
        const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(weights), _mm256_sign_epi8(codes, weights));
        return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
    }
    static inline I dot(Bytes weights, const int8_t *x) {
        return _mm256_add_epi32(products(weights.low, thirty_two(x)), products(weights.high, thirty_two(x + 32)));
    }
    static inline F to_float(I x) { return _mm256_cvtepi32_ps(x); }

    // ---- sixteen sums, one a lane
    struct Lanes {
        __m256i low, high;
    };
    static inline Lanes lanes(const int32_t *from) { return {thirty_two(from), thirty_two(from + 8)}; }
    static inline void add_products(Bytes weights, const int8_t *x, Lanes &sums) {
        sums.low = _mm256_add_epi32(sums.low, products(weights.low, thirty_two(x)));
        sums.high = _mm256_add_epi32(sums.high, products(weights.high, thirty_two(x + 32)));
    }
    // total + sums · a · b
    static inline F add_lanes(Lanes sums, const F *a, const float *b, F total) {
        total = fma(to_float(sums.low), mul(a[0], load(b)), total);
        return fma(to_float(sums.high), mul(a[1], load(b + 8)), total);
    }

    // ---- four weights times the same four columns of many tokens: in every lane a token's sum of four products
    using Unit = __m256i;
    static inline I ints(const int32_t *from) { return thirty_two(from); }
    static inline Unit unit(const uint8_t *weights) {
        int32_t four;
        std::memcpy(&four, weights, 4);
        return _mm256_set1_epi32(four);
    }
    static inline I add_unit(I sum, Unit weights, const int8_t *x) {
        return _mm256_add_epi32(sum, products(weights, thirty_two(x)));
    }

    // ---- activations: the bits of the largest magnitude of 64, and their codes with the sum of these
    static inline int32_t largest_bits(const float *x) {
        const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
        __m256i most = _mm256_setzero_si256();
        for (int part = 0; part < 8; part++)
            most = _mm256_max_epi32(most, _mm256_and_si256(magnitude, thirty_two(x + 8 * part)));
        alignas(32) int32_t lanes[8];
        _mm256_store_si256(reinterpret_cast<__m256i *>(lanes), most);
        for (int lane = 1; lane < 8; lane++) lanes[0] = lanes[lane] > lanes[0] ? lanes[lane] : lanes[0];
        return lanes[0];
    }
    static inline int32_t codes(const float *x, float inverse, int8_t *out) {
        int32_t sum = 0;
        alignas(32) int32_t lanes[8];
        for (int part = 0; part < 8; part++) {
            _mm256_store_si256(reinterpret_cast<__m256i *>(lanes), _mm256_cvtps_epi32(_mm256_mul_ps(load(x + 8 * part), set(inverse))));
            for (int lane = 0; lane < 8; lane++) {
                out[8 * part + lane] = int8_t(lanes[lane]);
                sum += lanes[lane];
            }
        }
        return sum;
    }

    static inline int columns(uint64_t mask, int base, uint8_t *out) {
        const int length = int(_mm_popcnt_u64(mask));
        for (int k = 0; k < length; k++, mask &= mask - 1) out[k] = uint8_t(base + __builtin_ctzll(mask));
        return length;
    }
};

}  // namespace

#include "engine.h"

const Kernels *kernels_avx2() { return &KERNELS; }

#endif
