// What an instruction set's source gives to the dispatcher, and what it is given.

#pragma once

#include "prunus.h"

constexpr int64_t BLOCK = 64;
constexpr int64_t MOST_ROWS = 8;   // activation rows that a weight is decoded for at once
constexpr int64_t LANES = 16;      // blocks of a superblock
constexpr int64_t MOST_TOKENS = 256;  // activation rows that integers are unpacked for once, where there are many
constexpr int64_t TILE = 16;       // of more rows, so many go into a vector or two

// Static, as all that is shared: what one instruction set's source makes of them must not be linked into another's.
static inline int64_t blocks_of(int64_t cols) { return (cols + BLOCK - 1) / BLOCK; }
static inline int64_t padded(int64_t cols) { return blocks_of(cols) * BLOCK; }
static inline bool holds_floats(int32_t layout) {
    return layout == BITMASK_F32 || layout == BITMASK_BF16 || layout == DENSE_BF16 || layout == COLUMNS_F32 ||
           layout == COLUMNS_BF16;
}

// Activations as whole numbers: a column is its block's scale times its code. Weights may be unpacked with a bias, and `offsets`
// take it off again: of every block minus the bias times the sum of the codes, times the scale where blocks are added up as
// floats. One scale a block, since models have single columns far larger than the others.
struct Codes {
    int8_t *codes;    // [blocks held 64]; in lanes [superblocks 16 held 64], and behind them the blocks that are left
    float *scales;    // [held blocks]
    float *offsets;   // [held blocks]
    int32_t *starts;  // in lanes: [superblocks held 16], the offsets as whole numbers
    int64_t blocks;
};

struct Kernels {
    void (*multiply)(const Matrix &, const float *x, int64_t batch, float *y, void *room);
    void (*decode)(const Matrix &, int64_t first, int64_t count, float *out);
    int64_t (*skip)(const Matrix &, const float *x, int64_t batch, float threshold, float *y, void *room);
};

const Kernels *kernels_portable();
const Kernels *kernels_avx2();
const Kernels *kernels_avx512();
const Kernels *kernels_avx512_vnni();
const Kernels *kernels_avx512_vbmi2();
const Kernels *kernels_neon();
