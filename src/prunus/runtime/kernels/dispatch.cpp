// Which instruction set's kernels run, and the room they work in.

#include <cstdlib>
#if defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

#include "work.h"

namespace {

constexpr int LEVELS = 6;
const char *const NAMES[LEVELS] = {"portable", "neon", "avx2", "avx512", "avx512_vnni", "avx512_vbmi2"};

const Kernels *level(int number) {
    switch (number) {
        case 0: return kernels_portable();
#if defined(__aarch64__)
        case 1: return getauxval(AT_HWCAP) & HWCAP_ASIMDDP ? kernels_neon() : nullptr;
#endif
#if defined(__x86_64__)
        case 2: return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? kernels_avx2() : nullptr;
        case 3:
            return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")
                       ? kernels_avx512()
                       : nullptr;
        case 4: return level(3) && __builtin_cpu_supports("avx512vnni") ? kernels_avx512_vnni() : nullptr;
        case 5:
            return level(4) && __builtin_cpu_supports("avx512vbmi2") && __builtin_cpu_supports("avx512vbmi")
                       ? kernels_avx512_vbmi2()
                       : nullptr;
#endif
        default: return nullptr;
    }
}

// A thread's work room, kept between calls: asking for it anew would cost more than small layers do.
struct Room {
    void *place = nullptr;
    int64_t size = 0;
    ~Room() { std::free(place); }
    void *of(int64_t wanted) {
        if (wanted > size) {
            std::free(place);
            size = (wanted + 4095) / 4096 * 4096;
            place = std::aligned_alloc(64, size_t(size));
            if (!place) size = 0;
        }
        return place;
    }
};
thread_local Room room;

// Bytes of work room that multiplying by so many rows takes.
int64_t room_for(const Matrix &a, int64_t batch) {
    const int64_t width = padded(a.cols);
    if (!holds_floats(a.layout)) {
        const int64_t tokens = batch <= MOST_ROWS ? MOST_ROWS : batch < MOST_TOKENS ? batch + TILE : MOST_TOKENS;
        return tokens * (width + 12 * blocks_of(a.cols)) + 256;
    }
    return sizeof(float) * width * (batch > MOST_ROWS ? 4 * TILE : MOST_ROWS) + 256;
}

}  // namespace

extern "C" {

int prunus_has_level(int number) { return level(number) != nullptr; }

int prunus_level() {
    for (int number = LEVELS - 1; number > 0; number--)
        if (level(number)) return number;
    return 0;
}

const char *prunus_level_name(int number) { return number >= 0 && number < LEVELS ? NAMES[number] : nullptr; }

int prunus_multiply(const Matrix *a, int number, const float *x, int64_t batch, float *y) {
    void *work = room.of(room_for(*a, batch));
    if (!work) return 1;
    level(number)->multiply(*a, x, batch, y, work);
    return 0;
}

int64_t prunus_skip(const Matrix *a, int number, const float *x, int64_t batch, float threshold, float *y) {
    const int64_t cols = padded(a->cols), rows = padded(a->rows);
    void *work = room.of(int64_t(sizeof(float)) * (cols + MOST_ROWS * (cols + rows)));
    return work ? level(number)->skip(*a, x, batch, threshold, y, work) : -1;
}

int prunus_decode(const Matrix *a, int number, int64_t first, int64_t count, float *out) {
    level(number)->decode(*a, first, count, out);
    return 0;
}

uint64_t prunus_read(const void *place, int64_t bytes) {
    constexpr int64_t STREAMS = 8, LINE = 8;  // a line of the cache: eight words
    constexpr int64_t AHEAD = 16 * LINE;      // asked for before it is needed, as the kernels do: a fifth more than without
    const uint64_t *words = static_cast<const uint64_t *>(place);
    const int64_t lines = bytes / (8 * LINE * STREAMS);
    uint64_t all = 0;
#pragma omp parallel reduction(+ : all)
    {
        uint64_t sums[LINE] = {};
#pragma omp for schedule(static)
        for (int64_t i = 0; i < lines; i++)
#pragma GCC unroll 8
            for (int64_t s = 0; s < STREAMS; s++) {
                const uint64_t *line = words + (s * lines + i) * LINE;
                __builtin_prefetch(line + AHEAD);
#pragma GCC unroll 8
                for (int64_t k = 0; k < LINE; k++) sums[k] += line[k];
            }
        for (int64_t k = 0; k < LINE; k++) all += sums[k];
    }
    return all;
}
}
