// The files of a directory that make a tokenizer: tokenizer.json, or vocab.json
// and merges.txt.  Only for the .cc files of model/.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "model/special_tokens.h"

namespace h2o {

struct TokenizerFiles {
  std::string vocabulary_path, merges_path;
  nlohmann::json vocabulary;           // {token: id}, not yet checked
  std::string merges_text;             // of merges.txt
  nlohmann::json merges;               // of tokenizer.json
  std::optional<ListedTokens> listed;  // likewise
};

// tokenizer.json counts if it is there, as for Hugging Face.
// Errors: NOT_FOUND if the directory has no tokenizer, DATA_LOSS if a file is
// missing or malformed, FAILED_PRECONDITION for a tokenizer of a kind that is
// not supported.
absl::StatusOr<TokenizerFiles> ReadTokenizerFiles(const std::string& directory);

}  // namespace h2o
