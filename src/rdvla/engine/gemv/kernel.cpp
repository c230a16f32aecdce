// y = x W^T for an x of a few rows. Every weight comes from memory once, and that is what such a product costs:
// the weights lie in the order in which they are used, and are asked for before they are.

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

constexpr int LANES = 16;            // float32 numbers of a vector of 64 bytes; narrower processors take several
constexpr int COLUMNS = 2 * LANES;   // outputs of a panel, which are computed together
constexpr int AHEAD = 4096;          // bytes; a processor by itself looks ahead within a page of 4 KiB
#if defined(__AVX512F__)
constexpr int ROWS = 8;              // computed together: as many as leave all their sums in registers
#else
constexpr int ROWS = 2;
#endif

typedef float Floats __attribute__((vector_size(4 * LANES), aligned(4)));
typedef uint32_t Words __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

struct Line {
  Floats low, high;  // columns 0..15 and 16..31 of a panel
};

inline Line load(const float *weights) {
  return {*reinterpret_cast<const Floats *>(weights), *reinterpret_cast<const Floats *>(weights + LANES)};
}

// bfloat16 is the upper half of float32. A word holds column i in its lower half and column i + 16 in its upper.
inline Line load(const uint16_t *weights) {
  const Words words = *reinterpret_cast<const Words *>(weights);
  return {(Floats)(words << 16), (Floats)(words & 0xffff0000u)};
}

// One panel of weights (inner, COLUMNS) by `turned` (inner, ROWS), of which `rows` are wanted.
template <typename Weight>
void panel(const float *turned, const Weight *weights, float *y, int64_t inner, int64_t outer, int64_t rows) {
  Floats low[ROWS] = {}, high[ROWS] = {};
  for (int64_t k = 0; k < inner; k++, weights += COLUMNS, turned += ROWS) {
    for (size_t byte = 0; byte < COLUMNS * sizeof(Weight); byte += 64)
      __builtin_prefetch(reinterpret_cast<const char *>(weights) + AHEAD + byte);
    const Line line = load(weights);
#pragma GCC unroll 8
    for (int row = 0; row < ROWS; row++) {
      low[row] += turned[row] * line.low;
      high[row] += turned[row] * line.high;
    }
  }
  for (int64_t row = 0; row < rows; row++) {
    std::memcpy(y + row * outer, &low[row], sizeof(Floats));
    std::memcpy(y + row * outer + LANES, &high[row], sizeof(Floats));
  }
}

// (rows, inner) -> (groups, inner, ROWS), zeros where the last group has fewer.
std::vector<float> turn(const float *x, int64_t rows, int64_t inner) {
  std::vector<float> turned((rows + ROWS - 1) / ROWS * ROWS * inner);
  for (int64_t row = 0; row < rows; row++)
    for (int64_t k = 0; k < inner; k++) turned[(row / ROWS * inner + k) * ROWS + row % ROWS] = x[row * inner + k];
  return turned;
}

template <typename Weight>
void product(const float *x, const Weight *weights, float *y, int64_t rows, int64_t inner, int64_t outer,
             int threads) {
  const std::vector<float> turned = turn(x, rows, inner);
#pragma omp parallel for num_threads(threads) if (threads > 1)
  for (int64_t column = 0; column < outer; column += COLUMNS)
    for (int64_t row = 0; row < rows; row += ROWS)
      panel(turned.data() + row * inner, weights + column * inner, y + row * outer + column, inner, outer,
            rows - row < ROWS ? rows - row : ROWS);
}

}  // namespace

// x (rows, inner), y (rows, outer), weights (outer / 32, inner, 32); in bfloat16 the 32 columns lie interleaved:
// 0, 16, 1, 17, ...
extern "C" void gemv_float32(const float *x, const float *weights, float *y, int64_t rows, int64_t inner,
                               int64_t outer, int threads) {
  product(x, weights, y, rows, inner, outer, threads);
}

extern "C" void gemv_bfloat16(const float *x, const uint16_t *weights, float *y, int64_t rows, int64_t inner,
                                int64_t outer, int threads) {
  product(x, weights, y, rows, inner, outer, threads);
}
