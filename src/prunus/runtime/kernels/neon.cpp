// NEON with dot products (ARMv8.2). Nobody has measured it yet: it is checked against dense under an emulator.

#if defined(__aarch64__)

#include <arm_neon.h>

#include <cstdint>
#include <cstring>

namespace {

// Of the four columns that a nibble of a mask stands for: the bytes of the float that goes into each; 0xff where none does.
struct NibbleTable {
    alignas(64) uint8_t control[16][16];
    constexpr NibbleTable() : control() {
        for (int nibble = 0; nibble < 16; nibble++)
            for (int j = 0, found = 0; j < 4; j++) {
                const bool kept = nibble >> j & 1;
                for (int byte = 0; byte < 4; byte++) control[nibble][4 * j + byte] = kept ? uint8_t(4 * found + byte) : 0xff;
                found += kept;
            }
    }
};
constexpr NibbleTable NIBBLES;

// The same of the eight bytes that a byte of a mask stands for.
struct ByteTable {
    alignas(64) uint8_t control[256][8];
    constexpr ByteTable() : control() {
        for (int byte = 0; byte < 256; byte++)
            for (int j = 0, found = 0; j < 8; j++) {
                const bool kept = byte >> j & 1;
                control[byte][j] = kept ? uint8_t(found) : 0xff;
                found += kept;
            }
    }
};
constexpr ByteTable BYTES;

struct Isa {
    using F = float32x4_t;
    using I = int32x4_t;
    struct Bytes {
        int8x16_t part[4];
    };
    static constexpr int WIDTH = 4;
    static constexpr int MOST_SUMS = 16;  // that are kept in registers
    static constexpr int BIAS_INT8 = 0;
    static constexpr int BIAS_INT4 = 0;
    static constexpr bool HALVES = false;

