// Up to eight rows of activations times 4-bit codes, of which every 64 columns of a row have a scale.
//
// Sixteen blocks are multiplied side by side, each in a lane of its own, so that what a block costs besides its products
// (sums to floats, the scales) is paid once for sixteen. Weights lie in this order: four columns of each of the sixteen blocks,
// the next four of each. Blocks at the end of a row that make no sixteen come one after another.

#pragma once

#include "activations.h"
#include "decoders.h"

namespace {

template <class Decoder, int M>
void lane_rows(const Matrix &a, const Codes &x, int64_t batch, float *y) {
    constexpr int R = side_by_side(Decoder::STREAMS, M, 8);
    const int64_t stride = (a.rows + R - 1) / R, supers = x.blocks / LANES;
    const Widening widened = widening_of(a);
#pragma omp parallel for schedule(static) if (a.rows * a.cols > WORTH_A_THREAD)
    for (int64_t first = 0; first < stride; first++) {
        Decoder row[R];
        const uint16_t *scales[R];
        F total[R][M];
        float offset[R][M] = {};
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
            const int64_t n = first + r * stride < a.rows ? first + r * stride : a.rows - 1;
            row[r].open(a, n);
            scales[r] = a.scales + n * x.blocks;
#pragma GCC unroll 8
            for (int m = 0; m < M; m++) total[r][m] = Isa::zero();
        }
        for (int64_t s = 0; s < supers; s++) {
            Isa::Lanes sums[R][M];
            for (int r = 0; r < R; r++) {
                ask_ahead<4 * LANES * 2>(scales[r] + s * LANES);
                for (int m = 0; m < M; m++) sums[r][m] = Isa::lanes(x.starts + (s * M + m) * LANES);
            }
            const int8_t *codes = x.codes + s * LANES * M * BLOCK;
            for (int step = 0; step < LANES; step += 2, codes += 2 * M * BLOCK)
#pragma GCC unroll 8
                for (int r = 0; r < R; r++) {
                    Bytes weights[2];
                    row[r].two(weights);
#pragma GCC unroll 8
                    for (int m = 0; m < M; m++) Isa::add_products(weights[0], codes + m * BLOCK, sums[r][m]);
#pragma GCC unroll 8
                    for (int m = 0; m < M; m++) Isa::add_products(weights[1], codes + (M + m) * BLOCK, sums[r][m]);
                }
            for (int r = 0; r < R; r++) {
                F wide[LANES / Isa::WIDTH];
                for (int part = 0; part < LANES / Isa::WIDTH; part++)
                    wide[part] = widened.many(scales[r] + s * LANES + part * Isa::WIDTH);
                for (int m = 0; m < M; m++)
                    total[r][m] = Isa::add_lanes(sums[r][m], wide, x.scales + m * x.blocks + s * LANES, total[r][m]);
            }
        }
        for (int64_t b = supers * LANES; b < x.blocks; b += 2)
            for (int r = 0; r < R; r++) {
                Bytes weights[2];
                const int some = b + 2 <= x.blocks ? 2 : 1;
                if (some == 2)
                    row[r].two(weights);
                else
                    weights[0] = row[r].one();
                for (int k = 0; k < some; k++)
                    for (int m = 0; m < M; m++) {
                        const F products = Isa::to_float(Isa::dot(weights[k], x.codes + ((b + k) * M + m) * BLOCK));
                        const float scale = widened(scales[r][b + k]);
                        total[r][m] = Isa::fma(products, Isa::set(scale * x.scales[m * x.blocks + b + k]), total[r][m]);
                        offset[r][m] += scale * x.offsets[m * x.blocks + b + k];
                    }
            }
        for (int r = 0; r < R && first + r * stride < a.rows; r++)
            for (int m = 0; m < M && m < batch; m++)
                y[m * a.rows + first + r * stride] = Isa::sum(total[r][m]) + offset[r][m];
    }
}

template <class Decoder>
void lanes(const Matrix &a, const float *x, int64_t batch, float *y, void *room) {
    const int64_t held = rows_held(batch);
    const Codes to = codes_in(room, held, blocks_of(a.cols));
    for (int64_t m = 0; m < held; m++)
        quantise_lanes(x + (m < batch ? m : batch - 1) * a.cols, a.cols, Decoder::BIAS, m, held, to);
    for_held(held, [&](auto m) { lane_rows<Decoder, m>(a, to, batch, y); });
}

}  // namespace
