// Reads the values of one config.json.  A ConfigReader remembers the first
// error, so a family's reader is a list of keys without a branch for each.
// Only for the .cc files of model/, like json_file.h.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"

namespace h2o {

class ConfigReader {
 public:
  // `values` must outlive the reader; errors begin with `what`.
  ConfigReader(const nlohmann::json& values, std::string what)
      : values_(values), what_(std::move(what)) {}

  // A key that is absent or null has the value `missing`, or leaves `out` as it
  // is.

  // An integer in [low, high].
  void Int(const char* key, int low, int high, int missing, int* out);
  void RequiredInt(const char* key, int low, int high, int* out);
  // The tokens that end a text: an id, or a list of 1 to kMaxStopTokens ids.
  void StopTokens(const char* key, int vocab_size, std::vector<int32_t>* out);
  void Bool(const char* key, bool missing, bool* out);
  // The index of a string among `allowed`.
  int Word(const char* key, absl::Span<const char* const> allowed, int missing);
  int RequiredWord(const char* key, absl::Span<const char* const> allowed);
  bool Has(const char* key) const { return Find(key) != nullptr; }
  // A list of strings.
  void Words(const char* key, std::vector<std::string>* out);
  // An object; null where there is none, or after an error.
  const nlohmann::json* Object(const char* key);
  const nlohmann::json* RequiredObject(const char* key);
  // What is not supported: the key must be absent, null, false or empty.
  void Without(const char* key);

  // INVALID_ARGUMENT, unless there was an error before.
  void Fail(const std::string& message);
  const absl::Status& status() const { return status_; }

 private:
  // Null where the key is absent or null.
  const nlohmann::json* Find(const char* key) const;
  void ReadInt(const char* key, const nlohmann::json& value, int low, int high,
               int* out);
  void Wrong(const char* key, const nlohmann::json& value,
             const std::string& right);

  const nlohmann::json& values_;
  const std::string what_;
  absl::Status status_;
};

}  // namespace h2o
