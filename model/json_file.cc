// Reads files and parses JSON with limits on size, depth and repeated keys.
#include "model/json_file.h"

#include <filesystem>
#include <fstream>
#include <set>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"

namespace h2o {
namespace {

using nlohmann::json;

// Deeper than any file we read; nlohmann's printer recurses, so a limit is due.
constexpr int kMaxDepth = 32;

// Larger than any of them; a sparse file may claim to be terabytes.
constexpr uint64_t kMaxFileBytes = 100'000'000;

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

absl::StatusOr<json> ParseJsonObject(std::string_view text,
                                     std::string_view what) {
  const std::string name(what);
  std::set<std::string> keys;
  std::string twice;
  bool too_deep = false;
  const auto watch = [&](int depth, json::parse_event_t event, json& parsed) {
    if (event == json::parse_event_t::key && depth == 1) {
      const auto& key = parsed.get_ref<const std::string&>();
      if (!keys.insert(key).second && twice.empty()) twice = Describe(parsed);
    }
    too_deep = too_deep || depth > kMaxDepth;
    return depth <= kMaxDepth;  // false: what is below is dropped
  };
  json value;
  try {
    value = json::parse(text.begin(), text.end(), watch);
  } catch (const json::exception& error) {
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
  if (!value.is_object()) {
    return absl::DataLossError(
        absl::StrCat(name, " must hold a JSON object, not ", Describe(value)));
  }
  if (!twice.empty()) {
    return absl::DataLossError(
        absl::StrCat(name, " has the key ", twice, " twice"));
  }
  return value;
}

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
