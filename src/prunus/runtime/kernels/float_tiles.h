// Many rows of activations: only what survived is multiplied, by a vector of their columns.

#pragma once

#include "shared.h"

namespace {

// x [batch cols] -> out [cols wide], zeros beyond the batch
void transpose(const float *x, int64_t batch, int64_t cols, int64_t wide, float *out) {
#pragma omp parallel for schedule(static) if (batch * cols > WORTH_A_THREAD)
    for (int64_t k0 = 0; k0 < cols; k0 += TILE) {
        const int64_t end = k0 + TILE < cols ? k0 + TILE : cols;
        for (int64_t m = 0; m < wide; m++)
            for (int64_t k = k0; k < end; k++) out[k * wide + m] = m < batch ? x[m * cols + k] : 0.0f;
    }
}

// sums [VECTORS] += Σ value · x[column]
template <int VECTORS, class Index>
inline void multiply_survivors(const float *values, const Index *columns, int64_t length, const float *x, F *sums) {
    constexpr int WIDE = VECTORS * Isa::WIDTH;
    constexpr int CHAINS = VECTORS >= 4 ? 2 : 4;
    F total[CHAINS][VECTORS];
    for (int v = 0; v < VECTORS; v++) {
        total[0][v] = sums[v];
        for (int c = 1; c < CHAINS; c++) total[c][v] = Isa::zero();
    }
    int64_t i = 0;
    for (; i + CHAINS <= length; i += CHAINS)
#pragma GCC unroll 4
        for (int c = 0; c < CHAINS; c++) {
            const F weight = Isa::set(values[i + c]);
            const float *column = x + int64_t(columns[i + c]) * WIDE;
#pragma GCC unroll 8
            for (int v = 0; v < VECTORS; v++)
                total[c][v] = Isa::fma(weight, Isa::load(column + v * Isa::WIDTH), total[c][v]);
        }
    for (; i < length; i++)
        for (int v = 0; v < VECTORS; v++)
            total[0][v] = Isa::fma(
                Isa::set(values[i]), Isa::load(x + int64_t(columns[i]) * WIDE + v * Isa::WIDTH), total[0][v]);
    for (int v = 0; v < VECTORS; v++) {
        for (int c = 1; c < CHAINS; c++) total[0][v] = Isa::add(total[0][v], total[c][v]);
        sums[v] = total[0][v];
    }
}

inline const float *as_floats(const float *values, int64_t, float *) { return values; }
inline const float *as_floats(const uint16_t *values, int64_t length, float *room) {
    for (int64_t k = 0; k < length; k++) room[k] = Isa::value(values[k]);
    return room;
}

template <int VECTORS>
inline void put(const F *sums, int64_t batch, int64_t rows, int64_t n, float *y) {
    float line[VECTORS * Isa::WIDTH];
    for (int v = 0; v < VECTORS; v++) Isa::store(line + v * Isa::WIDTH, sums[v]);
    for (int64_t m = 0; m < batch; m++) y[m * rows + n] = line[m];
}

// x is transposed: [cols wide], wide = VECTORS vectors of activation rows
template <class V, int VECTORS>
void bitmask_tiles(const Matrix &a, const float *x, int64_t batch, float *y) {
    constexpr int WIDE = VECTORS * Isa::WIDTH;
    constexpr int64_t COLS = WIDE > 2 * TILE ? TILE_COLS / 2 : TILE_COLS;
    const int64_t blocks = blocks_of(a.cols);
#pragma omp parallel for schedule(static)
    for (int64_t first = 0; first < a.rows; first += ROWS_TOGETHER) {
        const int64_t rows = a.rows - first < ROWS_TOGETHER ? a.rows - first : ROWS_TOGETHER;
        const V *value[ROWS_TOGETHER];
        F sums[ROWS_TOGETHER][VECTORS];
        for (int64_t r = 0; r < rows; r++) {
            value[r] = static_cast<const V *>(a.values) + a.starts[first + r];
            for (int v = 0; v < VECTORS; v++) sums[r][v] = Isa::zero();
        }
        for (int64_t k = 0; k < a.cols; k += COLS)
            for (int64_t r = 0; r < rows; r++) {
                const uint64_t *mask = a.mask + (first + r) * blocks + k / BLOCK;
                uint8_t columns[COLS + BLOCK];
                float room[COLS];
                int64_t length = 0;
                for (int64_t b = 0; b < COLS / BLOCK && k + b * BLOCK < a.cols; b++)
                    length += Isa::columns(mask[b], int(b * BLOCK), columns + length);
                for (int64_t byte = 0; byte < int64_t(sizeof(V)) * length; byte += 64)
                    ask_ahead<1024>(reinterpret_cast<const char *>(value[r]) + byte);
                multiply_survivors<VECTORS>(as_floats(value[r], length, room), columns, length, x + k * WIDE, sums[r]);
                value[r] += length;
            }
        for (int64_t r = 0; r < rows; r++) put<VECTORS>(sums[r], batch, a.rows, first + r, y);
    }
}

template <class V, int VECTORS>
void column_tiles(const Matrix &a, const float *x, int64_t batch, float *y) {
#pragma omp parallel for schedule(static)
    for (int64_t n = 0; n < a.rows; n++) {
        F sums[VECTORS];
        for (int v = 0; v < VECTORS; v++) sums[v] = Isa::zero();
        float room[TILE_COLS];
        for (int64_t i = a.starts[n]; i < a.starts[n + 1]; i += TILE_COLS) {
            const int64_t left = a.starts[n + 1] - i, length = left < TILE_COLS ? left : TILE_COLS;
            const float *values = as_floats(static_cast<const V *>(a.values) + i, length, room);
            multiply_survivors<VECTORS>(values, a.columns + i, length, x, sums);
        }
        put<VECTORS>(sums, batch, a.rows, n, y);
    }
}

}  // namespace
