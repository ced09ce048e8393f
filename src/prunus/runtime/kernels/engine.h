// The kernels, written once for every instruction set. A source that includes this has defined `Isa` before: vectors and how
// a block of 64 columns is unpacked into them (avx512.cpp says what each function is). All of it has internal linkage, so
// that no code for one instruction set is ever linked into another's.

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

// ---- Decoders: cursors that give a row's weights block after block
//
// STREAMS rows are read side by side, AHEAD bytes of each asked of the memory before they are needed: measured, see
// benchmarks/kernels.py. A core draws more from the memory in several streams than in one.

template <class V>
struct BitmaskFloats {
    static constexpr int STREAMS = 4, AHEAD = 1024;
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
    static constexpr int STREAMS = 4, AHEAD = 1024;
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
    static constexpr int STREAMS = 4, AHEAD = 1024, BIAS = Isa::BIAS_INT8;
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
    static constexpr int STREAMS = 4, AHEAD = 1024, BIAS = Isa::BIAS_INT8;
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
    static constexpr int STREAMS = 4, AHEAD = 1024, BIAS = Isa::BIAS_INT8;
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
    static constexpr int STREAMS = 4, AHEAD = 1024, BIAS = Isa::BIAS_INT4;
    const uint8_t *value;
    inline void open(const Matrix &a, int64_t row) { value = static_cast<const uint8_t *>(a.values) + row * padded(a.cols) / 2; }
    inline Bytes one() { return Isa::nibbles(value); }
    inline void two(Bytes (&out)[2]) {
        ask_ahead<AHEAD>(value);
        Isa::nibbles(value, out);
        value += BLOCK;
    }
};

// ---- Activations

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

// One row of activations as codes. A block that is not finite makes its scale, and so every output, not a number.
void quantise(const float *x, int64_t cols, int bias, int64_t row, int64_t held, const Codes &to) {
    for (int64_t b = 0; b < to.blocks; b++) {
        const int64_t left = cols - b * BLOCK;
        float part[BLOCK] = {};
        std::memcpy(part, x + b * BLOCK, sizeof(float) * (left < BLOCK ? left : BLOCK));
        const int32_t most = Isa::largest_bits(part);  // in the order of magnitudes, with what is no number above all
        float largest;
        std::memcpy(&largest, &most, 4);
        const bool finite = most < 0x7f800000, any = finite && largest > 1e-30f;
        if (!any) std::memset(part, 0, sizeof(part));
        const float scale = largest / 127.0f;
        const int32_t sum = Isa::codes(part, any ? 127.0f / largest : 0.0f, to.codes + (b * held + row) * BLOCK);
        to.scales[row * to.blocks + b] = finite ? scale : std::nanf("");
        to.offsets[row * to.blocks + b] = float(-bias * sum) * scale;
    }
}

// ---- Up to eight rows of activations: every weight unpacked once

constexpr int side_by_side(int streams, int m, int most_sums) {
    return streams * m <= most_sums ? streams : most_sums > m ? most_sums / m : 1;
}

// Rows that are read side by side lie a `stride` apart, so that each is a long stream; where there is none any more, the last
// one is taken again.
template <class Decoder, int M>
void float_rows(const Matrix &a, const float *x, int64_t batch, float *y) {
    constexpr int R = side_by_side(Decoder::STREAMS, M, Isa::MOST_SUMS), CHAINS = R * M >= 4 ? 1 : 4 / (R * M);
    const int64_t blocks = blocks_of(a.cols);
    const int64_t stride = (a.rows + R - 1) / R;
#pragma omp parallel for schedule(static) if (a.rows * a.cols > WORTH_A_THREAD)
    for (int64_t first = 0; first < stride; first++) {
        Decoder row[R];
        F total[R][M][CHAINS];
        for (int r = 0; r < R; r++) {
            const int64_t n = first + r * stride;
            row[r].open(a, n < a.rows ? n : a.rows - 1);
            for (int m = 0; m < M; m++)
                for (int c = 0; c < CHAINS; c++) total[r][m][c] = Isa::zero();
        }
        for (int64_t b = 0; b < blocks; b++)
#pragma GCC unroll 8
            for (int r = 0; r < R; r++) {
                F weights[PARTS];
                row[r].next(weights);
#pragma GCC unroll 16
                for (int part = 0; part < PARTS; part++)
#pragma GCC unroll 8
                    for (int m = 0; m < M; m++) {
                        F &sum = total[r][m][part % CHAINS];
                        sum = Isa::fma(weights[part], Isa::load(x + (b * M + m) * BLOCK + part * Isa::WIDTH), sum);
                    }
            }
        for (int r = 0; r < R && first + r * stride < a.rows; r++)
            for (int m = 0; m < M && m < batch; m++) {
                for (int c = 1; c < CHAINS; c++) total[r][m][0] = Isa::add(total[r][m][0], total[r][m][c]);
                y[m * a.rows + first + r * stride] = Isa::sum(total[r][m][0]);
            }
    }
}

