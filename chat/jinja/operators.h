// Python's operators.  Errors are INVALID_ARGUMENT: kinds that do not go
// together, division by zero, integers of more than 64 bits, and Work's.
#pragma once

#include <cstdint>
#include <string_view>

#include "absl/status/statusor.h"
#include "chat/jinja/value.h"
#include "chat/jinja/work.h"

namespace h2o::jinja {

enum class Operator {
  kAdd,
  kSubtract,
  kMultiply,
  kDivide,
  kFloorDivide,
  kModulo,
  kPower,
};

enum class Comparison {
  kEqual,
  kNotEqual,
  kLess,
  kLessOrEqual,
  kGreater,
  kGreaterOrEqual,
  kIn,
  kNotIn,
};

absl::StatusOr<Value> Compute(Work& work, Operator op, const Value& a,
                              const Value& b);
absl::StatusOr<Value> Negate(const Value& value);

absl::StatusOr<bool> Compare(Work& work, Comparison comparison, const Value& a,
                             const Value& b);

// `item in container`.
absl::StatusOr<bool> Contains(Work& work, const Value& container,
                              const Value& item);

// value[begin:end:step]; none or undefined: not given.
absl::StatusOr<Value> Slice(Work& work, const Value& value, const Value& begin,
                            const Value& end, const Value& step);

// str.replace(from, to, most), all of them if `most` is negative.
absl::StatusOr<Value> ReplaceParts(Work& work, std::string_view text,
                                   std::string_view from, std::string_view to,
                                   int64_t most);

}  // namespace h2o::jinja
