// y = x W^T for an x of a few rows. Every weight comes from memory once, and that is the cost of such a product:
// the weights lie in the order of their use, and are requested ahead of it.

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

constexpr int COLUMNS = 32;  // outputs of a panel, which are computed together
constexpr int AHEAD = 4096;  // bytes; the hardware's own prefetch ends at a page of 4 KiB

// Vectors as wide as the processor's: GCC takes wider ones apart number by number. ROWS are computed together, as
// many as leave all their sums in registers.
#if defined(__AVX512F__)
constexpr int LANES = 16, ROWS = 8;
#elif defined(__AVX__)
constexpr int LANES = 8, ROWS = 3;
#elif defined(__aarch64__)
constexpr int LANES = 4, ROWS = 2;
#else
constexpr int LANES = 4, ROWS = 1;
#endif
constexpr int VECTORS = COLUMNS / LANES;

typedef float Floats __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint32_t Words __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

// Apply `use(vector, weights)` to the vectors of a line of COLUMNS weights.
template <typename Use>
inline void for_each_vector(const float *weights, Use use) {
#pragma GCC unroll 8
  for (int i = 0; i < VECTORS; i++) use(i, *reinterpret_cast<const Floats *>(weights + i * LANES));
}

// bfloat16 is the upper half of float32. A word holds column i in its lower half and column i + 16 in its upper.
template <typename Use>
inline void for_each_vector(const uint16_t *weights, Use use) {
#pragma GCC unroll 4
  for (int i = 0; i < VECTORS / 2; i++) {
    const Words words = *reinterpret_cast<const Words *>(weights + 2 * i * LANES);
    use(i, (Floats)(words << 16));
    use(i + VECTORS / 2, (Floats)(words & 0xffff0000u));
  }
}

// One panel of weights (inner, COLUMNS) by `turned` (inner, ROWS); the first `rows` of the result are kept.
template <typename Weight>
void panel(const float *turned, const Weight *weights, float *y, int64_t inner, int64_t outer, int64_t rows) {
  Floats sums[ROWS][VECTORS] = {};
  for (int64_t k = 0; k < inner; k++, weights += COLUMNS, turned += ROWS) {
    for (size_t byte = 0; byte < COLUMNS * sizeof(Weight); byte += 64)
      __builtin_prefetch(reinterpret_cast<const char *>(weights) + AHEAD + byte);
    for_each_vector(weights, [&](int vector, Floats line) {
#pragma GCC unroll 8
      for (int row = 0; row < ROWS; row++) sums[row][vector] += turned[row] * line;
    });
  }
  for (int64_t row = 0; row < rows; row++) std::memcpy(y + row * outer, sums[row], sizeof(sums[row]));
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
