// The C interface of prunus's kernels: y = x · Wᵀ for weights that stay packed while they are multiplied.
//
// Nothing here checks what it is given: runtime/library.py does so before the first call.

#pragma once

#include <cstdint>

enum Layout : int32_t {
    BITMASK_F32 = 0,
    BITMASK_BF16 = 1,
    BITMASK_INT8 = 2,
    PAIRS_INT8 = 3,  // two of every four, as bits of a mask
    PAIRS_INT4 = 4,
    DENSE_BF16 = 5,
    DENSE_INT8 = 6,
    DENSE_INT4 = 7,
    COLUMNS_F32 = 8,  // 16-bit column indices
    COLUMNS_BF16 = 9,
    BY_COLUMN_F32 = 10,  // dense, column after column, each padded to a multiple of 64 rows: for `prunus_skip` alone
    BY_COLUMN_BF16 = 11,
    BY_COLUMN_INT8 = 12,  // a scale a row
};

// Columns go in blocks of 64, the last one padded by columns that are pruned (or, where weights are dense, zero). Arrays are
// readable 64 bytes beyond their end.
struct Matrix {
    int32_t layout;
    int32_t group;           // columns that share a scale: a multiple of 64, or 0 for the whole row
    int64_t rows;
    int64_t cols;
    const void *values;      // survivors, row after row; 4-bit ones two a byte, the first in the low bits
    const uint64_t *mask;    // [rows blocks]: bit j of a word is column j of its block
    const int64_t *starts;   // [rows + 1]: where a row's survivors begin, counted in values
    const uint16_t *scales;  // [rows groups], 16-bit floats, none negative; or null where values are floats
    const uint16_t *columns; // of every value, where there is no mask
    int32_t brain_scales;    // whether scales are bfloat16; float16 else
};

#define PRUNUS_PUBLIC __attribute__((visibility("default")))

extern "C" {
// The best instruction set that this processor has: a number for `level` below.
PRUNUS_PUBLIC int prunus_level();
// The name of an instruction set; null beyond the last.
PRUNUS_PUBLIC const char *prunus_level_name(int level);
// Whether this processor and this build have it.
PRUNUS_PUBLIC int prunus_has_level(int level);
// y [batch rows] = x [batch cols] · Wᵀ. Returns 0, or 1 where memory for the work is not to be had.
PRUNUS_PUBLIC int prunus_multiply(const Matrix *matrix, int level, const float *x, int64_t batch, float *y);
// out [count cols]: the weights of some rows, unpacked. Returns 0.
PRUNUS_PUBLIC int prunus_decode(const Matrix *matrix, int level, int64_t first, int64_t count, float *out);
// y [batch rows] = x [batch cols] · Wᵀ for at most eight rows of activations, those of at most `threshold` in magnitude counted
// as zero. Columns that then meet nothing but zeros are not read. Returns how many were, or -1 where memory is not to be had.
PRUNUS_PUBLIC int64_t prunus_skip(const Matrix *matrix, int level, const float *x, int64_t batch, float threshold, float *y);
// Reads so many bytes, by all threads, each in several streams, as the kernels do; what it returns is of no use.
PRUNUS_PUBLIC uint64_t prunus_read(const void *place, int64_t bytes);
}
