// Measures how fast this CPU reads memory and multiplies matrices.
#include "kernels/cpu/machine_rates.h"

#include <algorithm>
#include <chrono>
#include <functional>
#include <vector>

#include "absl/functional/function_ref.h"
#include "base/check.h"
#include "base/thread_pool.h"
#include "kernels/backend.h"
#include "kernels/cpu/matrix_product.h"
#include "kernels/cpu/small_linear.h"

namespace h2o {
namespace {

constexpr int kTries = 7;
// Many times the largest cache.
constexpr int64_t kReadBytes = 256 << 20;
constexpr int64_t kSize = 1024;  // of the square matrices

double BestSeconds(absl::FunctionRef<void()> run) {
  double best = 1e30;
  for (int i = 0; i < kTries; ++i) {
    const auto start = std::chrono::steady_clock::now();
    run();
    best = std::min(best, std::chrono::duration<double>(
                              std::chrono::steady_clock::now() - start)
                              .count());
  }
  return best;
}

}  // namespace

MachineRates MeasureMachineRates(int num_threads) {
  ThreadPool pool(num_threads);
  num_threads = pool.num_threads();
  MachineRates rates;

  // One row times a matrix is a pure stream of reads.
  const int64_t columns = 1024, rows = kReadBytes / 4 / columns;
  absl::StatusOr<Buffer> memory = Buffer::AllocateHost(kReadBytes);
  H2O_CHECK(memory.ok()) << memory.status();
  pool.ParallelFor(kReadBytes, kReadBytes / num_threads,
                   [&](int64_t begin, int64_t end, int) {
                     std::fill(memory->data() + begin, memory->data() + end,
                               std::byte{1});
                   });
  std::vector<float> x(columns, 1.0f), y(rows);
  const LinearWeights weights{
      {memory->data(), WeightFormat::kFloat32, rows, columns, columns},
      nullptr};
  const Matrix in{x.data(), 1, columns, columns};
  const Matrix out{y.data(), 1, rows, rows};
  const double read = BestSeconds([&] {
    pool.ParallelFor(
        rows, rows / (4 * num_threads), [&](int64_t begin, int64_t end, int) {
          cpu::SmallLinear(in, weights, Epilogue::kNone, begin, end, out);
        });
  });
  rates.read_bytes_per_second = kReadBytes / read;

  const int64_t n = kSize;
  std::vector<float> a(n * n, 1.0f), b(n * n, 1.0f), c(n * n * num_threads);
  const double flops = 2.0 * n * n * n * num_threads;
  rates.sgemm_flops_per_second =
      flops / BestSeconds([&] {
        pool.Run([&](int thread) {
          cpu::Sgemm(true, n, n, n, a.data(), n, b.data(), n,
                     &c[thread * n * n], n);
        });
      });
  if (cpu::BFloat16Product::Supported()) {
    const std::vector<uint16_t> h(n * n, ToBFloat16(1.0f));
    std::vector<cpu::BFloat16Product> products(num_threads);
    rates.bf16_flops_per_second =
        flops / BestSeconds([&] {
          pool.Run([&](int thread) {
            products[thread].Run(n, n, n, h.data(), n, h.data(), n,
                                 &c[thread * n * n], n);
          });
        });
  }
  return rates;
}

}  // namespace h2o
