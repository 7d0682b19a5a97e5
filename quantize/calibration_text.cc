// Cuts a file into documents, and their tokens into sequences.
#include "quantize/calibration_text.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/status_macros.h"
#include "model/json_file.h"

namespace h2o {

absl::StatusOr<TokenSequences> ReadCalibrationText(const std::string& path,
                                                   const Tokenizer& tokenizer,
                                                   int64_t tokens,
                                                   int64_t length) {
  H2O_ASSIGN_OR_RETURN(const std::string text, ReadWholeFile(path));
  const char end = text.find('\0') != std::string::npos ? '\0' : '\n';
  TokenSequences sequences;
  int64_t taken = 0;
  for (const absl::string_view document :
       absl::StrSplit(text, end, absl::SkipWhitespace())) {
    if (taken == tokens) break;
    const auto ids = tokenizer.Encode({document.data(), document.size()});
    if (!ids.ok()) {
      return absl::Status(ids.status().code(),
                          absl::StrCat(path, ": ", ids.status().message()));
    }
    for (const int32_t id : *ids) {
      if (taken == tokens) break;
      if (taken++ % length == 0) sequences.emplace_back();
      sequences.back().push_back(id);
    }
  }
  if (sequences.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " holds no text to calibrate on: it has ",
                     text.size(), " bytes, none of which is in a document"));
  }
  return sequences;
}

}  // namespace h2o
