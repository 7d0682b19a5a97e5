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

// One request for --prompt or --tokens, or one for each line of --input.  If no
// seed is given, request i has `seed` + i.  `places` (may be null) gets the
// FILE:LINE of each request, or an empty text.
// Errors: INVALID_ARGUMENT saying which flag, or FILE:LINE, is wrong and what
// would be right; NOT_FOUND if there is no such file.
absl::StatusOr<std::vector<Request>> RequestsOf(
    const RequestFlags& flags, uint64_t seed,
    std::vector<std::string>* places = nullptr);

// One request for each line of `path` ("-": standard input) that is not blank;
// a line is a JSON object as RequestFromJson reads it (api/request_json.h).
// What a line does not say is as in `defaults`.
// Errors: as above.
absl::StatusOr<std::vector<Request>> ReadInputLines(
    const std::string& path, const Request& defaults,
    std::vector<std::string>* places = nullptr);

// What is wrong with the request at `place`.
absl::Status At(const std::string& place, const absl::Status& status);

// "2 5 9", commas allowed.  Errors: INVALID_ARGUMENT naming the word.
absl::StatusOr<std::vector<int32_t>> ParseTokenList(std::string_view text);

}  // namespace h2o
