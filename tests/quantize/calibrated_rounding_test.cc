// Rounding with error feedback against plain rounding, and the factorization
// that it rests on.
#include "quantize/calibrated_rounding.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "base/weight_codes.h"

namespace h2o {
namespace {

constexpr int64_t kInputs = 384, kOutputs = 70, kTokens = 600;

constexpr WeightCoding kCodings[] = {{WeightFormat::kInt4, 64},
                                     {WeightFormat::kInt4, 128},
                                     {WeightFormat::kInt8},
                                     {WeightFormat::kFp8}};

std::string NameOf(const WeightCoding& coding) {
  return std::string(Name(coding.format)) + ":" + std::to_string(coding.group);
}

// A float32 matrix with memory of its own.
struct Numbers {
  Numbers(int64_t rows, int64_t columns) : memory(rows * columns) {
    matrix = {memory.data(), rows, columns, columns};
  }
  std::vector<float> memory;
  Matrix matrix;
};

Numbers Normal(int64_t rows, int64_t columns, float deviation, uint32_t seed) {
  Numbers numbers(rows, columns);
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, deviation);
  for (float& x : numbers.memory) x = normal(random);
  return numbers;
}

// Inputs that go along with each other: mixtures of few directions, and noise.
Numbers CorrelatedInputs() {
  constexpr int64_t kDirections = 24;
  const Numbers mixtures = Normal(kTokens, kDirections, 1, 1);
  const Numbers directions = Normal(kDirections, kInputs, 1, 2);
  Numbers x = Normal(kTokens, kInputs, 0.3f, 3);
  for (int64_t t = 0; t < kTokens; ++t) {
    for (int64_t d = 0; d < kDirections; ++d) {
      for (int64_t i = 0; i < kInputs; ++i) {
        x.matrix.Row(t)[i] +=
            mixtures.matrix.Row(t)[d] * directions.matrix.Row(d)[i];
      }
    }
  }
  return x;
}

ErrorFeedback FeedbackOf(const Numbers& x, int num_threads) {
  ThreadPool pool(num_threads);
  UpperMatrix moments = UpperMatrix::Create(x.matrix.columns).value();
  // In two parts, as of two texts.
  const int64_t half = x.matrix.rows / 2;
  AddMoments(x.matrix.Rows(0, half), &moments, &pool);
  AddMoments(x.matrix.Rows(half, x.matrix.rows - half), &moments, &pool);
  return FactorMoments(std::move(moments), 0.01, &pool);
}

CodedMatrix RoundPlainly(const Numbers& weights, const WeightCoding& coding) {
  CodedMatrix codes(coding, weights.matrix.rows, weights.matrix.columns);
  for (int64_t r = 0; r < codes.rows; ++r) {
    const absl::Span<const float> row(weights.matrix.Row(r), codes.columns);
    if (coding.format == WeightFormat::kInt4) {
      GroupScale* const scales = codes.GroupScales(r);
      for (int64_t c = 0; c < codes.columns; c += coding.group) {
        scales[c / coding.group] = ScaleOfGroup(row.subspan(c, coding.group));
      }
      EncodeInt4Row(row, coding.group, scales, codes.Codes(r));
      continue;
    }
    *codes.RowScale(r) = ScaleOfRow(coding.format, row);
    EncodeRow(coding.format, row, *codes.RowScale(r), codes.Codes(r));
  }
  return codes;
}

CodedMatrix RoundCalibrated(const Numbers& weights, const ErrorFeedback& f,
                            const WeightCoding& coding, int num_threads = 2) {
  ThreadPool pool(num_threads);
  return RoundWithFeedback(weights.matrix, f, coding, &pool);
}

// Squared errors of x W^T.
double OutputError(const Numbers& x, const Numbers& weights,
                   const CodedMatrix& codes) {
  double sum = 0;
  std::vector<float> row(codes.columns);
  for (int64_t r = 0; r < codes.rows; ++r) {
    codes.Decode(r, absl::MakeSpan(row));
    for (int64_t t = 0; t < x.matrix.rows; ++t) {
      double error = 0;
      for (int64_t c = 0; c < codes.columns; ++c) {
        error += (row[c] - weights.matrix.Row(r)[c]) * x.matrix.Row(t)[c];
      }
      sum += error * error;
    }
  }
  return sum;
}

TEST(ErrorFeedback, IsAFactorOfTheMoments) {
  const Numbers x = CorrelatedInputs();
  const ErrorFeedback f = FeedbackOf(x, 2);
  std::vector<double> moments(kInputs * kInputs);
  double mean = 0;
  for (int64_t i = 0; i < kInputs; ++i) {
    for (int64_t j = i; j < kInputs; ++j) {
      for (int64_t t = 0; t < kTokens; ++t) {
        moments[i * kInputs + j] +=
            double{x.matrix.Row(t)[i]} * x.matrix.Row(t)[j];
      }
    }
    mean += moments[i * kInputs + i] / kInputs;
  }
  const auto u = [&](int64_t i, int64_t k) {
    return i == k ? 1.0 : double{f.u.Row(i)[k]};
  };
  for (int64_t i = 0; i < kInputs; ++i) {
    for (int64_t j = i; j < kInputs; ++j) {
      double sum = 0;
      for (int64_t k = j; k < kInputs; ++k) sum += u(i, k) * f.d[k] * u(j, k);
      const double damping = i == j ? 0.01 * mean : 0;
      ASSERT_NEAR(sum, moments[i * kInputs + j] + damping, 1e-4 * mean)
          << i << ", " << j;
    }
  }
}

TEST(RoundWithFeedback, ChangesTheOutputsLessThanPlainRounding) {
  const Numbers x = CorrelatedInputs();
  const Numbers weights = Normal(kOutputs, kInputs, 0.05f, 4);
  const ErrorFeedback feedback = FeedbackOf(x, 2);
  for (const WeightCoding& coding : kCodings) {
    const double plain = OutputError(x, weights, RoundPlainly(weights, coding));
    const double calibrated =
        OutputError(x, weights, RoundCalibrated(weights, feedback, coding));
    EXPECT_LT(calibrated, 0.3 * plain) << NameOf(coding);
  }
}

TEST(RoundWithFeedback, IsPlainForInputsThatHaveNothingInCommon) {
  const Numbers weights = Normal(kOutputs, kInputs, 0.05f, 5);
  Numbers identity(kInputs, kInputs);
  for (int64_t i = 0; i < kInputs; ++i) identity.matrix.Row(i)[i] = 2;
  const Numbers nothing(10, kInputs);  // no input was ever other than zero
  for (const Numbers* x : {&std::as_const(identity), &nothing}) {
    const ErrorFeedback feedback = FeedbackOf(*x, 2);
    for (const WeightCoding& coding : kCodings) {
      const CodedMatrix plain = RoundPlainly(weights, coding);
      const CodedMatrix calibrated = RoundCalibrated(weights, feedback, coding);
      EXPECT_EQ(calibrated.codes, plain.codes) << NameOf(coding);
      EXPECT_EQ(calibrated.scales, plain.scales) << NameOf(coding);
    }
  }
}

TEST(RoundWithFeedback, CodesAreInRangeAndInputsMayBeDead) {
  Numbers x = CorrelatedInputs();
  for (int64_t t = 0; t < kTokens; ++t) {
    std::fill_n(x.matrix.Row(t) + 100, 90, 0.0f);
  }
  Numbers weights = Normal(kOutputs, kInputs, 0.05f, 6);
  std::fill_n(weights.matrix.Row(3), kInputs, 0.0f);
  weights.matrix.Row(4)[5] = 1e4f;
  const ErrorFeedback feedback = FeedbackOf(x, 2);
  for (const WeightCoding& coding : kCodings) {
    const CodedMatrix codes = RoundCalibrated(weights, feedback, coding);
    if (coding.format == WeightFormat::kInt8) {
      EXPECT_EQ(
          std::count(codes.codes.begin(), codes.codes.end(), std::byte{0x80}),
          0);
    }
    std::vector<float> row(kInputs);
    for (int64_t r = 0; r < kOutputs; ++r) {
      codes.Decode(r, absl::MakeSpan(row));
      for (int64_t c = 0; c < kInputs; ++c) {
        ASSERT_TRUE(std::isfinite(row[c])) << NameOf(coding) << " " << r;
      }
      const float greatest = *std::max_element(row.begin(), row.end());
      EXPECT_EQ(greatest > 0, r != 3) << NameOf(coding) << " " << r;
    }
  }
}

TEST(RoundWithFeedback, IsTheSameForEveryNumberOfThreads) {
  const Numbers x = CorrelatedInputs();
  const Numbers weights = Normal(kOutputs, kInputs, 0.05f, 7);
  for (const WeightCoding& coding : kCodings) {
    const CodedMatrix one =
        RoundCalibrated(weights, FeedbackOf(x, 1), coding, 1);
    for (const int threads : {2, 5}) {
      const CodedMatrix many =
          RoundCalibrated(weights, FeedbackOf(x, threads), coding, threads);
      EXPECT_EQ(many.codes, one.codes) << NameOf(coding);
      EXPECT_EQ(many.scales, one.scales) << NameOf(coding);
    }
  }
}

}  // namespace
}  // namespace h2o
