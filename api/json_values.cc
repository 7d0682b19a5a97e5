// Reads the values of clients' JSON, and words what is wrong with them.
#include "api/json_values.h"

#include <cmath>
#include <limits>
#include <map>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/cut_text.h"
#include "base/status_macros.h"
#include "model/json_file.h"

namespace h2o {
namespace {

using nlohmann::json;

constexpr size_t kShownBytes = 60;  // of a value, in errors

template <typename... Parts>
absl::Status Bad(const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat(parts...));
}

}  // namespace

absl::StatusOr<json> ParseClientJson(std::string_view text) {
  // Shown as JSON, because what is not UTF-8 must not get into an error.
  const std::string beginning = Shown(json(text.substr(0, kShownBytes + 1)));
  absl::StatusOr<json> parsed = ParseStrictJson(text, beginning);
  if (!parsed.ok()) {
    return Bad("not a JSON object in UTF-8: ", parsed.status().message());
  }
  if (!parsed->is_object()) return Bad(Shown(*parsed), " is not an object");
  return parsed;
}

std::string Shown(const json& value) {
  std::string text = value.dump(-1, ' ', false, json::error_handler_t::replace);
  if (text.size() <= kShownBytes) return text;
  size_t end = kShownBytes;
  while ((text[end] & 0xc0) == 0x80) --end;  // not within a character
  return text.substr(0, end) + "...";
}

absl::Status ReadInt(const char* key, const json& value, int32_t* out) {
  constexpr int32_t kLeast = std::numeric_limits<int32_t>::min();
  constexpr int32_t kMost = std::numeric_limits<int32_t>::max();
  // The library compares unsigned numbers as signed ones.
  const bool fits = value.is_number_unsigned()
                        ? value.get<uint64_t>() <= uint64_t{kMost}
                        : value.is_number_integer() && value >= kLeast;
  if (!fits) {
    return Bad(key, " is ", Shown(value), "; it must be a whole number of 32 ",
               "bits, ", kLeast, " to ", kMost);
  }
  *out = value.get<int32_t>();
  return absl::OkStatus();
}

absl::Status ReadFloat(const char* key, const json& value, float* out) {
  if (!value.is_number()) {
    return Bad(key, " is ", Shown(value), "; it must be a number");
  }
  const double number = value.get<double>();
  if (std::abs(number) > std::numeric_limits<float>::max()) {
    return Bad(key, " is ", Shown(value), "; it must be a number of 32 bits");
  }
  *out = static_cast<float>(number);
  return absl::OkStatus();
}

absl::Status ReadString(const char* key, const json& value, std::string* out) {
  if (!value.is_string()) {
    return Bad(key, " is ", Shown(value), "; it must be a string");
  }
  *out = value.get<std::string>();
  return absl::OkStatus();
}

absl::Status ReadBool(const char* key, const json& value, bool* out) {
  if (!value.is_boolean()) {
    return Bad(key, " is ", Shown(value), "; it must be true or false");
  }
  *out = value.get<bool>();
  return absl::OkStatus();
}

absl::Status ReadTokens(const char* key, const json& value,
                        std::vector<int32_t>* out) {
  if (!value.is_array()) {
    return Bad(key, " is ", Shown(value), "; it must be a list of token ids");
  }
  out->clear();
  for (const json& id : value) {
    H2O_RETURN_IF_ERROR(ReadInt(key, id, &out->emplace_back()));
  }
  return absl::OkStatus();
}

absl::Status ReadStrings(const char* key, const json& value,
                         std::vector<std::string>* out) {
  if (!value.is_string() && !value.is_array()) {
    return Bad(key, " is ", Shown(value),
               "; it must be a string or a list of strings");
  }
  out->clear();
  if (value.is_string()) return ReadString(key, value, &out->emplace_back());
  for (const json& text : value) {
    H2O_RETURN_IF_ERROR(ReadString(key, text, &out->emplace_back()));
  }
  return absl::OkStatus();
}

absl::Status ReadLogitBias(const json& value, std::vector<LogitBias>* out) {
  if (!value.is_object()) {
    return Bad("logit_bias is ", Shown(value),
               "; it must be an object {\"token id\": bias}");
  }
  std::map<int32_t, float> biases;  // "5" and "05" are one token
  for (const auto& [key, number] : value.items()) {
    int32_t token = 0;
    if (!absl::SimpleAtoi(key, &token)) {
      return Bad("logit_bias names '", CutText(key),
                 "'; it must be a token id");
    }
    H2O_RETURN_IF_ERROR(ReadFloat("logit_bias", number, &biases[token]));
  }
  out->clear();
  for (const auto& [token, bias] : biases) out->push_back({token, bias});
  return absl::OkStatus();
}

}  // namespace h2o
