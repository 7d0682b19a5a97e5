// The pre-tokenizer of byte-level BPE: cuts a text into words that merges never
// cross, by the regular expression of GPT-2.
#pragma once

#include <string_view>

#include "absl/functional/function_ref.h"

namespace h2o {

// Calls fn(word) for each word of `text` in order; together they are `text`.
// REQUIRES: `text` is valid UTF-8.
void ForEachWord(std::string_view text,
                 absl::FunctionRef<void(std::string_view word)> fn);

}  // namespace h2o