constexpr int64_t SCALES = 64;  // blocks whose scales are worked out at once

// The products of the scales of a row's weights, one a group, and of some rows of activations, for some blocks from `b` on; the
// offsets of these blocks are added up in `offset`.
template <int M, bool BIASED>
inline void fill_scales(const Matrix &a, const Codes &x, const float *weights, int64_t b, int64_t length, float (&out)[M][SCALES],
                        float (&offset)[M]) {
    alignas(64) float repeated[SCALES];
    const float *wide = weights + b;
    const int64_t blocks_a_group = a.group / BLOCK;
    if (blocks_a_group == 1) {
        for (int64_t j = 0; j < length; j += 16) __builtin_prefetch(wide + length + j);  // next time's
    } else {
        for (int64_t j = 0; j < length; j++) repeated[j] = weights[(b + j) / blocks_a_group];
        wide = repeated;
    }
    for (int m = 0; m < M; m++) {
        const float *scales = x.scales + m * x.blocks + b, *offsets = x.offsets + m * x.blocks + b;
        for (int64_t j = 0; j < length; j++) out[m][j] = wide[j] * scales[j];
        if (BIASED) {
            float sum = 0;
#pragma omp simd reduction(+ : sum)
            for (int64_t j = 0; j < length; j++) sum += wide[j] * offsets[j];
            offset[m] += sum;
        }
    }
}

// `scale` is that of the first of the M rows of activations, the next one's is `apart` floats on.
template <int M>
inline void add_block(const Codes &x, int64_t b, Bytes weights, const float *scale, int64_t apart, F (&total)[M]) {
    const int8_t *codes = x.codes + b * M * BLOCK;
#pragma GCC unroll 8
    for (int m = 0; m < M; m++)
        total[m] = Isa::fma(Isa::to_float(Isa::dot(weights, codes + m * BLOCK)), Isa::set(scale[m * apart]), total[m]);
}

