// Activations in the order in which the kernels take them.

#pragma once

#include "shared.h"

namespace {

// Activations are held block after block, and of every block row after row: 64 columns of one row, 64 of the next. Columns
// beyond the last are zero; where more rows are held than there are, the last one is there again.

// Where 16-bit values are unpacked in halves, columns go in the same order: of every 32 the even ones, then the odd ones.
inline void deinterleave(const float *x, float *out) {
    for (int half = 0; half < BLOCK; half += 32)
        for (int j = 0; j < 16; j++) {
            out[half + j] = x[half + 2 * j];
            out[half + 16 + j] = x[half + 2 * j + 1];
        }
}

void hold_floats(const float *x, int64_t batch, int64_t held, int64_t cols, bool halves, float *out) {
    for (int64_t m = 0; m < held; m++) {
        const float *row = x + (m < batch ? m : batch - 1) * cols;
        for (int64_t k = 0; k < cols; k += BLOCK) {
            float plain[BLOCK] = {};
            std::memcpy(plain, row + k, sizeof(float) * (cols - k < BLOCK ? cols - k : BLOCK));
            float *to = out + k * held + m * BLOCK;
            if (halves)
                deinterleave(plain, to);
            else
                std::memcpy(to, plain, sizeof(plain));
        }
    }
}

// 64 columns as codes, with their scale and their sum. If one is not finite the scale, and so every output, is not a number.
struct Coded {
    float scale;
    int32_t sum;
};
inline Coded quantise_block(const float *x, int64_t left, int8_t *codes) {
    float part[BLOCK] = {};
    std::memcpy(part, x, sizeof(float) * (left < BLOCK ? left : BLOCK));
    const int32_t most = Isa::largest_bits(part);  // in the order of magnitudes, with what is no number above all
    float largest;
    std::memcpy(&largest, &most, 4);
    const bool finite = most < 0x7f800000, any = finite && largest > 1e-30f;
    if (!any) std::memset(part, 0, sizeof(part));
    const int32_t sum = Isa::codes(part, any ? 127.0f / largest : 0.0f, codes);
    return {finite ? largest / 127.0f : std::nanf(""), sum};
}

inline Codes codes_in(void *room, int64_t held, int64_t blocks) {
    Codes found;
    found.codes = static_cast<int8_t *>(room);
    found.scales = reinterpret_cast<float *>(found.codes + held * blocks * BLOCK);
    found.offsets = found.scales + held * blocks;
    found.starts = reinterpret_cast<int32_t *>(found.offsets + held * blocks);
    found.blocks = blocks;
    return found;
}

// One row of activations, block after block.
void quantise(const float *x, int64_t cols, int bias, int64_t row, int64_t held, const Codes &to) {
    for (int64_t b = 0; b < to.blocks; b++) {
        const Coded found = quantise_block(x + b * BLOCK, cols - b * BLOCK, to.codes + (b * held + row) * BLOCK);
        to.scales[row * to.blocks + b] = found.scale;
        to.offsets[row * to.blocks + b] = float(-bias * found.sum) * found.scale;
    }
}

// The same with sixteen blocks in sixteen lanes: four columns of each, the next four of each. What makes no sixteen stays in
// blocks.
void quantise_lanes(const float *x, int64_t cols, int bias, int64_t row, int64_t held, const Codes &to) {
    const int64_t full = to.blocks / LANES * LANES;
    for (int64_t b = 0; b < to.blocks; b++) {
        int8_t codes[BLOCK];
        const Coded found = quantise_block(x + b * BLOCK, cols - b * BLOCK, codes);
        to.scales[row * to.blocks + b] = found.scale;
        to.offsets[row * to.blocks + b] = float(-bias * found.sum) * found.scale;
        if (b >= full) {
            std::memcpy(to.codes + (b * held + row) * BLOCK, codes, BLOCK);
            continue;
        }
        const int64_t super = b / LANES, lane = b % LANES;
        to.starts[(super * held + row) * LANES + lane] = -bias * found.sum;
        for (int64_t step = 0; step < LANES; step++)
            std::memcpy(to.codes + ((super * LANES + step) * held + row) * BLOCK + 4 * lane, codes + 4 * step, 4);
    }
}

}  // namespace
