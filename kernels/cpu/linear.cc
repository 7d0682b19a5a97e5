// Chooses the kernel of a linear layer and cuts its outputs among the threads:
// the CPU twin of cuda/linear.cc.
#include "kernels/cpu/linear.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>

#include "base/check.h"
#include "base/fp8_rows.h"
#include "base/weight_codes.h"
#include "kernels/cpu/small_linear.h"
#include "kernels/cpu/whole_linear.h"

namespace h2o::cpu {
namespace {

// Products in float32 widen this many bytes of weights at a time.
constexpr int64_t kWidenBytes = 4 << 20;

// From this many rows on, the bf16 units beat the float32 kernel for few rows,
// and the latter, which widens a weight for all rows, beats whole numbers.
constexpr int64_t kBFloat16Rows = 8;
constexpr int64_t kMostWholeRows = kBFloat16Rows - 1;

constexpr int64_t kRowsPerRounding = 64;  // rows that a thread rounds at a time

// Outputs of one thread, a multiple of kVectorFloats.
int64_t SliceOf(int64_t outputs, int num_threads) {
  return CeilDiv(outputs, kVectorFloats * num_threads) * kVectorFloats;
}

// A slice of outputs is whole register tiles.  There are four slices a thread,
// so that a slow thread can take fewer of them.
int64_t SliceOfTiles(int64_t outputs, int num_threads) {
  return CeilDiv(outputs, 4 * 4 * num_threads) * 4;
}

// Outputs [begin, end) of y hold x W^T.  Adds the bias and applies the
// epilogue.
void FinishSlice(Matrix y, const void* bias, Epilogue epilogue, int64_t begin,
                 int64_t end) {
  if (bias == nullptr && epilogue == Epilogue::kNone) return;
  const float* add = static_cast<const float*>(bias);
  for (int64_t r = 0; r < y.rows; ++r) {
    float* row = y.Row(r);
    if (add != nullptr) {
      for (int64_t n = begin; n < end; ++n) row[n] += add[n];
    }
    if (epilogue == Epilogue::kRelu) {
      for (int64_t n = begin; n < end; ++n) row[n] = std::max(row[n], 0.0f);
    } else if (epilogue == Epilogue::kGelu) {
      for (int64_t n = begin; n < end; ++n) row[n] = Gelu(row[n]);
    }
  }
}

// out[i] = x[i] as its e4m3 code has it.
void RoundRowToFp8(const float* x, int64_t n, float* out) {
  uint32_t most = 0;
  for (int64_t i = 0; i < n; ++i) {
    most = std::max(most, std::bit_cast<uint32_t>(std::fabs(x[i])));
  }
  const Fp8RowScale row = Fp8ScaleOf(most);
  const bool finite = !std::isnan(row.scale);
  for (int64_t i = 0; i < n; ++i) {
    out[i] =
        finite ? FromFp8(ToFp8(x[i] * row.inverse)) * row.scale : row.scale;
  }
}

}  // namespace

LinearProducts::LinearProducts(int64_t max_inputs, int64_t max_rows,
                               bool bf16_products, bool fp8_inputs,
                               int num_threads)
    : max_inputs_(max_inputs),
      max_rows_(max_rows),
      rounds_inputs_(bf16_products),
      fp8_inputs_(fp8_inputs),
      of_threads_(bf16_products && BFloat16Product::Supported() ? num_threads
                                                                : 0) {}

int64_t LinearProducts::WidenedRows() const {
  const int64_t row_bytes = AlignedStride(max_inputs_) * 4;
  return std::max(kWidenBytes / row_bytes, kVectorFloats);
}

Team::Scratch LinearProducts::scratch() const {
  const int64_t stride = AlignedStride(max_inputs_);
  return {.thread_floats = WidenedRows() * stride,
          .shared_bytes = SharedBytes()};
}

int64_t LinearProducts::SharedBytes() const {
  const int64_t row_bytes = AlignedStride(max_inputs_) * 2;
  const int64_t in_bf16 = of_threads_.empty() ? 0 : max_rows_ * row_bytes;
  const int64_t whole =
      rounds_inputs_ ? kMostWholeRows * WholeRowBytes(max_inputs_) : 0;
  const int64_t in_fp8 = fp8_inputs_ ? 2 * max_rows_ * row_bytes : 0;
  return std::max({in_bf16, whole, in_fp8});
}

void LinearProducts::Run(Matrix x, const LinearWeights& weights,
                         Epilogue epilogue, Matrix y, Team* team) {
  const WeightFormat format = weights.weight.format;
  const bool bf16 = !of_threads_.empty() && format == WeightFormat::kBFloat16;
  const bool whole = rounds_inputs_ && (format == WeightFormat::kInt8 ||
                                        format == WeightFormat::kInt4);
  if (fp8_inputs_ && format == WeightFormat::kFp8) x = RoundToFp8(x, team);
  if (bf16 && x.rows >= kBFloat16Rows) {
    RunBFloat16(x, weights, epilogue, y, team);
  } else if (whole && x.rows <= kMostWholeRows) {
    RunWhole(x, weights, epilogue, y, team);
  } else if (x.rows <= kSmallRows) {
    RunFewRows(x, weights, epilogue, y, team);
  } else {
    RunFloat32(x, weights, epilogue, y, team);
  }
}

Matrix LinearProducts::RoundToFp8(Matrix x, Team* team) const {
  H2O_CHECK(x.rows <= max_rows_) << x.rows;
  Matrix rounded = x;
  rounded.data = team->Shared<float>();
  rounded.stride = AlignedStride(x.columns);
  team->ParallelFor(x.rows, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; ++r) {
      RoundRowToFp8(x.Row(r), rounded.stride, rounded.Row(r));
    }
  });
  return rounded;
}

