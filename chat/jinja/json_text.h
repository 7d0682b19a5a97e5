// Values as JSON text: Python's json.dumps.
#pragma once

#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "chat/jinja/value.h"
#include "chat/jinja/work.h"

namespace h2o::jinja {

struct JsonStyle {
  bool ascii = false;                 // escape all other characters
  std::optional<std::string> indent;  // none: one line
  std::string between_items, behind_key;
  bool sort_keys = false;
};

// From the arguments of `tojson`; undefined: Python's default.
// Errors: INVALID_ARGUMENT for arguments of another kind.
absl::StatusOr<JsonStyle> MakeJsonStyle(const Value& ascii, const Value& indent,
                                        const Value& separators,
                                        const Value& sort_keys);

// Errors: INVALID_ARGUMENT for a value that JSON lacks, and Work's.
absl::StatusOr<std::string> JsonText(Work& work, const Value& value,
                                     const JsonStyle& style);

}  // namespace h2o::jinja