template <class Decoder, int M, bool GROUPED>
void integer_rows(const Matrix &a, const Codes &x, int64_t batch, float *y) {
    constexpr int R = side_by_side(Decoder::STREAMS, M, 8);
    constexpr int64_t MOST = GROUPED ? SCALES : INT64_MAX;
    const int64_t stride = (a.rows + R - 1) / R, groups = GROUPED ? (a.cols + a.group - 1) / a.group : 1;
    const int64_t apart = GROUPED ? SCALES : x.blocks;
    float whole[M] = {};  // the offsets of all blocks
    for (int m = 0; m < M; m++)
        for (int64_t b = 0; b < x.blocks; b++) whole[m] += x.offsets[m * x.blocks + b];
#pragma omp parallel for schedule(static) if (a.rows * a.cols > WORTH_A_THREAD)
    for (int64_t first = 0; first < stride; first++) {
        Decoder row[R];
        F total[R][M];
        alignas(64) float products[R][M][SCALES];
        float offset[R][M] = {};
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
            const int64_t n = first + r * stride;
            row[r].open(a, n < a.rows ? n : a.rows - 1);
#pragma GCC unroll 8
            for (int m = 0; m < M; m++) total[r][m] = Isa::zero();
        }
        for (int64_t from = 0; from < x.blocks; from += SCALES) {
            const int64_t length = x.blocks - from < MOST ? x.blocks - from : MOST, end = from + length / 2 * 2;
            const float *scale[R];
            for (int r = 0; r < R; r++) {
                scale[r] = GROUPED ? products[r][0] - from : x.scales;
                if (!GROUPED) continue;
                const int64_t n = first + r * stride;
                const float *scales = a.scales + (n < a.rows ? n : a.rows - 1) * groups;
                fill_scales<M, Decoder::BIAS != 0>(a, x, scales, from, length, products[r], offset[r]);
            }
            for (int64_t b = from; b < end; b += 2)
#pragma GCC unroll 8
                for (int r = 0; r < R; r++) {
                    Bytes weights[2];
                    row[r].two(weights);
                    add_block<M>(x, b, weights[0], scale[r] + b, apart, total[r]);
                    add_block<M>(x, b + 1, weights[1], scale[r] + b + 1, apart, total[r]);
                }
            if (end < from + length)
#pragma GCC unroll 8
                for (int r = 0; r < R; r++) add_block<M>(x, end, row[r].one(), scale[r] + end, apart, total[r]);
            if (!GROUPED) break;
        }
        for (int r = 0; r < R && first + r * stride < a.rows; r++)
            for (int m = 0; m < M && m < batch; m++) {
                const int64_t n = first + r * stride;
                const float sum = Isa::sum(total[r][m]);
                y[m * a.rows + n] = GROUPED ? sum + offset[r][m] : a.scales[n] * (sum + whole[m]);
            }
    }
}

template <class V, int M>
void column_rows(const Matrix &a, const float *x, int64_t batch, float *y) {
#pragma omp parallel for schedule(static) if (a.starts[a.rows] > WORTH_A_THREAD / 8)
    for (int64_t n = 0; n < a.rows; n++) {
        const V *values = static_cast<const V *>(a.values);
        int64_t i = a.starts[n];
        const int64_t end = a.starts[n + 1];
        F total[M];
        for (int m = 0; m < M; m++) total[m] = Isa::zero();
        for (; i + Isa::WIDTH <= end; i += Isa::WIDTH) {
            ask_ahead<1024>(values + i);
            ask_ahead<1024>(a.columns + i);
            const F weights = Isa::floats(values + i);
            for (int m = 0; m < M; m++)
                total[m] = Isa::fma(weights, Isa::gather(x + (m < batch ? m : 0) * a.cols, a.columns + i), total[m]);
        }
        for (int m = 0; m < M && m < batch; m++) {
            float sum = Isa::sum(total[m]);
            for (int64_t k = i; k < end; k++) sum += Isa::value(values[k]) * x[m * a.cols + a.columns[k]];
            y[m * a.rows + n] = sum;
        }
    }
}

// ---- Many rows of activations: only what survived is multiplied, by a vector of their columns

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

// ---- What to call

