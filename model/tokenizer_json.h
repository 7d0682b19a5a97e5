// Reads tokenizer.json, in which Hugging Face's `tokenizers` keeps a whole
// tokenizer: byte-level BPE as in GPT-2.  Only for the .cc files of model/.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "absl/status/statusor.h"
#include "model/special_tokens.h"

namespace h2o {

struct TokenizerJson {
  nlohmann::json vocabulary;  // {token: id}, not yet checked
  nlohmann::json merges;      // a list, not yet checked
  ListedTokens tokens;
};

// Errors: NOT_FOUND without the file, DATA_LOSS for a malformed one,
// FAILED_PRECONDITION naming a part that byte-level BPE as in GPT-2 has not
// (another model, a normalizer, another way to cut words, ...).
absl::StatusOr<TokenizerJson> ReadTokenizerJson(const std::string& path);

}  // namespace h2o
