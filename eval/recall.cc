// Reads texts with facts and counts those that were recalled.
#include "eval/recall.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/status_macros.h"
#include "model/json_file.h"

namespace h2o {
namespace {

using nlohmann::json;

// Numbers from `least` to below `end`; false if there is another value.
bool ReadNumbers(const json& values, int64_t least, int64_t end,
                 std::vector<int32_t>* numbers) {
  if (!values.is_array() || values.empty()) return false;
  for (const json& value : values) {
    if (!value.is_number_integer()) return false;
    const auto number = value.get<int64_t>();
    if (number < least || number >= end) return false;
    numbers->push_back(static_cast<int32_t>(number));
  }
  return true;
}

absl::StatusOr<RecallText> ReadLine(const json& line) {
  RecallText text;
  if (!line.contains("tokens") ||
      !ReadNumbers(line["tokens"], 0, INT32_MAX, &text.tokens)) {
    return absl::InvalidArgumentError("\"tokens\" must be token ids");
  }
  if (!line.contains("answers") || !line["answers"].is_array()) {
    return absl::InvalidArgumentError("\"answers\" must be lists of positions");
  }
  const auto count = static_cast<int64_t>(text.tokens.size());
  for (const json& answer : line["answers"]) {
    if (!ReadNumbers(answer, 1, count, &text.answers.emplace_back())) {
      return absl::InvalidArgumentError(
          absl::StrCat("an answer is ", answer.dump().substr(0, 60),
                       "; it must list positions from 1 to ", count - 1));
    }
  }
  return text;
}

}  // namespace

absl::StatusOr<std::vector<RecallText>> ReadRecallTexts(
    const std::string& path) {
  H2O_ASSIGN_OR_RETURN(const std::string content, ReadWholeFile(path));
  std::vector<RecallText> texts;
  int number = 0;
  for (const absl::string_view line : absl::StrSplit(content, '\n')) {
    ++number;
    if (line.find_first_not_of(" \r\t") == absl::string_view::npos) continue;
    const std::string place = absl::StrCat(path, ":", number);
    const auto value = ParseJsonObject({line.data(), line.size()}, place);
    if (!value.ok()) {
      return absl::InvalidArgumentError(value.status().message());
    }
    absl::StatusOr<RecallText> text = ReadLine(*value);
    if (!text.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat(place, ": ", text.status().message()));
    }
    texts.push_back(*std::move(text));
  }
  if (texts.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(path, " has no line"));
  }
  return texts;
}

int64_t RightAnswers(const RecallText& text,
                     const std::vector<int32_t>& likeliest) {
  return std::count_if(
      text.answers.begin(), text.answers.end(), [&](const auto& answer) {
        return std::all_of(answer.begin(), answer.end(), [&](int32_t p) {
          return likeliest[p] == text.tokens[p];
        });
      });
}

}  // namespace h2o
