// Integer products over pages are numpy's to the bit, and near what decoding
// gives.
#include "kv_codes/coded_products.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "kv_codes/vector_code.h"
#include "tests/kv_codes/golden.h"

namespace h2o {
namespace {

// Sums of float64 have another order here than in numpy.
void ExpectNear(const std::vector<double>& made,
                const std::vector<double>& expected, const std::string& what) {
  ASSERT_EQ(made.size(), expected.size());
  double largest = 0;
  for (const double x : expected) largest = std::max(largest, std::fabs(x));
  for (size_t i = 0; i < made.size(); ++i) {
    EXPECT_NEAR(made[i], expected[i], 1e-12 * largest) << what << " " << i;
  }
}

TEST(CodedProducts, OfKeysAreNumpys) {
  for (const std::string& name : Golden::Names()) {
    const Golden golden(name);
    const VectorCode code = golden.Code("key");
    const auto fields = golden.Fields("key");
    const CodedQuery query =
        CutQuery(fields, code.bits, golden.Get<float>("query"));
    const auto digits = golden.Get<int8_t>("query_digits");
    const auto sums = golden.Get<int32_t>("key_sums");
    const auto page = golden.Page();
    EXPECT_EQ(query.unit, golden.Get<double>("query_unit")[0]) << name;
    for (int f = 0; f < static_cast<int>(fields.size()); ++f) {
      EXPECT_EQ(absl::MakeConstSpan(query.digits[f]), RowOf(digits, f, 3));
    }
    std::vector<QuerySums> made(golden.slots());
    SumKeys(golden.Layout(), fields, query, page.data(), absl::MakeSpan(made));
    for (int slot = 0; slot < golden.slots(); ++slot) {
      EXPECT_EQ(absl::MakeConstSpan(made[slot]), RowOf(sums, slot, 3)) << name;
    }
    std::vector<double> logits(golden.slots());
    CodedLogits(golden.Layout(), fields, query, page.data(),
                absl::MakeSpan(logits));
    ExpectNear(logits, golden.Get<double>("logits"), name);
  }
}

TEST(CodedProducts, OfValuesAreNumpys) {
  for (const std::string& name : Golden::Names()) {
    const Golden golden(name);
    const VectorCode code = golden.Code("value");
    const auto fields = golden.Fields("value");
    const auto page = golden.Page();
    const CodedWeights weights =
        CutWeights(golden.Layout(), page.data(), golden.Get<float>("weights"));
    const auto digits = golden.Get<uint8_t>("weight_digits");
    EXPECT_EQ(weights.unit, golden.Get<double>("weight_unit")[0]) << name;
    for (int slot = 0; slot < golden.slots(); ++slot) {
      EXPECT_EQ(absl::MakeConstSpan(weights.digits[slot]),
                RowOf(digits, slot, 2));
    }
    EXPECT_EQ(SumValues(golden.Layout(), fields, weights, page.data()),
              golden.Get<int32_t>("value_sums"))
        << name;
    std::vector<double> output(code.bits.size());
    AddCodedValues(golden.Layout(), fields, code.bits, weights, page.data(),
                   absl::MakeSpan(output));
    ExpectNear(output, golden.Get<double>("output"), name);
  }
}

TEST(CodedProducts, AreNearThoseOfDecodedVectors) {
  for (const std::string& name : Golden::Names()) {
    const Golden golden(name);
    const auto decoded = golden.Get<float>("key.decoded");
    const auto query = golden.Get<float>("query");
    const auto logits = golden.Get<double>("logits");
    double error = 0, largest = 1e-9;
    for (int slot = 0; slot < golden.slots(); ++slot) {
      double logit = 0;
      for (size_t i = 0; i < query.size(); ++i) {
        logit += double{query[i]} * decoded[slot * query.size() + i];
      }
      error = std::max(error, std::fabs(logit - logits[slot]));
      largest = std::max(largest, std::fabs(logit));
    }
    EXPECT_LT(error / largest, 1e-4) << name;
  }
}

TEST(CodedProducts, WhatIsNotFiniteStaysSo) {
  const Golden golden("d64");
  const auto page = golden.Page();
  for (const float bad : {NAN, std::numeric_limits<float>::infinity()}) {
    auto query = golden.Get<float>("query");
    query[3] = bad;
    const VectorCode key = golden.Code("key");
    std::vector<double> logits(golden.slots());
    CodedLogits(golden.Layout(), golden.Fields("key"),
                CutQuery(golden.Fields("key"), key.bits, query), page.data(),
                absl::MakeSpan(logits));
    for (const double logit : logits) EXPECT_FALSE(std::isfinite(logit));

    auto weights = golden.Get<float>("weights");
    weights[3] = bad;
    const VectorCode value = golden.Code("value");
    std::vector<double> output(value.bits.size(), 1);
    AddCodedValues(golden.Layout(), golden.Fields("value"), value.bits,
                   CutWeights(golden.Layout(), page.data(), weights),
                   page.data(), absl::MakeSpan(output));
    EXPECT_FALSE(std::isfinite(output[0]));
  }
}

}  // namespace
}  // namespace h2o
