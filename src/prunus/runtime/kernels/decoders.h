// Cursors that give a row's weights block after block.
//
// STREAMS rows are read side by side, AHEAD bytes of each asked of the memory before they are needed: measured, see
// benchmarks/kernels.py. A core draws more from the memory in several streams than in one.

#pragma once

#include "shared.h"

namespace {

template <class V>
struct BitmaskFloats {
    static constexpr int STREAMS = 8, AHEAD = 1024;
    const V *value;
    const uint64_t *mask;
    inline void open(const Matrix &a, int64_t row) {
        value = static_cast<const V *>(a.values) + a.starts[row];
        mask = a.mask + row * blocks_of(a.cols);
    }
    inline void next(F (&out)[PARTS]) {
        ask_ahead<AHEAD / 2>(mask);
        for (int line = 0; line < int(sizeof(V)); line++) ask_ahead<AHEAD>(reinterpret_cast<const char *>(value) + 64 * line);
        const uint64_t bits = *mask++;
        Isa::expand(value, bits, out);
        value += count(bits);
    }
};

struct DenseHalves {
    static constexpr int STREAMS = 8, AHEAD = 1024;
    const uint16_t *value;
    inline void open(const Matrix &a, int64_t row) { value = static_cast<const uint16_t *>(a.values) + row * padded(a.cols); }
    inline void next(F (&out)[PARTS]) {
        ask_ahead<AHEAD>(value);
        ask_ahead<AHEAD>(value + 32);
        Isa::widen(value, out);
        value += BLOCK;
    }
};

// Bytes come two blocks at a time: 4-bit codes of one are the low halves of a pair's bytes, those of the other the high ones.
// At the end of a row there may be one block more.

struct BitmaskBytes {
    static constexpr int STREAMS = 8, AHEAD = 1024, BIAS = Isa::BIAS_INT8;
    const int8_t *value;
    const uint64_t *mask;
    inline void open(const Matrix &a, int64_t row) {
        value = static_cast<const int8_t *>(a.values) + a.starts[row];
        mask = a.mask + row * blocks_of(a.cols);
    }
    inline Bytes one() {
        ask_ahead<AHEAD>(value);
        const uint64_t bits = *mask++;
        const Bytes found = Isa::expand_bytes(value, bits);
        value += count(bits);
        return found;
    }
    inline void two(Bytes (&out)[2]) {
        ask_ahead<AHEAD / 4>(mask);
        out[0] = one();
        out[1] = one();
    }
};

struct PairsBytes {
    static constexpr int STREAMS = 8, AHEAD = 1024, BIAS = Isa::BIAS_INT8;
    const int8_t *value;
    const uint64_t *mask;
    inline void open(const Matrix &a, int64_t row) {
        value = static_cast<const int8_t *>(a.values) + row * padded(a.cols) / 2;
        mask = a.mask + row * blocks_of(a.cols);
    }
    inline Bytes one() {
        const Bytes found = Isa::expand_pairs(value, *mask++);
        value += BLOCK / 2;
        return found;
    }
    inline void two(Bytes (&out)[2]) {
        ask_ahead<AHEAD / 4>(mask);
        ask_ahead<AHEAD>(value);
        out[0] = one();
        out[1] = one();
    }
};

struct PairsNibbles {
    static constexpr int STREAMS = 4, AHEAD = 1024, BIAS = Isa::BIAS_INT4;
    const uint8_t *value;
    const uint64_t *mask;
    inline void open(const Matrix &a, int64_t row) {
        value = static_cast<const uint8_t *>(a.values) + row * padded(a.cols) / 4;
        mask = a.mask + row * blocks_of(a.cols);
    }
    inline Bytes one() { return Isa::expand_nibbles(value, *mask); }
    inline void two(Bytes (&out)[2]) {
        ask_ahead<AHEAD / 2>(mask);
        ask_ahead<AHEAD>(value);
        Isa::expand_nibbles(value, mask, out);
        mask += 2;
        value += BLOCK / 2;
    }
};

struct DenseBytes {
    static constexpr int STREAMS = 8, AHEAD = 1024, BIAS = Isa::BIAS_INT8;
    const int8_t *value;
    inline void open(const Matrix &a, int64_t row) { value = static_cast<const int8_t *>(a.values) + row * padded(a.cols); }
    inline Bytes one() {
        ask_ahead<AHEAD>(value);
        const Bytes found = Isa::bytes(value);
        value += BLOCK;
        return found;
    }
    inline void two(Bytes (&out)[2]) {
        out[0] = one();
        out[1] = one();
    }
};

struct DenseNibbles {
    static constexpr int STREAMS = 8, AHEAD = 1024, BIAS = Isa::BIAS_INT4;
    const uint8_t *value;
    inline void open(const Matrix &a, int64_t row) { value = static_cast<const uint8_t *>(a.values) + row * padded(a.cols) / 2; }
    inline Bytes one() { return Isa::nibbles(value); }
    inline void two(Bytes (&out)[2]) {
        ask_ahead<AHEAD>(value);
        Isa::nibbles(value, out);
        value += BLOCK;
    }
};

}  // namespace
