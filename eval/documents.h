// The text that a cache is measured on, as sequences of tokens.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "model/tokenizer.h"

namespace h2o {

using TokenRows = std::vector<std::vector<int32_t>>;

// The documents of a text: separated by NUL bytes if there is one, else by
// lines that are blank.  None of them is blank.
std::vector<std::string_view> SplitDocuments(std::string_view text);

// The first `most` documents of a file of UTF-8 text that have at least
// `length` tokens, cut to that.  If none has, the whole text is one, and is cut
// into windows of so many tokens.  Each begins with the tokens that begin every
// text, which count.
// Errors: those of ReadWholeFile; INVALID_ARGUMENT naming the file for a text
// that is no UTF-8, or has fewer tokens.
absl::StatusOr<TokenRows> ReadDocuments(const std::string& path,
                                        const Tokenizer& tokenizer, int most,
                                        int length);

}  // namespace h2o
