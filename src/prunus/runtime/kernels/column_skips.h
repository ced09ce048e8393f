// Few rows of activations times a matrix that is kept column by column: columns that meet nothing but activations of at most a
// threshold in magnitude are not read.

#pragma once

#include <omp.h>

#include "shared.h"

namespace {

constexpr int TOGETHER = 8;  // columns read side by side, each a stream of its own

// The columns that are read, and what of every row of activations they meet, [count M]; made a multiple of TOGETHER by the last
// column again, times zero.
struct Active {
    int32_t *columns;
    float *x;
    int64_t count, padded;
};

inline bool counts(float x, float threshold) { return !(std::fabs(x) <= threshold); }  // what is no number does

template <int M>
Active find_active(const float *x, int64_t batch, int64_t cols, float threshold, void *room) {
    Active found = {static_cast<int32_t *>(room), nullptr, 0, 0};
    found.x = reinterpret_cast<float *>(found.columns + padded(cols));
    for (int64_t j = 0; j < cols; j++) {  // written in any case: a branch would be guessed wrong as often as not
        bool any = false;
        for (int64_t m = 0; m < M; m++) {
            const float value = m < batch ? x[m * cols + j] : 0.0f;
            const bool one = counts(value, threshold);
            found.x[found.count * M + m] = one ? value : 0.0f;
            any |= one && m < batch;
        }
        found.columns[found.count] = int32_t(j);
        found.count += any;
    }
    found.padded = (found.count + TOGETHER - 1) / TOGETHER * TOGETHER;
    for (int64_t i = found.count; i < found.padded; i++) {
        found.columns[i] = found.columns[found.count - 1];
        for (int64_t m = 0; m < M; m++) found.x[i * M + m] = 0.0f;
    }
    return found;
}

// y [M stride] += the outputs `from` to `to` of TOGETHER columns; their lines are asked for in `next` where the memory is read
// ahead.
template <class V, int M>
inline void add_part(const V *const (&column)[TOGETHER], const V *const (&next)[TOGETHER], const float *x, int64_t stride,
                     int64_t from, int64_t to, float *y) {
    F weights[M][TOGETHER];
#pragma GCC unroll 8
    for (int m = 0; m < M; m++)
#pragma GCC unroll 8
        for (int c = 0; c < TOGETHER; c++) weights[m][c] = Isa::set(x[c * M + m]);
    for (int64_t line = from; line < to; line += BLOCK) {
#pragma GCC unroll 8
        for (int c = 0; c < TOGETHER; c++)
#pragma GCC unroll 4
            for (int byte = 0; byte < int(BLOCK * sizeof(V)); byte += 64)
                __builtin_prefetch(reinterpret_cast<const char *>(next[c] + line) + byte);
#pragma GCC unroll 4
        for (int64_t n = line; n < line + BLOCK; n += Isa::WIDTH) {
            F values[TOGETHER];
#pragma GCC unroll 8
            for (int c = 0; c < TOGETHER; c++) values[c] = Isa::floats(column[c] + n);
#pragma GCC unroll 8
            for (int m = 0; m < M; m++) {
                F even = Isa::load(y + m * stride + n), odd = Isa::zero();
#pragma GCC unroll 8
                for (int c = 0; c < TOGETHER; c += 2) {
                    even = Isa::fma(values[c], weights[m][c], even);
                    odd = Isa::fma(values[c + 1], weights[m][c + 1], odd);
                }
                Isa::store(y + m * stride + n, Isa::add(even, odd));
            }
        }
    }
}

// The outputs `from` to `to`, whole blocks of them, of all active columns.
template <class V, int M>
void add_columns(const Matrix &a, const Active &active, int64_t from, int64_t to, float *y) {
    constexpr int64_t AHEAD = 2048 / sizeof(V);  // outputs
    const int64_t stride = padded(a.rows), near = to - from > AHEAD ? to - AHEAD : from;
    const V *values = static_cast<const V *>(a.values);
    for (int64_t i = 0; i < active.padded; i += TOGETHER) {
        const V *column[TOGETHER], *ahead[TOGETHER], *following[TOGETHER];
        for (int c = 0; c < TOGETHER; c++) {
            const int64_t later = i + TOGETHER < active.padded ? i + TOGETHER + c : i + c;
            column[c] = values + active.columns[i + c] * stride;
            ahead[c] = column[c] + AHEAD;
            following[c] = values + active.columns[later] * stride + from - near;
        }
        add_part<V, M>(column, ahead, active.x + i * M, stride, from, near, y);
        add_part<V, M>(column, following, active.x + i * M, stride, near, to, y);
    }
}

// Threads share the outputs, so that each is added up in one order whatever their number.
template <class V, int M>
int64_t skip_columns(const Matrix &a, const float *x, int64_t batch, float threshold, float *y, void *room) {
    constexpr int64_t MOST = M == 1 ? 4096 : 1024;  // outputs that are added up in the nearest cache
    const int64_t blocks = blocks_of(a.rows), stride = padded(a.rows);
    const Active active = find_active<M>(x, batch, a.cols, threshold, room);
    float *sums = active.x + padded(a.cols) * M;
#pragma omp parallel if (a.rows * active.count > WORTH_A_THREAD)
    {
        const int64_t threads = omp_get_num_threads(), number = omp_get_thread_num();
        const int64_t first = blocks * number / threads * BLOCK, last = blocks * (number + 1) / threads * BLOCK;
        for (int64_t m = 0; m < M; m++) std::memset(sums + m * stride + first, 0, sizeof(float) * (last - first));
        for (int64_t from = first; from < last; from += MOST)
            add_columns<V, M>(a, active, from, last - from < MOST ? last : from + MOST, sums);
        for (int64_t m = 0; m < batch; m++)
            for (int64_t n = first; n < last && n < a.rows; n++)
                y[m * a.rows + n] = sums[m * stride + n] * (a.scales ? widening_of(a)(a.scales[n]) : 1.0f);
    }
    return active.count;
}

int64_t skip(const Matrix &a, const float *x, int64_t batch, float threshold, float *y, void *room) {
    int64_t read = 0;
    for_held(rows_held(batch), [&](auto m) {
        switch (a.layout) {
            case BY_COLUMN_F32: read = skip_columns<float, m>(a, x, batch, threshold, y, room); break;
            case BY_COLUMN_BF16: read = skip_columns<uint16_t, m>(a, x, batch, threshold, y, room); break;
            case BY_COLUMN_INT8: read = skip_columns<int8_t, m>(a, x, batch, threshold, y, room); break;
        }
    });
    return read;
}

}  // namespace