    // ---- floats
    static inline F zero() { return vdupq_n_f32(0); }
    static inline F set(float x) { return vdupq_n_f32(x); }
    static inline F load(const float *x) { return vld1q_f32(x); }
    static inline F shifted(const uint16_t *x, int by) {
        return vreinterpretq_f32_u32(vshlq_u32(vmovl_u16(vld1_u16(x)), vdupq_n_s32(by)));
    }
    static inline void store(float *to, F x) { vst1q_f32(to, x); }
    static inline F fma(F a, F b, F c) { return vfmaq_f32(c, a, b); }
    static inline F add(F a, F b) { return vaddq_f32(a, b); }
    static inline F mul(F a, F b) { return vmulq_f32(a, b); }
    static inline float sum(F x) { return vaddvq_f32(x); }
    static inline float value(float x) { return x; }
    static inline float value(uint16_t x) { return vgetq_lane_f32(vreinterpretq_f32_u32(vdupq_n_u32(uint32_t(x) << 16)), 0); }
    static inline F floats(const float *x) { return load(x); }
    static inline F floats(const uint16_t *x) { return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(x), 16)); }
    static inline F floats(const int8_t *x) {
        int32_t four;
        std::memcpy(&four, x, 4);
        const int16x8_t wide = vmovl_s8(vreinterpret_s8_s32(vdup_n_s32(four)));
        return vcvtq_f32_s32(vmovl_s16(vget_low_s16(wide)));
    }
    static inline F gather(const float *x, const uint16_t *columns) {
        const float found[4] = {x[columns[0]], x[columns[1]], x[columns[2]], x[columns[3]]};
        return load(found);
    }

    // ---- a block of 64 columns as floats: survivors where the mask has bits, else zero
    template <class V>
    static inline void expand(const V *from, uint64_t mask, F (&out)[16]) {
#pragma GCC unroll 16
        for (int part = 0; part < 16; part++) {
            const uint32_t nibble = uint32_t(mask >> (4 * part)) & 15;
            const uint8x16_t values = vreinterpretq_u8_f32(floats(from));
            out[part] = vreinterpretq_f32_u8(vqtbl1q_u8(values, vld1q_u8(NIBBLES.control[nibble])));
            from += __builtin_popcount(nibble);
        }
    }
    static inline void widen(const uint16_t *from, F (&out)[16]) {
        for (int part = 0; part < 16; part++) out[part] = floats(from + 4 * part);
    }

    // ---- a block of 64 columns as bytes
    static inline Bytes bytes(const int8_t *from) {
        return {{vld1q_s8(from), vld1q_s8(from + 16), vld1q_s8(from + 32), vld1q_s8(from + 48)}};
    }
    static inline void store_bytes(uint8_t *to, Bytes x) {
        for (int k = 0; k < 4; k++) vst1q_u8(to + 16 * k, vreinterpretq_u8_s8(x.part[k]));
    }
    // Codes of 4 bits are held less -8.
    static inline int8x16_t low_codes(uint8x16_t both) {
        return vsubq_s8(vreinterpretq_s8_u8(vandq_u8(both, vdupq_n_u8(15))), vdupq_n_s8(8));
    }
    static inline int8x16_t high_codes(uint8x16_t both) { return low_codes(vshrq_n_u8(both, 4)); }
    // Bytes of two codes each, in their order
    static inline Bytes nibbles(const uint8_t *from) {
        Bytes found;
        for (int k = 0; k < 2; k++) {
            const uint8x16_t both = vld1q_u8(from + 16 * k);
            found.part[2 * k] = vzip1q_s8(low_codes(both), high_codes(both));
            found.part[2 * k + 1] = vzip2q_s8(low_codes(both), high_codes(both));
        }
        return found;
    }
    static inline void nibbles(const uint8_t *from, Bytes (&out)[2]) {
        for (int k = 0; k < 4; k++) {
            const uint8x16_t both = vld1q_u8(from + 16 * k);
            out[0].part[k] = low_codes(both);
            out[1].part[k] = high_codes(both);
        }
    }
    static inline int8x8_t spread(int8x8_t values, uint32_t mask) {
        return vtbl1_s8(values, vreinterpret_s8_u8(vld1_u8(BYTES.control[mask & 0xff])));
    }
    static inline Bytes expand_bytes(const int8_t *from, uint64_t mask) {
        Bytes found;
#pragma GCC unroll 4
        for (int k = 0; k < 4; k++) {
            const uint32_t low = uint32_t(mask >> (16 * k)) & 0xff, high = uint32_t(mask >> (16 * k + 8)) & 0xff;
            const int8x8_t first = spread(vld1_s8(from), low);
            from += __builtin_popcount(low);
            found.part[k] = vcombine_s8(first, spread(vld1_s8(from), high));
            from += __builtin_popcount(high);
        }
        return found;
    }
    static inline Bytes expand_pairs(const int8_t *from, uint64_t mask) { return expand_bytes(from, mask); }
    static inline Bytes expand_nibbles(const uint8_t *from, uint64_t mask) {
        const uint8x16_t both = vld1q_u8(from);
        int8_t codes[40] = {};
        vst1q_s8(codes, vzip1q_s8(low_codes(both), high_codes(both)));
        vst1q_s8(codes + 16, vzip2q_s8(low_codes(both), high_codes(both)));
        return expand_bytes(codes, mask);
    }
    static inline void expand_nibbles(const uint8_t *from, const uint64_t *mask, Bytes (&out)[2]) {
        int8_t codes[2][40] = {};
        for (int k = 0; k < 2; k++) {
            const uint8x16_t both = vld1q_u8(from + 16 * k);
            vst1q_s8(codes[0] + 16 * k, low_codes(both));
            vst1q_s8(codes[1] + 16 * k, high_codes(both));
        }
        for (int half = 0; half < 2; half++) out[half] = expand_bytes(codes[half], mask[half]);
    }

    // ---- whole numbers: in every lane a quarter of the products
    static inline I dot(Bytes weights, const int8_t *x) {
        I sum = vdupq_n_s32(0);
#pragma GCC unroll 4
        for (int k = 0; k < 4; k++) sum = vdotq_s32(sum, weights.part[k], vld1q_s8(x + 16 * k));
        return sum;
    }
    static inline F to_float(I x) { return vcvtq_f32_s32(x); }

    // ---- sixteen sums, one a lane
    struct Lanes {
        int32x4_t part[4];
    };
    static inline Lanes lanes(const int32_t *from) {
        return {{vld1q_s32(from), vld1q_s32(from + 4), vld1q_s32(from + 8), vld1q_s32(from + 12)}};
    }
    static inline void add_products(Bytes weights, const int8_t *x, Lanes &sums) {
#pragma GCC unroll 4
        for (int k = 0; k < 4; k++) sums.part[k] = vdotq_s32(sums.part[k], weights.part[k], vld1q_s8(x + 16 * k));
    }
    // total + sums · a · b
    static inline F add_lanes(const Lanes &sums, const F *a, const float *b, F total) {
        for (int k = 0; k < 4; k++) total = fma(to_float(sums.part[k]), mul(a[k], load(b + 4 * k)), total);
        return total;
    }

    // ---- four weights times the same four columns of many tokens: in every lane a token's sum of four products
    using Unit = int8x16_t;
    static inline I ints(const int32_t *from) { return vld1q_s32(from); }
    static inline Unit unit(const uint8_t *weights) {
        uint32_t four;
        std::memcpy(&four, weights, 4);
        return vreinterpretq_s8_u32(vdupq_n_u32(four));
    }
    static inline I add_unit(I sum, Unit weights, const int8_t *x) { return vdotq_s32(sum, weights, vld1q_s8(x)); }

    // ---- activations: the bits of the largest magnitude of 64, and their codes with the sum of these
    static inline int32_t largest_bits(const float *x) {
        uint32x4_t most = vdupq_n_u32(0);
        for (int k = 0; k < 64; k += 4)
            most = vmaxq_u32(most, vandq_u32(vreinterpretq_u32_f32(load(x + k)), vdupq_n_u32(0x7fffffff)));
        return int32_t(vmaxvq_u32(most));
    }
    static inline int32_t codes(const float *x, float inverse, int8_t *out) {
        int32_t sum = 0;
        for (int k = 0; k < 64; k += 4) {
            const int32x4_t found = vcvtnq_s32_f32(vmulq_n_f32(load(x + k), inverse));
            int32_t lanes[4];
            vst1q_s32(lanes, found);
            for (int lane = 0; lane < 4; lane++) out[k + lane] = int8_t(lanes[lane]);
            sum += vaddvq_s32(found);
        }
        return sum;
    }

    static inline int columns(uint64_t mask, int base, uint8_t *out) {
        int length = 0;
        for (; mask; mask &= mask - 1) out[length++] = uint8_t(base + __builtin_ctzll(mask));
        return length;
    }
};

}  // namespace

#include "engine.h"

const Kernels *kernels_neon() { return &KERNELS; }

#endif
