// Cuts queries and weights into digits and multiplies them with masked bytes.
#include "kv_codes/coded_products.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kv_codes/vector_code.h"

namespace h2o {
namespace {

constexpr double kLeast = 1e-30;  // of the largest factor: no unit is 0
// The largest numbers of three signed digits and of two unsigned ones.
constexpr double kMostOfQuery = 127 * (65536 + 256 + 1);
constexpr double kMostOfWeight = 65535;

SlotMark MarkAt(const CodedPageLayout& layout, const std::byte* page,
                int slot) {
  SlotMark mark;
  std::memcpy(&mark, page + layout.MarkOffset(slot), sizeof(mark));
  return mark;
}

// The nearest whole number, of two the even.  0 if there is none: then unit,
// centre or total are not finite either, so the result is not.
double Whole(double x) { return std::isfinite(x) ? std::rint(x) : 0; }

// -128 to 127 each but for the first, which the limit of `n` bounds.
std::array<int8_t, kQueryDigits> SignedDigits(int32_t n) {
  std::array<int8_t, kQueryDigits> digits;
  for (int i = kQueryDigits - 1; i >= 0; --i) {
    const int32_t rest = i == 0 ? 0 : (n + 128) >> 8;
    digits[i] = static_cast<int8_t>(n - 256 * rest);
    n = rest;
  }
  return digits;
}

}  // namespace

CodedQuery CutQuery(absl::Span<const CodeField> fields,
                    absl::Span<const uint8_t> bits,
                    absl::Span<const float> query) {
  CodedQuery cut;
  double most = kLeast;
  const auto factor = [&](const CodeField& field) {
    return std::ldexp(double{query[field.channel]}, field.low - field.shift);
  };
  for (const CodeField& field : fields) {
    most = std::max(most, std::fabs(factor(field)));
  }
  cut.unit = most / kMostOfQuery;
  for (const CodeField& field : fields) {
    cut.digits.push_back(
        SignedDigits(static_cast<int32_t>(Whole(factor(field) / cut.unit))));
  }
  for (size_t i = 0; i < bits.size(); ++i) {
    cut.centre += double{query[i]} * ZeroOfCode(bits[i]);
  }
  return cut;
}

void SumKeys(const CodedPageLayout& layout, absl::Span<const CodeField> fields,
             const CodedQuery& query, const std::byte* page,
             absl::Span<QuerySums> sums) {
  std::fill(sums.begin(), sums.end(), QuerySums{});
  for (size_t f = 0; f < fields.size(); ++f) {
    for (size_t slot = 0; slot < sums.size(); ++slot) {
      const std::byte byte =
          page[layout.KeyByte(static_cast<int>(slot), fields[f].byte)];
      const int32_t code = static_cast<int32_t>(byte) & fields[f].mask();
      for (int i = 0; i < kQueryDigits; ++i) {
        sums[slot][i] += code * query.digits[f][i];
      }
    }
  }
}

void CodedLogits(const CodedPageLayout& layout,
                 absl::Span<const CodeField> fields, const CodedQuery& query,
                 const std::byte* page, absl::Span<double> logits) {
  std::vector<QuerySums> sums(logits.size());
  SumKeys(layout, fields, query, page, absl::MakeSpan(sums));
  for (size_t slot = 0; slot < logits.size(); ++slot) {
    const auto [high, middle, low] = sums[slot];
    const int64_t sum = int64_t{65536} * high + 256 * middle + low;
    const SlotMark mark = MarkAt(layout, page, static_cast<int>(slot));
    logits[slot] = kCodeScale[mark.key_scale()] *
                   (query.unit * static_cast<double>(sum) - query.centre);
  }
}

CodedWeights CutWeights(const CodedPageLayout& layout, const std::byte* page,
                        absl::Span<const float> weights) {
  CodedWeights cut;
  double most = kLeast;
  std::vector<double> scaled(weights.size());
  for (size_t slot = 0; slot < weights.size(); ++slot) {
    const SlotMark mark = MarkAt(layout, page, static_cast<int>(slot));
    scaled[slot] = weights[slot] * kCodeScale[mark.value_scale()];
    most = std::max(most, scaled[slot]);
    cut.total += scaled[slot];
  }
  cut.unit = most / kMostOfWeight;
  for (double weight : scaled) {
    const auto n = static_cast<uint32_t>(Whole(weight / cut.unit));
    cut.digits.push_back(
        {static_cast<uint8_t>(n >> 8), static_cast<uint8_t>(n)});
  }
  return cut;
}

std::vector<int32_t> SumValues(const CodedPageLayout& layout,
                               absl::Span<const CodeField> fields,
                               const CodedWeights& weights,
                               const std::byte* page) {
  std::vector<int32_t> sums;
  for (const CodeField& field : fields) {
    int32_t high = 0, low = 0;
    for (size_t slot = 0; slot < weights.digits.size(); ++slot) {
      const std::byte byte =
          page[layout.ValueByte(static_cast<int>(slot), field.byte)];
      const int32_t code = static_cast<int32_t>(byte) & field.mask();
      high += code * weights.digits[slot][0];
      low += code * weights.digits[slot][1];
    }
    sums.push_back(256 * high + low);  // below 32 * 255 * 65536 < 2^31
  }
  return sums;
}

void AddCodedValues(const CodedPageLayout& layout,
                    absl::Span<const CodeField> fields,
                    absl::Span<const uint8_t> bits, const CodedWeights& weights,
                    const std::byte* page, absl::Span<double> output) {
  const std::vector<int32_t> sums = SumValues(layout, fields, weights, page);
  for (size_t i = 0; i < bits.size(); ++i) {
    output[i] -= ZeroOfCode(bits[i]) * weights.total;
  }
  for (size_t f = 0; f < fields.size(); ++f) {
    output[fields[f].channel] +=
        std::ldexp(weights.unit * sums[f], fields[f].low - fields[f].shift);
  }
}

}  // namespace h2o