struct FloatWork {
    const Matrix &a;
    float *room;
    bool halves;
    template <class Decoder>
    void few(const float *x, int64_t batch, float *y) const {
        const int64_t held = batch <= 1 ? 1 : batch <= 2 ? 2 : batch <= 4 ? 4 : 8;
        hold_floats(x, batch, held, a.cols, halves, room);
        if (held == 1) return float_rows<Decoder, 1>(a, room, batch, y);
        if (held == 2) return float_rows<Decoder, 2>(a, room, batch, y);
        if (held == 4) return float_rows<Decoder, 4>(a, room, batch, y);
        float_rows<Decoder, 8>(a, room, batch, y);
    }
    template <class V>
    void few_columns(const float *x, int64_t batch, float *y) const {
        const int64_t held = batch <= 1 ? 1 : batch <= 2 ? 2 : batch <= 4 ? 4 : 8;
        if (held == 1) return column_rows<V, 1>(a, x, batch, y);
        if (held == 2) return column_rows<V, 2>(a, x, batch, y);
        if (held == 4) return column_rows<V, 4>(a, x, batch, y);
        column_rows<V, 8>(a, x, batch, y);
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

template <class Decoder, int M>
void integers_held(const Matrix &a, const Codes &x, int64_t batch, float *y) {
    a.group ? integer_rows<Decoder, M, true>(a, x, batch, y) : integer_rows<Decoder, M, false>(a, x, batch, y);
}

template <class Decoder>
void integers(const Matrix &a, const float *x, int64_t batch, float *y, void *room) {
    const int64_t held = batch <= 1 ? 1 : batch <= 2 ? 2 : batch <= 4 ? 4 : 8;
    Codes to;
    to.blocks = blocks_of(a.cols);
    to.codes = static_cast<int8_t *>(room);
    to.scales = reinterpret_cast<float *>(to.codes + held * to.blocks * BLOCK);
    to.offsets = to.scales + held * to.blocks;
    for (int64_t m = 0; m < held; m++)
        quantise(x + (m < batch ? m : batch - 1) * a.cols, a.cols, Decoder::BIAS, m, held, to);
    if (held == 1) return integers_held<Decoder, 1>(a, to, batch, y);
    if (held == 2) return integers_held<Decoder, 2>(a, to, batch, y);
    if (held == 4) return integers_held<Decoder, 4>(a, to, batch, y);
    integers_held<Decoder, 8>(a, to, batch, y);
}

void multiply(const Matrix &a, const float *x, int64_t batch, float *y, void *room) {
    const bool halves = Isa::HALVES && (a.layout == BITMASK_BF16 || a.layout == DENSE_BF16);
    const FloatWork floats{a, static_cast<float *>(room), halves};
    const int64_t most = holds_floats(a.layout) && a.layout != DENSE_BF16 ? 4 * TILE : MOST_ROWS;
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
            case BITMASK_INT8: integers<BitmaskBytes>(a, from, some, to, room); break;
            case PAIRS_INT8: integers<PairsBytes>(a, from, some, to, room); break;
            case PAIRS_INT4: integers<PairsNibbles>(a, from, some, to, room); break;
            case DENSE_INT8: integers<DenseBytes>(a, from, some, to, room); break;
            case DENSE_INT4: integers<DenseNibbles>(a, from, some, to, room); break;
        }
    }
}

// ---- Unpacking

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

template <class Decoder>
void decode_integers(const Matrix &a, int64_t first, int64_t rows, float *out) {
    const int64_t group = a.group ? a.group : a.cols, groups = (a.cols + group - 1) / group, blocks = blocks_of(a.cols);
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < rows; r++) {
        Decoder row;
        row.open(a, first + r);
        for (int64_t b = 0; b < blocks; b += 2) {
            Bytes weights[2];
            if (b + 2 <= blocks)
                row.two(weights);
            else
                weights[0] = row.one();
            uint8_t line[2 * BLOCK];
            Isa::store_bytes(line, weights[0]);
            if (b + 2 <= blocks) Isa::store_bytes(line + BLOCK, weights[1]);
            for (int64_t half = 0; half < 2 && b + half < blocks; half++) {
                const int64_t k = (b + half) * BLOCK, length = a.cols - k < BLOCK ? a.cols - k : BLOCK;
                const float scale = a.scales[(first + r) * groups + k / group];
                const uint8_t *codes = line + half * BLOCK;
                float unpacked[BLOCK];
                for (int j = 0; j < BLOCK; j++)
                    unpacked[j] = scale * float(Decoder::BIAS ? int(codes[j]) - Decoder::BIAS : int(int8_t(codes[j])));
                std::memcpy(out + r * a.cols + k, unpacked, sizeof(float) * length);
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
        case BITMASK_INT8: return decode_integers<BitmaskBytes>(a, first, rows, out);
        case PAIRS_INT8: return decode_integers<PairsBytes>(a, first, rows, out);
        case PAIRS_INT4: return decode_integers<PairsNibbles>(a, first, rows, out);
        case DENSE_INT8: return decode_integers<DenseBytes>(a, first, rows, out);
        case DENSE_INT4: return decode_integers<DenseNibbles>(a, first, rows, out);
        case COLUMNS_F32: return decode_columns<float>(a, first, rows, out);
        case COLUMNS_BF16: return decode_columns<uint16_t>(a, first, rows, out);
    }
}

const Kernels KERNELS = {multiply, decode};

}  // namespace
