// Many rows of activations (tokens) times whole numbers: some rows of weights are unpacked into the cache, and every four
// columns of them multiplied by the same four of a vector of tokens.

#pragma once

#include <vector>

#include "activations.h"
#include "unpack.h"

namespace {

constexpr int64_t TOKENS_TOGETHER = 64;
constexpr int64_t UNPACKED_ROWS = 16;   // rows of weights that lie unpacked in the cache
constexpr int64_t BLOCKS_TOGETHER = 8;  // whose activations stay in the nearest cache while all these rows meet them

// Tokens as codes [blocks 16 tokens 4]; of every block and token the scale and what takes the weights' bias off.
struct CodedTokens {
    int8_t *codes;
    float *scales;    // [blocks tokens]
    int32_t *starts;  // [blocks tokens]
    int64_t tokens;   // held: some vectors full
};

inline CodedTokens tokens_in(void *room, int64_t tokens, int64_t blocks) {
    CodedTokens found;
    found.codes = static_cast<int8_t *>(room);
    found.scales = reinterpret_cast<float *>(found.codes + tokens * blocks * BLOCK);
    found.starts = reinterpret_cast<int32_t *>(found.scales + tokens * blocks);
    found.tokens = tokens;
    return found;
}

void quantise_tokens(const float *x, int64_t batch, int64_t cols, int bias, const CodedTokens &to) {
#pragma omp parallel for schedule(static) if (batch * cols > WORTH_A_THREAD)
    for (int64_t b = 0; b < blocks_of(cols); b++)
        for (int64_t m = 0; m < to.tokens; m++) {
            int8_t codes[BLOCK] = {};
            Coded found = {};
            if (m < batch) found = quantise_block(x + m * cols + b * BLOCK, cols - b * BLOCK, codes);
            to.scales[b * to.tokens + m] = found.scale;
            to.starts[b * to.tokens + m] = -bias * found.sum;
            for (int64_t step = 0; step < LANES; step++)
                std::memcpy(to.codes + ((b * LANES + step) * to.tokens + m) * 4, codes + 4 * step, 4);
        }
}

// R rows of unpacked codes times VECTORS vectors of tokens, from the `token`th on, added to totals [R TOKENS_TOGETHER].
template <bool LANED, int R, int VECTORS>
inline void multiply_tile(const uint8_t *codes, int64_t stride, const float *scales, int64_t blocks, int64_t groups,
                          int64_t blocks_a_group, int64_t from, int64_t to, const CodedTokens &x, int64_t token, float *totals) {
    for (int64_t b = from; b < to; b++) {
        Isa::I sums[R][VECTORS];
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; v++) {
            const Isa::I start = Isa::ints(x.starts + b * x.tokens + token + v * Isa::WIDTH);
#pragma GCC unroll 8
            for (int r = 0; r < R; r++) sums[r][v] = start;
        }
        const uint8_t *weights = codes + place_of<LANED>(b * BLOCK, blocks);
        const int64_t apart = place_of<LANED>(b * BLOCK + 4, blocks) - place_of<LANED>(b * BLOCK, blocks);
        const int8_t *line = x.codes + (b * LANES * x.tokens + token) * 4;
        for (int step = 0; step < LANES; step++, line += 4 * x.tokens, weights += apart)
#pragma GCC unroll 8
            for (int r = 0; r < R; r++) {
                const Isa::Unit unit = Isa::unit(weights + r * stride);
#pragma GCC unroll 4
                for (int v = 0; v < VECTORS; v++) sums[r][v] = Isa::add_unit(sums[r][v], unit, line + 4 * v * Isa::WIDTH);
            }
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; v++) {
            const F scale = Isa::load(x.scales + b * x.tokens + token + v * Isa::WIDTH);
#pragma GCC unroll 8
            for (int r = 0; r < R; r++) {
                float *total = totals + r * TOKENS_TOGETHER + token + v * Isa::WIDTH;
                const F both = Isa::mul(scale, Isa::set(scales[r * groups + b / blocks_a_group]));
                Isa::store(total, Isa::fma(Isa::to_float(sums[r][v]), both, Isa::load(total)));
            }
        }
    }
}

