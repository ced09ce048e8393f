// Plain C++, for processors that nothing else here is for: slower, and right.

#include <cmath>
#include <cstdint>
#include <cstring>

namespace {

struct Isa {
    struct F {
        float lane[16];
    };
    struct I {
        int32_t lane[16];
    };
    struct Bytes {
        int8_t lane[64];
    };
    static constexpr int WIDTH = 16;
    static constexpr int MOST_SUMS = 4;  // that are kept in registers
    static constexpr int BIAS_INT8 = 0;
    static constexpr int BIAS_INT4 = 0;
    static constexpr bool HALVES = false;

    static inline F zero() { return set(0.0f); }
    static inline F set(float x) {
        F found;
        for (float &lane : found.lane) lane = x;
        return found;
    }
    template <class V>
    static inline F floats(const V *x) {
        F found;
        for (int j = 0; j < 16; j++) found.lane[j] = value(x[j]);
        return found;
    }
    static inline F load(const float *x) { return floats(x); }
    static inline F shifted(const uint16_t *x, int by) {
        uint32_t bits[16];
        for (int j = 0; j < 16; j++) bits[j] = uint32_t(x[j]) << by;
        F found;
        std::memcpy(found.lane, bits, sizeof(bits));
        return found;
    }
    static inline void store(float *to, F x) { std::memcpy(to, x.lane, sizeof(x.lane)); }
    static inline F fma(F a, F b, F c) {
        for (int j = 0; j < 16; j++) c.lane[j] += a.lane[j] * b.lane[j];
        return c;
    }
    static inline F add(F a, F b) {
        for (int j = 0; j < 16; j++) a.lane[j] += b.lane[j];
        return a;
    }
    static inline F mul(F a, F b) {
        for (int j = 0; j < 16; j++) a.lane[j] *= b.lane[j];
        return a;
    }
    static inline float sum(F x) {
        float found = 0;
        for (float lane : x.lane) found += lane;
        return found;
    }
    static inline float value(float x) { return x; }
    static inline float value(int8_t x) { return x; }
    static inline float value(uint16_t x) {
        const uint32_t bits = uint32_t(x) << 16;
        float found;
        std::memcpy(&found, &bits, 4);
        return found;
    }
    static inline F gather(const float *x, const uint16_t *columns) {
        F found;
        for (int j = 0; j < 16; j++) found.lane[j] = x[columns[j]];
        return found;
    }

    template <class V>
    static inline void expand(const V *from, uint64_t mask, F (&out)[4]) {
        for (int j = 0; j < 64; j++) out[j / 16].lane[j % 16] = mask >> j & 1 ? value(*from++) : 0.0f;
    }
    static inline void widen(const uint16_t *from, F (&out)[4]) {
        for (int part = 0; part < 4; part++) out[part] = floats(from + 16 * part);
    }

    static inline Bytes bytes(const int8_t *from) {
        Bytes found;
        std::memcpy(found.lane, from, 64);
        return found;
    }
    static inline int8_t code(const uint8_t *from, int k) { return int8_t((from[k / 2] >> (4 * (k % 2)) & 15) - 8); }
    static inline Bytes nibbles(const uint8_t *from) {
        Bytes found;
        for (int j = 0; j < 64; j++) found.lane[j] = code(from, j);
        return found;
    }
    static inline void nibbles(const uint8_t *from, Bytes (&out)[2]) {
        for (int j = 0; j < 64; j++) {
            out[0].lane[j] = int8_t((from[j] & 15) - 8);
            out[1].lane[j] = int8_t((from[j] >> 4) - 8);
        }
    }
    static inline void store_bytes(uint8_t *to, Bytes x) { std::memcpy(to, x.lane, 64); }
    static inline Bytes expand_bytes(const int8_t *from, uint64_t mask) {
        Bytes found;
        for (int j = 0; j < 64; j++) found.lane[j] = mask >> j & 1 ? *from++ : int8_t(0);
        return found;
    }
    static inline Bytes expand_pairs(const int8_t *from, uint64_t mask) { return expand_bytes(from, mask); }
    static inline Bytes expand_nibbles(const uint8_t *from, uint64_t mask) {
        int8_t codes[32];
        for (int j = 0; j < 32; j++) codes[j] = code(from, j);
        return expand_bytes(codes, mask);
    }
    static inline void expand_nibbles(const uint8_t *from, const uint64_t *mask, Bytes (&out)[2]) {
        int8_t codes[2][32];
        for (int j = 0; j < 32; j++) {
            codes[0][j] = int8_t((from[j] & 15) - 8);
            codes[1][j] = int8_t((from[j] >> 4) - 8);
        }
        for (int half = 0; half < 2; half++) out[half] = expand_bytes(codes[half], mask[half]);
    }

    static inline I dot(Bytes weights, const int8_t *x) {
        I sum = {};
        for (int j = 0; j < 64; j++) sum.lane[j / 4] += int32_t(weights.lane[j]) * x[j];
        return sum;
    }
    static inline F to_float(I x) {
        F found;
        for (int j = 0; j < 16; j++) found.lane[j] = float(x.lane[j]);
        return found;
    }

    // ---- sixteen sums, one a lane
    using Lanes = I;
    static inline Lanes lanes(const int32_t *from) {
        Lanes found;
        std::memcpy(found.lane, from, sizeof(found.lane));
        return found;
    }
    static inline void add_products(Bytes weights, const int8_t *x, Lanes &sums) {
        for (int j = 0; j < 64; j++) sums.lane[j / 4] += int32_t(weights.lane[j]) * x[j];
    }
    // total + sums · a · b
    static inline F add_lanes(Lanes sums, const F *a, const float *b, F total) {
        for (int j = 0; j < 16; j++) total.lane[j] += float(sums.lane[j]) * (a->lane[j] * b[j]);
        return total;
    }
    // ---- four weights times the same four columns of many tokens: in every lane a token's sum of four products
    struct Unit {
        int8_t lane[4];
    };
    static inline I ints(const int32_t *from) { return lanes(from); }
    static inline Unit unit(const uint8_t *weights) {
        Unit found;
        std::memcpy(found.lane, weights, 4);
        return found;
    }
    static inline I add_unit(I sum, Unit weights, const int8_t *x) {
        for (int j = 0; j < 64; j++) sum.lane[j / 4] += int32_t(weights.lane[j % 4]) * x[j];
        return sum;
    }

    static inline int32_t largest_bits(const float *x) {
        int32_t most = 0;
        for (int j = 0; j < 64; j++) {
            int32_t bits;
            std::memcpy(&bits, x + j, 4);
            bits &= 0x7fffffff;
            most = bits > most ? bits : most;
        }
        return most;
    }
    static inline int32_t codes(const float *x, float inverse, int8_t *out) {
        int32_t sum = 0;
        for (int j = 0; j < 64; j++) {
            const int32_t code = int32_t(std::rint(x[j] * inverse));
            out[j] = int8_t(code);
            sum += code;
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

const Kernels *kernels_portable() { return &KERNELS; }
