// The kernels, written once for every instruction set. A source that includes this has defined `Isa` before: vectors and how
// a block of 64 columns is unpacked into them (avx512.cpp says what each function is). All of it has internal linkage, so
// that no code for one instruction set is ever linked into another's.

#include "column_skips.h"
#include "float_rows.h"
#include "float_tiles.h"
#include "integer_rows.h"
#include "integer_tiles.h"
#include "lane_rows.h"
#include "unpack.h"

namespace {

struct FloatWork {
    const Matrix &a;
    float *room;
    bool halves;
    template <class Decoder>
    void few(const float *x, int64_t batch, float *y) const {
        const int64_t held = rows_held(batch);
        hold_floats(x, batch, held, a.cols, halves, room);
        for_held(held, [&](auto m) { float_rows<Decoder, m>(a, room, batch, y); });
    }
    template <class V>
    void few_columns(const float *x, int64_t batch, float *y) const {
        for_held(rows_held(batch), [&](auto m) { column_rows<V, m>(a, x, batch, y); });
    }
    template <class V, bool MASKED>
    void tiles(const float *x, int64_t batch, float *y) const {
        constexpr int ONE = TILE / Isa::WIDTH;
        const int64_t wide = batch <= TILE ? TILE : batch <= 2 * TILE ? 2 * TILE : 4 * TILE;
        transpose(x, batch, a.cols, wide, room);
        if constexpr (MASKED) {
            if (wide == TILE) return bitmask_tiles<V, ONE>(a, room, batch, y);
            if (wide == 2 * TILE) return bitmask_tiles<V, 2 * ONE>(a, room, batch, y);
            bitmask_tiles<V, 4 * ONE>(a, room, batch, y);
        } else {
            if (wide == TILE) return column_tiles<V, ONE>(a, room, batch, y);
            if (wide == 2 * TILE) return column_tiles<V, 2 * ONE>(a, room, batch, y);
            column_tiles<V, 4 * ONE>(a, room, batch, y);
        }
    }
};

void multiply(const Matrix &a, const float *x, int64_t batch, float *y, void *room) {
    const bool halves = Isa::HALVES && (a.layout == BITMASK_BF16 || a.layout == DENSE_BF16);
    const FloatWork floats{a, static_cast<float *>(room), halves};
    const int64_t most = a.layout == DENSE_BF16 ? MOST_ROWS : holds_floats(a.layout) ? 4 * TILE : MOST_TOKENS;
    for (int64_t m = 0; m < batch; m += most) {
        const int64_t some = batch - m < most ? batch - m : most;
        const float *from = x + m * a.cols;
        float *to = y + m * a.rows;
        const bool many = some > MOST_ROWS;
        switch (a.layout) {
            case BITMASK_F32:
                many ? floats.tiles<float, true>(from, some, to) : floats.few<BitmaskFloats<float>>(from, some, to);
                break;
            case BITMASK_BF16:
                many ? floats.tiles<uint16_t, true>(from, some, to) : floats.few<BitmaskFloats<uint16_t>>(from, some, to);
                break;
            case COLUMNS_F32:
                many ? floats.tiles<float, false>(from, some, to) : floats.few_columns<float>(from, some, to);
                break;
            case COLUMNS_BF16:
                many ? floats.tiles<uint16_t, false>(from, some, to) : floats.few_columns<uint16_t>(from, some, to);
                break;
            case DENSE_BF16: floats.few<DenseHalves>(from, some, to); break;
            case BITMASK_INT8:
                many ? integer_tiles<BitmaskBytes, false>(a, from, some, to, room) : integers<BitmaskBytes>(a, from, some, to, room);
                break;
            case PAIRS_INT8:
                many ? integer_tiles<PairsBytes, false>(a, from, some, to, room) : integers<PairsBytes>(a, from, some, to, room);
                break;
            case PAIRS_INT4:
                many ? integer_tiles<PairsNibbles, true>(a, from, some, to, room) : lanes<PairsNibbles>(a, from, some, to, room);
                break;
            case DENSE_INT8:
                many ? integer_tiles<DenseBytes, false>(a, from, some, to, room) : integers<DenseBytes>(a, from, some, to, room);
                break;
            case DENSE_INT4:
                many ? integer_tiles<DenseNibbles, true>(a, from, some, to, room) : lanes<DenseNibbles>(a, from, some, to, room);
                break;
        }
    }
}

const Kernels KERNELS = {multiply, decode, skip};

}  // namespace
