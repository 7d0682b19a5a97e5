// Reads files and parses JSON; exceptions of nlohmann-json become statuses
// here. Only for the .cc files of model/, to which that library is private.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace h2o {

// The whole of a plain file.
// Errors: NOT_FOUND without the file, DATA_LOSS if it cannot be read.
absl::StatusOr<std::string> ReadWholeFile(const std::string& path);

// Parses an object.  Errors: DATA_LOSS naming `what` and the place, also for a
// key that occurs twice and for values that are nested too deep.
absl::StatusOr<nlohmann::json> ParseJsonObject(std::string_view text,
                                               std::string_view what);

// A value for an error message: short, whatever a hostile file holds.
std::string Describe(const nlohmann::json& value);

}  // namespace h2o
