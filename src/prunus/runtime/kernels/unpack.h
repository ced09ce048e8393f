// Weights as plain floats.

#pragma once

#include <vector>

#include "decoders.h"

namespace {

template <class Decoder>
void decode_floats(const Matrix &a, int64_t first, int64_t rows, bool halves, float *out) {
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < rows; r++) {
        Decoder row;
        row.open(a, first + r);
        for (int64_t k = 0; k < a.cols; k += BLOCK) {
            F weights[PARTS];
            float line[BLOCK], plain[BLOCK];
            row.next(weights);
            for (int part = 0; part < PARTS; part++) Isa::store(line + part * Isa::WIDTH, weights[part]);
            if (halves)
                for (int half = 0; half < BLOCK; half += 32)
                    for (int j = 0; j < 16; j++) {
                        plain[half + 2 * j] = line[half + j];
                        plain[half + 2 * j + 1] = line[half + 16 + j];
                    }
            const int64_t length = a.cols - k < BLOCK ? a.cols - k : BLOCK;
            std::memcpy(out + r * a.cols + k, halves ? plain : line, sizeof(float) * length);
        }
    }
}

// One row's codes as they are unpacked, bias and all.
template <class Decoder>
inline void unpack_codes(Decoder row, int64_t blocks, uint8_t *out) {
    for (int64_t b = 0; b < blocks; b += 2) {
        Bytes weights[2];
        const int some = b + 2 <= blocks ? 2 : 1;
        if (some == 2)
            row.two(weights);
        else
            weights[0] = row.one();
        for (int k = 0; k < some; k++) Isa::store_bytes(out + (b + k) * BLOCK, weights[k]);
    }
}

// Where the codes of a row's first `blocks` blocks have a column: one after another, or in lanes (lane_rows.h).
template <bool LANED>
inline int64_t place_of(int64_t column, int64_t blocks) {
    const int64_t b = column / BLOCK, j = column % BLOCK;
    if (!LANED || b >= blocks / LANES * LANES) return column;
    return (b / LANES * LANES + j / 4) * BLOCK + b % LANES * 4 + j % 4;
}

template <class Decoder, bool LANED>
void decode_integers(const Matrix &a, int64_t first, int64_t rows, float *out) {
    const int64_t group = a.group ? a.group : a.cols, groups = (a.cols + group - 1) / group, blocks = blocks_of(a.cols);
    const Widening widened = widening_of(a);
#pragma omp parallel
    {
        std::vector<uint8_t> codes(blocks * BLOCK);
#pragma omp for schedule(static)
        for (int64_t r = 0; r < rows; r++) {
            Decoder row;
            row.open(a, first + r);
            unpack_codes(row, blocks, codes.data());
            const uint16_t *scales = a.scales + (first + r) * groups;
            for (int64_t k = 0; k < a.cols; k++) {
                const uint8_t code = codes[place_of<LANED>(k, blocks)];
                out[r * a.cols + k] = widened(scales[k / group]) * float(Decoder::BIAS ? code - Decoder::BIAS : int(int8_t(code)));
            }
        }
    }
}

template <class V>
void decode_columns(const Matrix &a, int64_t first, int64_t rows, float *out) {
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < rows; r++) {
        float *line = out + r * a.cols;
        std::memset(line, 0, sizeof(float) * a.cols);
        for (int64_t i = a.starts[first + r]; i < a.starts[first + r + 1]; i++)
            line[a.columns[i]] = Isa::value(static_cast<const V *>(a.values)[i]);
    }
}

void decode(const Matrix &a, int64_t first, int64_t rows, float *out) {
    switch (a.layout) {
        case BITMASK_F32: return decode_floats<BitmaskFloats<float>>(a, first, rows, false, out);
        case BITMASK_BF16: return decode_floats<BitmaskFloats<uint16_t>>(a, first, rows, Isa::HALVES, out);
        case DENSE_BF16: return decode_floats<DenseHalves>(a, first, rows, Isa::HALVES, out);
        case BITMASK_INT8: return decode_integers<BitmaskBytes, false>(a, first, rows, out);
        case PAIRS_INT8: return decode_integers<PairsBytes, false>(a, first, rows, out);
        case PAIRS_INT4: return decode_integers<PairsNibbles, true>(a, first, rows, out);
        case DENSE_INT8: return decode_integers<DenseBytes, false>(a, first, rows, out);
        case DENSE_INT4: return decode_integers<DenseNibbles, true>(a, first, rows, out);
        case COLUMNS_F32: return decode_columns<float>(a, first, rows, out);
        case COLUMNS_BF16: return decode_columns<uint16_t>(a, first, rows, out);
    }
}

}  // namespace
