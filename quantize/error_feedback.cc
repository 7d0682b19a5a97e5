// Factors moments from the last column to the first, block by block.
#include "quantize/error_feedback.h"

#include <algorithm>
#include <utility>

#include "kernels/cpu/matrix_product.h"

namespace h2o {
namespace {

constexpr int64_t kBlock = 128;

// The columns of one step, and what is left of a factorization above them.
class BlockStep {
 public:
  // No pivot is less than `least`: in exact arithmetic none would be.
  BlockStep(Range block, float least, ErrorFeedback* out)
      : block_(block),
        n_(block.size()),
        least_(least),
        out_(*out),
        transposed_(n_ * n_) {}

  // The triangle on the diagonal, in float64.
  void FactorTriangle() {
    std::vector<double> a(n_ * n_);
    for (int64_t i = 0; i < n_; ++i) {
      const float* row = out_.u.Row(block_.begin + i) + block_.begin;
      std::copy_n(row, n_, &a[i * n_]);
    }
    for (int64_t k = n_ - 1; k >= 0; --k) {
      const double pivot = std::max<double>(a[k * n_ + k], least_);
      out_.d[block_.begin + k] = static_cast<float>(pivot);
      for (int64_t i = 0; i < k; ++i) {
        const double u = a[i * n_ + k] / pivot;
        for (int64_t j = i; j < k; ++j) a[i * n_ + j] -= u * a[j * n_ + k];
        out_.u.Row(block_.begin + i)[block_.begin + k] = static_cast<float>(u);
        transposed_[k * n_ + i] = static_cast<float>(u);
      }
    }
  }

  // The rows above the triangle: P = U diag(d) (T + I)^T, with the triangle T,
  // is solved for U.  Keeps -U diag(d) for Downdate.
  void SolveRowsAbove(ThreadPool* pool) {
    minus_ud_.resize(block_.begin * n_);
    pool->ParallelFor(block_.begin, 64, [&](int64_t begin, int64_t end, int) {
      for (int64_t r = begin; r < end; ++r) SolveRow(r);
    });
  }

  // Takes the block's part from the moments in front of it.
  void Downdate(ThreadPool* pool) const {
    const int64_t stride = out_.u.size();
    UpperMatrix::ForEachTile(
        block_.begin, pool, [&](Range rows, Range columns) {
          cpu::Sgemm(true, rows.size(), columns.size(), n_,
                     &minus_ud_[rows.begin * n_], n_,
                     out_.u.Row(columns.begin) + block_.begin, stride,
                     out_.u.Row(rows.begin) + columns.begin, stride, 1);
        });
  }

 private:
  void SolveRow(int64_t r) {
    float* const p = out_.u.Row(r) + block_.begin;
    for (int64_t k = n_ - 1; k >= 0; --k) {
      minus_ud_[r * n_ + k] = -p[k];
      for (int64_t j = 0; j < k; ++j) {
        p[j] -= p[k] * transposed_[k * n_ + j];
      }
      p[k] /= out_.d[block_.begin + k];
    }
  }

  const Range block_;
  const int64_t n_;
  const float least_;
  ErrorFeedback& out_;
  std::vector<float> transposed_;  // T
  std::vector<float> minus_ud_;    // [rows above, n_]
};

// Adds what makes the moments well conditioned; returns it.
float Damp(double damping, UpperMatrix* moments) {
  const int64_t n = moments->size();
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += moments->Row(i)[i];
  const auto added =
      static_cast<float>(sum > 0 ? damping * sum / static_cast<double>(n) : 1);
  for (int64_t i = 0; i < n; ++i) moments->Row(i)[i] += added;
  return added;
}

}  // namespace

ErrorFeedback FactorMoments(UpperMatrix moments, double damping,
                            ThreadPool* pool) {
  const int64_t n = moments.size();
  const float least = Damp(damping, &moments);
  ErrorFeedback out = {std::move(moments), std::vector<float>(n)};
  for (int64_t end = n; end > 0; end -= (end - 1) % kBlock + 1) {
    BlockStep step({(end - 1) / kBlock * kBlock, end}, least, &out);
    step.FactorTriangle();
    step.SolveRowsAbove(pool);
    step.Downdate(pool);
  }
  return out;
}

}  // namespace h2o
