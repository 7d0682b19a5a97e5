// Reads files and parses JSON; exceptions of nlohmann-json become statuses
// here.  Only for .cc files, to which that library is private.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace h2o {

// The whole of a plain file.
// Errors: NOT_FOUND without the file, DATA_LOSS if it cannot be read.
absl::StatusOr<std::string> ReadWholeFile(const std::string& path);

// Parses one value as Python's json module does: of a key that occurs twice,
// the last value counts; NaN and Infinity are taken, as the strings "NaN",
// "Infinity" and "-Infinity", which no reader takes for a number.
// Errors: DATA_LOSS naming `what` and the place, also for values that are
// nested too deep.
// `Json` is json, or ordered_json where the order of keys counts.
template <class Json = nlohmann::json>
absl::StatusOr<Json> ParseJson(std::string_view text, std::string_view what);

// As RFC 8259 has it: without NaN and Infinity.
absl::StatusOr<nlohmann::json> ParseStrictJson(std::string_view text,
                                               std::string_view what);

// Errors of both: also DATA_LOSS if the value is not an object.
template <class Json = nlohmann::json>
absl::StatusOr<Json> ParseJsonObject(std::string_view text,
                                     std::string_view what);
template <class Json = nlohmann::json>
absl::StatusOr<Json> ReadJsonObject(const std::string& path);

// A value for an error message: short, whatever a hostile file holds.
std::string Describe(const nlohmann::json& value);

}  // namespace h2o
