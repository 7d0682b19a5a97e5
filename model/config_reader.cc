// Typed reads of config.json, each with an error that names key, value and what
// would be right.
#include "model/config_reader.h"

#include <cstdint>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/finish_reason.h"
#include "model/json_file.h"

namespace h2o {
namespace {

using nlohmann::json;

std::string IntegerFrom(int low, int high) {
  return absl::StrCat("an integer from ", low, " to ", high);
}

std::string OneOf(absl::Span<const char* const> allowed) {
  return absl::StrCat("\"", absl::StrJoin(allowed, "\" or \""), "\"");
}

}  // namespace

void ConfigReader::Int(const char* key, int low, int high, int missing,
                       int* out) {
  *out = missing;
  if (const json* value = Find(key)) ReadInt(key, *value, low, high, out);
}

void ConfigReader::RequiredInt(const char* key, int low, int high, int* out) {
  *out = low;
  const json* value = Find(key);
  if (value == nullptr) {
    Fail(absl::StrCat("\"", key, "\" is missing; it must be ",
                      IntegerFrom(low, high)));
  } else {
    ReadInt(key, *value, low, high, out);
  }
}

void ConfigReader::StopTokens(const char* key, int vocab_size,
                              std::vector<int32_t>* out) {
  const json* value = Find(key);
  if (value == nullptr) return;
  const std::vector<json> ids =
      value->is_array() ? value->get<std::vector<json>>() : std::vector{*value};
  if (ids.empty() || ids.size() > kMaxStopTokens) {
    Wrong(key, *value,
          absl::StrCat("a token id, or a list of 1 to ", kMaxStopTokens));
    return;
  }
  out->clear();
  for (const json& id : ids) {
    ReadInt(key, id, 0, vocab_size - 1, &out->emplace_back());
  }
}

void ConfigReader::Bool(const char* key, bool missing, bool* out) {
  *out = missing;
  const json* value = Find(key);
  if (value == nullptr) return;
  if (value->is_boolean()) {
    *out = value->get<bool>();
  } else {
    Wrong(key, *value, "true or false");
  }
}

int ConfigReader::Word(const char* key, absl::Span<const char* const> allowed,
                       int missing) {
  const json* value = Find(key);
  if (value == nullptr) return missing;
  for (size_t i = 0; i < allowed.size(); ++i) {
    if (*value == allowed[i]) return static_cast<int>(i);
  }
  Wrong(key, *value, OneOf(allowed));
  return missing;
}

int ConfigReader::RequiredWord(const char* key,
                               absl::Span<const char* const> allowed) {
  if (!Has(key)) {
    Fail(absl::StrCat("\"", key, "\" is missing; it must be ", OneOf(allowed)));
  }
  return Word(key, allowed, 0);
}

void ConfigReader::Words(const char* key, std::vector<std::string>* out) {
  const json* value = Find(key);
  if (value == nullptr) return;
  if (!value->is_array()) return Wrong(key, *value, "a list of strings");
  for (const json& word : *value) {
    if (!word.is_string()) return Wrong(key, word, "a list of strings");
    out->push_back(word.get<std::string>());
  }
}

const json* ConfigReader::Object(const char* key) {
  const json* value = Find(key);
  if (value == nullptr || value->is_object()) return value;
  Wrong(key, *value, "an object");
  return nullptr;
}

const json* ConfigReader::RequiredObject(const char* key) {
  if (!Has(key)) {
    Fail(absl::StrCat("\"", key, "\" is missing; it must be an object"));
  }
  return Object(key);
}

void ConfigReader::Without(const char* key) {
  const json* value = Find(key);
  if (value == nullptr || *value == false) return;
  if (value->is_structured() && value->empty()) return;
  Wrong(key, *value, "left out: it is not supported");
}

void ConfigReader::Fail(const std::string& message) {
  if (status_.ok()) {
    status_ = absl::InvalidArgumentError(absl::StrCat(what_, ": ", message));
  }
}

const json* ConfigReader::Find(const char* key) const {
  const auto it = values_.find(key);
  return it == values_.end() || it->is_null() ? nullptr : &*it;
}

void ConfigReader::ReadInt(const char* key, const json& value, int low,
                           int high, int* out) {
  // A number above 2^63 is unsigned and would wrap around as int64.
  const bool fits =
      value.is_number_integer() &&
      !(value.is_number_unsigned() && value.get<uint64_t>() > INT64_MAX);
  if (!fits || value.get<int64_t>() < low || value.get<int64_t>() > high) {
    Wrong(key, value, IntegerFrom(low, high));
    return;
  }
  *out = value.get<int>();
}

void ConfigReader::Wrong(const char* key, const json& value,
                         const std::string& right) {
  Fail(absl::StrCat("\"", key, "\" is ", Describe(value), "; it must be ",
                    right));
}

}  // namespace h2o
