// The prompts of a command, from flags or from a file of JSON lines.  All are
// checked before the first one runs.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "api/request.h"
#include "flags/flags.h"

namespace h2o {

struct Prompt {
  Request request;
  std::string place;   // FILE:LINE; empty: it is of --prompt or --tokens
  std::string others;  // keys of the line that are no options, as a JSON
                       // object; empty: none
};

// One prompt of --prompt or --tokens, or one for each line of --input.  If no
// seed is given, prompt i has `seed` + i.
// Errors: INVALID_ARGUMENT saying which flag, or FILE:LINE, is wrong and what
// would be right; NOT_FOUND if there is no such file.
absl::StatusOr<std::vector<Prompt>> PromptsOf(const RequestFlags& flags,
                                              uint64_t seed);

// One prompt for each line of `path` ("-": standard input) that is not blank; a
// line is a JSON object as RequestFromJson reads it (api/request_json.h).
// What a line does not say is as in `defaults`.
// Errors: as above.
absl::StatusOr<std::vector<Prompt>> ReadInputLines(const std::string& path,
                                                   const Request& defaults);

// What is wrong with the request at `place`.
absl::Status At(const std::string& place, const absl::Status& status);

// "2 5 9", commas allowed.  Errors: INVALID_ARGUMENT naming the word.
absl::StatusOr<std::vector<int32_t>> ParseTokenList(std::string_view text);

}  // namespace h2o
