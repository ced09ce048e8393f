// Up to eight rows of activations times floats: every weight unpacked once.

#pragma once

#include "activations.h"
#include "decoders.h"

namespace {

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

}  // namespace
