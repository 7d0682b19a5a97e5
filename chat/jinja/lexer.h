// Cuts the text of a template into tokens, with white space around blocks taken
// away as transformers sets it: trim_blocks and lstrip_blocks.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace h2o::jinja {

struct Token {
  enum class Kind {
    kData,        // text outside of all blocks
    kPrintBegin,  // {{
    kPrintEnd,
    kBlockBegin,  // {%
    kBlockEnd,
    kName,
    kText,  // in quotes
    kInteger,
    kFloat,
    kSign,  // an operator or a bracket
    kEnd,   // of the template
  };
  Kind kind = Kind::kEnd;
  int line = 1;
  std::string text;  // of a kText, without quotes and escapes
  int64_t integer = 0;
  double number = 0;
};

// Errors: INVALID_ARGUMENT naming the line.
absl::StatusOr<std::vector<Token>> Tokenize(std::string_view source);

}  // namespace h2o::jinja
