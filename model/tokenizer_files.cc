// Chooses between the two forms in which a directory may hold a tokenizer.
#include "model/tokenizer_files.h"

#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "model/json_file.h"
#include "model/tokenizer_json.h"

namespace h2o {

absl::StatusOr<TokenizerFiles> ReadTokenizerFiles(
    const std::string& directory) {
  const std::filesystem::path root(directory);
  TokenizerFiles files;
  const std::string whole = (root / "tokenizer.json").string();
  absl::StatusOr<TokenizerJson> json = ReadTokenizerJson(whole);
  if (!absl::IsNotFound(json.status())) {
    H2O_RETURN_IF_ERROR(json.status());
    files.vocabulary_path = files.merges_path = whole;
    files.vocabulary = std::move(json->vocabulary);
    files.merges = std::move(json->merges);
    files.listed = std::move(json->tokens);
    return files;
  }
  files.vocabulary_path = (root / "vocab.json").string();
  files.merges_path = (root / "merges.txt").string();
  auto vocabulary = ReadJsonObject(files.vocabulary_path);
  auto merges = ReadWholeFile(files.merges_path);
  const bool no_vocabulary = absl::IsNotFound(vocabulary.status());
  const bool no_merges = absl::IsNotFound(merges.status());
  if (no_vocabulary && no_merges) {
    return absl::NotFoundError(
        absl::StrCat(directory,
                     " has no tokenizer: neither tokenizer.json nor vocab.json "
                     "and merges.txt"));
  }
  if (no_vocabulary || no_merges) {
    return absl::DataLossError(absl::StrCat(
        "no file ", no_merges ? files.merges_path : files.vocabulary_path,
        ", which goes with ",
        no_merges ? files.vocabulary_path : files.merges_path));
  }
  H2O_RETURN_IF_ERROR(vocabulary.status());
  H2O_RETURN_IF_ERROR(merges.status());
  files.vocabulary = *std::move(vocabulary);
  files.merges_text = *std::move(merges);
  return files;
}

}  // namespace h2o
