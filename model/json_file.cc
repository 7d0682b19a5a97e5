// Reads files and parses JSON with limits on size and depth.
#include "model/json_file.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace h2o {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

// Deeper than any file we read; nlohmann's printer recurses, so a limit is due.
constexpr int kMaxDepth = 32;

// Larger than any of them; a sparse file may claim to be terabytes.
constexpr uint64_t kMaxFileBytes = 100'000'000;

// `text` with the numbers that Python writes and JSON lacks as strings; empty
// if it has none.
std::string QuoteNonFinite(std::string_view text) {
  constexpr std::string_view kWords[] = {"-Infinity", "Infinity", "NaN"};
  if (text.find("Infinity") == std::string_view::npos &&
      text.find("NaN") == std::string_view::npos) {
    return {};
  }
  std::string quoted;
  bool in_string = false;
  for (size_t i = 0; i < text.size();) {
    size_t length = 1;
    bool is_word = false;
    if (in_string && text[i] == '\\') {
      length = std::min<size_t>(2, text.size() - i);
    } else if (text[i] == '"') {
      in_string = !in_string;
    } else if (!in_string) {
      for (std::string_view word : kWords) {
        if (is_word || !text.substr(i).starts_with(word)) continue;
        is_word = true;
        length = word.size();
      }
    }
    if (is_word) quoted += '"';
    quoted += text.substr(i, length);
    if (is_word) quoted += '"';
    i += length;
  }
  return quoted;
}

template <class Json>
absl::StatusOr<Json> Parse(std::string_view text, std::string_view what) {
  const std::string name(what);
  bool too_deep = false;
  const auto watch = [&](int depth, typename Json::parse_event_t, Json&) {
    too_deep = too_deep || depth > kMaxDepth;
    return depth <= kMaxDepth;  // false: what is below is dropped
  };
  Json value;
  try {
    value = Json::parse(text.begin(), text.end(), watch);
  } catch (const typename Json::exception& error) {
    // The library quotes the place; some of its messages quote raw bytes too.
    std::string why = error.what();
    if (why.size() > 200) why = why.substr(0, 200) + "...";
    for (char& c : why) {
      if (c < 0x20 || c > 0x7e) c = '?';
    }
    return absl::DataLossError(absl::StrCat(name, " is not JSON: ", why));
  }
  if (too_deep) {
    return absl::DataLossError(
        absl::StrCat(name, " is nested deeper than ", kMaxDepth, " levels"));
  }
  return value;
}

}  // namespace

absl::StatusOr<std::string> ReadWholeFile(const std::string& path) {
  std::error_code error;
  const auto status = std::filesystem::status(path, error);
  if (!std::filesystem::exists(status)) {
    return absl::NotFoundError(absl::StrCat("no file ", path));
  }
  if (!std::filesystem::is_regular_file(status)) {
    return absl::DataLossError(absl::StrCat(path, " is not a plain file"));
  }
  const auto size_bytes = std::filesystem::file_size(path, error);
  std::ifstream file(path, std::ios::binary);
  if (error || !file) {
    return absl::DataLossError(absl::StrCat(path, " cannot be read"));
  }
  if (size_bytes > kMaxFileBytes) {
    return absl::DataLossError(absl::StrCat(path, " has ", size_bytes,
                                            " bytes; at most ", kMaxFileBytes,
                                            " are right for what it is"));
  }
  std::string text(size_bytes, '\0');
  file.read(text.data(), static_cast<std::streamsize>(size_bytes));
  if (static_cast<uint64_t>(file.gcount()) != size_bytes) {
    return absl::DataLossError(absl::StrCat(path, " shrank while it was read"));
  }
  return text;
}

template <class Json>
absl::StatusOr<Json> ParseJson(std::string_view text, std::string_view what) {
  const std::string quoted = QuoteNonFinite(text);
  return Parse<Json>(quoted.empty() ? text : quoted, what);
}

absl::StatusOr<json> ParseStrictJson(std::string_view text,
                                     std::string_view what) {
  return Parse<json>(text, what);
}

template <class Json>
absl::StatusOr<Json> ParseJsonObject(std::string_view text,
                                     std::string_view what) {
  H2O_ASSIGN_OR_RETURN(Json value, ParseJson<Json>(text, what));
  if (value.is_object()) return value;
  return absl::DataLossError(absl::StrCat(
      std::string(what), " must hold a JSON object, not ", Describe(value)));
}

template <class Json>
absl::StatusOr<Json> ReadJsonObject(const std::string& path) {
  H2O_ASSIGN_OR_RETURN(const std::string text, ReadWholeFile(path));
  return ParseJsonObject<Json>(text, path);
}

template absl::StatusOr<json> ParseJson(std::string_view, std::string_view);
template absl::StatusOr<json> ParseJsonObject(std::string_view,
                                              std::string_view);
template absl::StatusOr<json> ReadJsonObject(const std::string&);
template absl::StatusOr<ordered_json> ReadJsonObject(const std::string&);

std::string Describe(const json& value) {
  if (value.is_object()) return "an object";
  if (value.is_array()) {
    return absl::StrCat("an array of ", value.size(), " values");
  }
  std::string text = value.dump(-1, ' ', /*ensure_ascii=*/true,
                                json::error_handler_t::replace);
  if (text.size() > 60) text = text.substr(0, 60) + "...";
  return text;
}

}  // namespace h2o
