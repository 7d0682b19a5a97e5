// Parses a template.
#pragma once

#include <string_view>

#include "absl/status/statusor.h"
#include "chat/jinja/tree.h"

namespace h2o::jinja {

inline constexpr int kMaxExpressionDepth = 100;
inline constexpr int kMaxBlockDepth = 50;
inline constexpr size_t kMaxTemplateBytes = 1 << 20;

// Errors: INVALID_ARGUMENT with the line, for what is malformed and, by its
// name, for what is not supported.
absl::StatusOr<Tree> Parse(std::string_view source);

}  // namespace h2o::jinja
