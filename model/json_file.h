// Files as strings and strings as JSON: nlohmann-json's exceptions end here.
// Only for the .cc files of model/; its library is private to them.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace h2o {

// The whole of a plain file.
// Errors: NOT_FOUND without the file, DATA_LOSS if it cannot be read.
absl::StatusOr<std::string> ReadWholeFile(const std::string& path);

// An object, in which no key occurs twice and nothing is nested absurdly deep.
// Errors: DATA_LOSS naming `what` and the place.
absl::StatusOr<nlohmann::json> ParseJsonObject(std::string_view text,
                                               std::string_view what);

// A value for an error message: short, whatever a hostile file holds.
std::string Describe(const nlohmann::json& value);

}  // namespace h2o
