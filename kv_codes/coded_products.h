// Products of queries with coded keys and of weights with coded values, over
// one page: the plain reference of the attention kernels.
//
// Codes are never unpacked.  A byte is masked where it lies and multiplied as
// it is; the query's factor of a field takes the field's place into account
// (kv_codes/code_fields.h).  Queries and weights are cut into digits of 8 bits,
// so all products and sums are exact integers, the same on every device.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "kv_codes/coded_page.h"

namespace h2o {

// Three signed digits: a field at shift 6 has a factor of 2^-6, and two digits
// would leave it 9 bits.
inline constexpr int kQueryDigits = 3;
inline constexpr int kWeightDigits = 2;

// A query for products with codes.
struct CodedQuery {
  // For each field, the most significant digit first: the digits' number times
  // `unit` is the query's factor.
  std::vector<std::array<int8_t, kQueryDigits>> digits;
  double unit = 0;
  double centre = 0;  // the query times h, which codes exceed x by
};

// `query` is in the coded basis and divided by sqrt(head_dim).
CodedQuery CutQuery(absl::Span<const CodeField> fields,
                    absl::Span<const uint8_t> bits,
                    absl::Span<const float> query);

using QuerySums = std::array<int32_t, kQueryDigits>;
// The sum over fields of masked byte times digit, for slots [0, sums.size()).
void SumKeys(const CodedPageLayout& layout, absl::Span<const CodeField> fields,
             const CodedQuery& query, const std::byte* page,
             absl::Span<QuerySums> sums);

// The logits of slots [0, logits.size()).
void CodedLogits(const CodedPageLayout& layout,
                 absl::Span<const CodeField> fields, const CodedQuery& query,
                 const std::byte* page, absl::Span<double> logits);

// Weights of a page's slots, each times its value's scale.
struct CodedWeights {
  // For each slot, the most significant digit first.
  std::vector<std::array<uint8_t, kWeightDigits>> digits;
  double unit = 0;
  double total = 0;  // the sum of all weights times scales
};

// Of slots [0, weights.size()).  REQUIRES: weights are not negative.
CodedWeights CutWeights(const CodedPageLayout& layout, const std::byte* page,
                        absl::Span<const float> weights);

// For each field the sum over slots of masked byte times weight, in units.
std::vector<int32_t> SumValues(const CodedPageLayout& layout,
                               absl::Span<const CodeField> fields,
                               const CodedWeights& weights,
                               const std::byte* page);

// Adds the sum over slots of weight times decoded value to `output`, one number
// a channel, in the coded basis.
void AddCodedValues(const CodedPageLayout& layout,
                    absl::Span<const CodeField> fields,
                    absl::Span<const uint8_t> bits, const CodedWeights& weights,
                    const std::byte* page, absl::Span<double> output);

}  // namespace h2o
