// Up to eight rows of activations times whole numbers: every weight unpacked once.

#pragma once

#include "activations.h"
#include "decoders.h"

namespace {

constexpr int64_t SCALES = 64;  // blocks whose scales are worked out at once

// The products of the scales of a row's weights, one a group, and of some rows of activations, for some blocks from `b` on; the
// offsets of these blocks are added up in `offset`.
template <int M, bool BIASED>
inline void fill_scales(const Matrix &a, const Codes &x, const uint16_t *weights, int64_t b, int64_t length,
                        float (&out)[M][SCALES], float (&offset)[M]) {
    alignas(64) float wide[SCALES];
    const Widening widened = widening_of(a);
    const int64_t blocks_a_group = a.group / BLOCK;
    if (blocks_a_group == 1) {
        for (int64_t j = 0; j < length; j += 32) __builtin_prefetch(weights + b + length + j);  // next time's
        for (int64_t j = 0; j < length; j += Isa::WIDTH) Isa::store(wide + j, widened.many(weights + b + j));
    } else {
        for (int64_t j = 0; j < length; j++) wide[j] = widened(weights[(b + j) / blocks_a_group]);
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
                const uint16_t *scales = a.scales + (n < a.rows ? n : a.rows - 1) * groups;
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
                y[m * a.rows + n] = GROUPED ? sum + offset[r][m] : widening_of(a)(a.scales[n]) * (sum + whole[m]);
            }
    }
}

template <class Decoder>
void integers(const Matrix &a, const float *x, int64_t batch, float *y, void *room) {
    const int64_t held = rows_held(batch);
    const Codes to = codes_in(room, held, blocks_of(a.cols));
    for (int64_t m = 0; m < held; m++)
        quantise(x + (m < batch ? m : batch - 1) * a.cols, a.cols, Decoder::BIAS, m, held, to);
    for_held(held, [&](auto m) {
        a.group ? integer_rows<Decoder, m, true>(a, to, batch, y) : integer_rows<Decoder, m, false>(a, to, batch, y);
    });
}

}  // namespace
