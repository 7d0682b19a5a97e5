// Splits a text into documents, or cuts it into windows.
#include "eval/documents.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "model/json_file.h"

namespace h2o {
namespace {

constexpr std::string_view kBlanks = " \t\r\n\v\f";

bool IsBlank(std::string_view text) {
  return text.find_first_not_of(kBlanks) == std::string_view::npos;
}

// Calls fn(part) for each part of `text` that is no longer than to `end`.
template <class Fn>
void ForEachPart(std::string_view text, char end, Fn&& fn) {
  while (!text.empty()) {
    const size_t size = std::min(text.find(end), text.size());
    fn(text.substr(0, size));
    text.remove_prefix(std::min(size + 1, text.size()));
  }
}

// From the start of the first line of a run that is not blank to its end.
std::vector<std::string_view> SplitAtBlankLines(std::string_view text) {
  std::vector<std::string_view> documents;
  std::string_view document;  // that is being read
  ForEachPart(text, '\n', [&](std::string_view line) {
    if (IsBlank(line)) {
      if (!document.empty()) documents.push_back(document);
      document = {};
    } else if (document.empty()) {
      document = line;
    } else {
      document = {
          document.data(),
          static_cast<size_t>(line.data() - document.data()) + line.size()};
    }
  });
  if (!document.empty()) documents.push_back(document);
  return documents;
}

absl::StatusOr<std::vector<int32_t>> Encode(const std::string& path,
                                            const Tokenizer& tokenizer,
                                            std::string_view text) {
  auto ids = tokenizer.Encode(text);
  if (ids.ok()) return ids;
  return absl::Status(ids.status().code(),
                      absl::StrCat(path, ": ", ids.status().message()));
}

// Windows of `length` tokens, each behind those that begin every text.
absl::StatusOr<TokenRows> CutWindows(const std::string& path,
                                     const Tokenizer& tokenizer,
                                     const std::string& text, int most,
                                     int length) {
  H2O_ASSIGN_OR_RETURN(const auto start, Encode(path, tokenizer, ""));
  H2O_ASSIGN_OR_RETURN(const auto ids, Encode(path, tokenizer, text));
  const size_t step = length - start.size();
  TokenRows windows;
  for (size_t at = start.size();
       at + step <= ids.size() && windows.size() < static_cast<size_t>(most);
       at += step) {
    windows.push_back(start);
    windows.back().insert(windows.back().end(), ids.begin() + at,
                          ids.begin() + at + step);
  }
  if (windows.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " has ", ids.size(), " tokens; ", length,
                     " are needed (prompt and decoded tokens)"));
  }
  return windows;
}

}  // namespace

std::vector<std::string_view> SplitDocuments(std::string_view text) {
  if (text.find('\0') == std::string_view::npos) return SplitAtBlankLines(text);
  std::vector<std::string_view> documents;
  ForEachPart(text, '\0', [&](std::string_view document) {
    if (!IsBlank(document)) documents.push_back(document);
  });
  return documents;
}

absl::StatusOr<TokenRows> ReadDocuments(const std::string& path,
                                        const Tokenizer& tokenizer, int most,
                                        int length) {
  H2O_ASSIGN_OR_RETURN(const std::string text, ReadWholeFile(path));
  TokenRows rows;
  for (const std::string_view document : SplitDocuments(text)) {
    if (rows.size() == static_cast<size_t>(most)) break;
    H2O_ASSIGN_OR_RETURN(auto ids, Encode(path, tokenizer, document));
    if (ids.size() < static_cast<size_t>(length)) continue;
    ids.resize(length);
    rows.push_back(std::move(ids));
  }
  if (!rows.empty()) return rows;
  return CutWindows(path, tokenizer, text, most, length);
}

}  // namespace h2o
