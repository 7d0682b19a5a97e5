// Facts that a text states early and asks for late: what a cache must not
// forget.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace h2o {

// A text with facts.  An answer is the positions of a fact's tokens; each is to
// be predicted from the tokens before it.
struct RecallText {
  std::vector<int32_t> tokens;
  std::vector<std::vector<int32_t>> answers;
};

// JSON lines {"tokens": [..], "answers": [[..], ..]}.
// Errors: those of ReadWholeFile; INVALID_ARGUMENT naming file and line for
// what is no such line, and for positions that have no token or none before
// them.
absl::StatusOr<std::vector<RecallText>> ReadRecallTexts(
    const std::string& path);

// How many answers are right of a text whose likeliest tokens are `likeliest`:
// likeliest[p] is what was predicted for position p.
int64_t RightAnswers(const RecallText& text,
                     const std::vector<int32_t>& likeliest);

}  // namespace h2o
