// Reads values of JSON that clients send.  Only for .cc files, to which the
// library is private.
//
// Errors (all): INVALID_ARGUMENT naming the key, its value and what would be
// right.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/sampling.h"

namespace h2o {

// Parses an object as RFC 8259 has it, in UTF-8; of a key that occurs twice,
// the last value counts.  Errors: also for values that are nested too deep.
absl::StatusOr<nlohmann::json> ParseClientJson(std::string_view text);

// The value as JSON for an error message, cut if it is long.
std::string Shown(const nlohmann::json& value);

absl::Status ReadInt(const char* key, const nlohmann::json& value,
                     int32_t* out);
absl::Status ReadFloat(const char* key, const nlohmann::json& value,
                       float* out);
absl::Status ReadString(const char* key, const nlohmann::json& value,
                        std::string* out);
absl::Status ReadBool(const char* key, const nlohmann::json& value, bool* out);
absl::Status ReadTokens(const char* key, const nlohmann::json& value,
                        std::vector<int32_t>* out);
// A string or a list of strings.
absl::Status ReadStrings(const char* key, const nlohmann::json& value,
                         std::vector<std::string>* out);
// {"token id": bias}, as OpenAI's API has it.
absl::Status ReadLogitBias(const nlohmann::json& value,
                           std::vector<LogitBias>* out);

}  // namespace h2o
