// The text that a rounding is calibrated on, as sequences of tokens.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "model/tokenizer.h"

namespace h2o {

using TokenSequences = std::vector<std::vector<int32_t>>;

// The first `tokens` tokens of a file of UTF-8 text, in sequences of at most
// `length`.  A file that holds NUL bytes is documents with one of those between
// them; without, each line is a document, and empty ones do not count.  Each
// begins with the token that begins every text, and sequences run across their
// ends.
// Errors: those of ReadWholeFile and, naming the file, of Tokenizer::Encode;
// INVALID_ARGUMENT for a file without a document.
absl::StatusOr<TokenSequences> ReadCalibrationText(const std::string& path,
                                                   const Tokenizer& tokenizer,
                                                   int64_t tokens,
                                                   int64_t length);

}  // namespace h2o
