// The JSON form of a request, and the options that are both keys of that form
// and flags of commands.  Each option is one row of one table: its name, its
// flag's help and the function that reads it.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "api/request.h"

namespace h2o {

// A request that is written as one JSON object: {"prompt": ".."} or
// {"tokens": [..]} with any of RequestKeys().  What the object does not say is
// as in `defaults`.  The caller has CheckRequest look at the result.
// `others` gets the remaining keys as a JSON object, or an empty text if there
// are none; where it is null, they are refused.  A key that is nearly one of
// RequestKeys() is refused in any case: it is a slip of the pen.
// Errors: INVALID_ARGUMENT naming the key, its value and what would be right.
absl::StatusOr<Request> RequestFromJson(std::string_view text,
                                        const Request& defaults,
                                        std::string* others = nullptr);

// "max_tokens, kv_policy, ..": the keys beside prompt and tokens.
std::string RequestKeys();

// An option that is a flag too: --max-tokens for the key max_tokens.
struct RequestFlag {
  enum class Takes { kNumber, kTexts, kNothing };
  std::string key;
  std::string flag;  // with its dashes
  Takes takes;
  std::string placeholder;    // of the value in the help: "N"
  std::string shown_default;  // in the help; empty: not shown
  std::string help;
};
std::vector<RequestFlag> FlagsOfRequests();

// Sets the option from the texts given on a command line: one number, any
// number of texts, or nothing.  Errors: as RequestFromJson.
absl::Status SetFromFlag(const RequestFlag& flag,
                         absl::Span<const std::string> texts, Request* request);

}  // namespace h2o
