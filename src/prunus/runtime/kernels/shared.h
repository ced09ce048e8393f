// What all parts of the engine use.

#pragma once

#include <cmath>
#include <cstring>
#include <type_traits>

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

// Calls `work` with what is held as a constant of the compiler's.
template <class Work>
inline void for_held(int64_t held, const Work &work) {
    if (held == 1) return work(std::integral_constant<int, 1>());
    if (held == 2) return work(std::integral_constant<int, 2>());
    if (held == 4) return work(std::integral_constant<int, 4>());
    work(std::integral_constant<int, 8>());
}

// How 16-bit floats that are not negative become floats: shifted to where a float has its exponent's last bit, and times what
// the two exponents' zeros are apart.
struct Widening {
    int shift;
    float factor;
    inline float operator()(uint16_t x) const {
        const uint32_t bits = uint32_t(x) << shift;
        float found;
        std::memcpy(&found, &bits, 4);
        return found * factor;
    }
    inline F many(const uint16_t *from) const { return Isa::mul(Isa::shifted(from, shift), Isa::set(factor)); }
};
inline Widening widening_of(const Matrix &a) { return a.brain_scales ? Widening{16, 1.0f} : Widening{13, 0x1p112f}; }

constexpr int side_by_side(int streams, int m, int most_sums) {
    return streams * m <= most_sums ? streams : most_sums > m ? most_sums / m : 1;
}

}  // namespace