void LinearProducts::RunFewRows(Matrix x, const LinearWeights& weights,
                                Epilogue epilogue, Matrix y, Team* team) const {
  team->ParallelFor(weights.weight.rows,
                    SliceOfTiles(weights.weight.rows, team->num_threads()),
                    [&](int64_t begin, int64_t end, int) {
                      SmallLinear(x, weights, epilogue, begin, end, y);
                    });
}

void LinearProducts::RunWhole(Matrix x, const LinearWeights& weights,
                              Epilogue epilogue, Matrix y, Team* team) const {
  const StoredMatrix& w = weights.weight;
  std::array<WholeRow, kMostWholeRows> rows;
  for (int64_t r = 0; r < x.rows; ++r) {
    std::byte* const memory =
        team->Shared<std::byte>() + r * WholeRowBytes(w.columns);
    rows[r] = RoundToWhole(x.Row(r), x.stride, w, memory);
  }
  team->ParallelFor(w.rows, SliceOfTiles(w.rows, team->num_threads()),
                    [&](int64_t begin, int64_t end, int) {
                      for (int64_t r = 0; r < x.rows; ++r) {
                        WholeLinear(rows[r], weights, epilogue, begin, end,
                                    y.Row(r));
                      }
                    });
}

void LinearProducts::RunFloat32(Matrix x, const LinearWeights& weights,
                                Epilogue epilogue, Matrix y, Team* team) const {
  const StoredMatrix& w = weights.weight;
  const int64_t inputs = AlignedStride(w.columns);
  const int64_t slice =
      std::min(WidenedRows(), SliceOf(w.rows, team->num_threads()));
  team->ParallelFor(w.rows, slice, [&](int64_t begin, int64_t end, int thread) {
    float* widened = team->OfThread(thread);
    // With one thread ParallelFor passes all outputs in one call: cut them
    // here.
    for (int64_t n = begin; n < end; n += slice) {
      const int64_t last = std::min(n + slice, end);
      const float* rows = static_cast<const float*>(w.Row(n));
      if (w.format != WeightFormat::kFloat32) {
        WidenRows(w, n, last, widened);
        rows = widened;
      }
      Sgemm(true, x.rows, last - n, inputs, x.Row(0), x.stride, rows, inputs,
            y.Row(0) + n, y.stride);
      FinishSlice(y, weights.bias, epilogue, n, last);
    }
  });
}

void LinearProducts::RunBFloat16(Matrix x, const LinearWeights& weights,
                                 Epilogue epilogue, Matrix y, Team* team) {
  const StoredMatrix& w = weights.weight;
  uint16_t* rounded = team->Shared<uint16_t>();
  team->ParallelFor(
      x.rows, kRowsPerRounding, [&](int64_t begin, int64_t end, int) {
        for (int64_t r = begin; r < end; ++r) {
          RoundToBFloat16(x.Row(r), w.stride, rounded + r * w.stride);
        }
      });
  team->ParallelFor(w.rows, SliceOf(w.rows, team->num_threads()),
                    [&](int64_t begin, int64_t end, int thread) {
                      of_threads_[thread].Run(
                          x.rows, end - begin, w.stride, rounded, w.stride,
                          static_cast<const uint16_t*>(w.Row(begin)), w.stride,
                          y.Row(0) + begin, y.stride);
                      FinishSlice(y, weights.bias, epilogue, begin, end);
                    });
}

}  // namespace h2o::cpu
