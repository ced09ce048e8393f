// What all parts of the engine use.

#pragma once

#include <cmath>
#include <cstring>

#include "work.h"

namespace {

using F = Isa::F;
using Bytes = Isa::Bytes;
constexpr int PARTS = BLOCK / Isa::WIDTH;
constexpr int64_t WORTH_A_THREAD = 1 << 15;
constexpr int64_t ROWS_TOGETHER = 32; // rows that share tiles of the activations while these are in the nearest cache
constexpr int64_t TILE_COLS = 256;    // so that a column of a tile has an 8-bit index

template <int BYTES>
inline void ask_ahead(const void *place) {
    __builtin_prefetch(static_cast<const char *>(place) + BYTES);
}
inline int count(uint64_t bits) { return __builtin_popcountll(bits); }

// Rows of activations are held one, two, four or eight at a time.
inline int64_t rows_held(int64_t batch) { return batch <= 1 ? 1 : batch <= 2 ? 2 : batch <= 4 ? 4 : 8; }

constexpr int side_by_side(int streams, int m, int most_sums) {
    return streams * m <= most_sums ? streams : most_sums > m ? most_sums / m : 1;
}

}  // namespace
