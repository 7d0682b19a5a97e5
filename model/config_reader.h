// Reads the values of one config.json.  A ConfigReader remembers the first
// error, so a family's reader is a list of keys without a branch for each.
// Only for the .cc files of model/, like json_file.h.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/types/span.h"

namespace h2o {

class ConfigReader {
 public:
  // `values` must outlive the reader; errors begin with `what`.
  ConfigReader(const nlohmann::json& values, std::string what)
      : values_(values), what_(std::move(what)) {}

  // An integer in [low, high]; `missing` where the key is absent or null.
  void Int(const char* key, int low, int high, int missing, int* out);
  void RequiredInt(const char* key, int low, int high, int* out);
  // A token id, or a list of just one.
  void Token(const char* key, int vocab_size, int missing, int* out);
  void Bool(const char* key, bool missing, bool* out);
  // The index of a string among `allowed`.
  int Word(const char* key, absl::Span<const char* const> allowed, int missing);
  int RequiredWord(const char* key, absl::Span<const char* const> allowed);
  bool Has(const char* key) const { return Find(key) != nullptr; }

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