// All unpacked rows times one group of tokens.
template <bool LANED, int VECTORS>
inline void multiply_group(const uint8_t *codes, int64_t stride, const float *scales, int64_t blocks, int64_t groups,
                           int64_t blocks_a_group, const CodedTokens &x, float *totals) {
    constexpr int R = Isa::MOST_SUMS / VECTORS < 8 ? Isa::MOST_SUMS / VECTORS : 8;
    for (int64_t b = 0; b < blocks; b += BLOCKS_TOGETHER) {
        const int64_t end = b + BLOCKS_TOGETHER < blocks ? b + BLOCKS_TOGETHER : blocks;
        for (int64_t token = 0; token < x.tokens; token += VECTORS * Isa::WIDTH)
            for (int64_t r = 0; r < UNPACKED_ROWS; r += R)
                multiply_tile<LANED, R, VECTORS>(codes + r * stride, stride, scales + r * groups, blocks, groups, blocks_a_group,
                                                 b, end, x, token, totals + r * TOKENS_TOGETHER);
    }
}

template <class Decoder, bool LANED>
void integer_tiles(const Matrix &a, const float *activations, int64_t batch, float *y, void *room) {
    const int64_t blocks = blocks_of(a.cols), blocks_a_group = a.group ? a.group / BLOCK : blocks;
    const int64_t groups = (blocks + blocks_a_group - 1) / blocks_a_group;
    const Widening widened = widening_of(a);
    const int64_t stride = (blocks | 1) * BLOCK;  // an odd number of lines, so that rows do not all share a set of the cache
    CodedTokens together[MOST_TOKENS / TOKENS_TOGETHER];
    for (int64_t m = 0; m < batch; m += TOKENS_TOGETHER) {
        const int64_t some = batch - m < TOKENS_TOGETHER ? batch - m : TOKENS_TOGETHER;
        CodedTokens &to = together[m / TOKENS_TOGETHER];
        to = tokens_in(room, (some + TILE - 1) / TILE * TILE, blocks);
        room = to.starts + to.tokens * blocks;
        quantise_tokens(activations + m * a.cols, some, a.cols, Decoder::BIAS, to);
    }
#pragma omp parallel
    {
        std::vector<uint8_t> codes(UNPACKED_ROWS * stride);
        std::vector<float> scales(UNPACKED_ROWS * groups);
        float totals[UNPACKED_ROWS * TOKENS_TOGETHER];
#pragma omp for schedule(static)
        for (int64_t first = 0; first < a.rows; first += UNPACKED_ROWS) {
            const int64_t rows = a.rows - first < UNPACKED_ROWS ? a.rows - first : UNPACKED_ROWS;
            for (int64_t r = 0; r < UNPACKED_ROWS; r++) {  // beyond the last row it is there again
                const int64_t n = first + (r < rows ? r : rows - 1);
                Decoder row;
                row.open(a, n);
                unpack_codes(row, blocks, codes.data() + r * stride);
                for (int64_t g = 0; g < groups; g++) scales[r * groups + g] = widened(a.scales[n * groups + g]);
            }
            for (int64_t m = 0; m < batch; m += TOKENS_TOGETHER) {
                const CodedTokens &x = together[m / TOKENS_TOGETHER];
                std::memset(totals, 0, sizeof(totals));
                const auto multiply = x.tokens % (4 * Isa::WIDTH) == 0   ? multiply_group<LANED, 4>
                                      : x.tokens % (2 * Isa::WIDTH) == 0 ? multiply_group<LANED, 2>
                                                                         : multiply_group<LANED, 1>;
                multiply(codes.data(), stride, scales.data(), blocks, groups, blocks_a_group, x, totals);
                for (int64_t k = 0; k < TOKENS_TOGETHER && m + k < batch; k++)
                    for (int64_t r = 0; r < rows; r++) y[(m + k) * a.rows + first + r] = totals[r * TOKENS_TOGETHER + k];
            }
        }
    }
}

}  // namespace
