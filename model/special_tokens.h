// Which added tokens a model directory declares, which of them are special, and
// which tokens stand around every text: read from tokenizer_config.json,
// special_tokens_map.json and added_tokens.json as Hugging Face's transformers
// reads them for GPT-2's tokenizer.  None of these files need exist.  Only for
// the .cc files of model/.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "model/added_tokens.h"
#include "model/vocabulary.h"

namespace h2o {

// What a tokenizer.json says of them.
struct ListedTokens {
  std::string path;
  nlohmann::json added;  // [{"id": 2, "content": "</s>", ..}, ..]
  std::vector<std::string> front, back;
  std::vector<std::pair<std::string, int64_t>> ids;  // as the file has them
  bool prefix_space = false;
};

struct SpecialTokens {
  // In order; of equal contents, the last counts.
  std::vector<AddedToken> added;
  // Around every text.  Each is in `added` or in the vocabulary.
  std::vector<std::string> front, back;
  // A space before every piece of text that does not begin with one.
  bool prefix_space = false;
  // Text that spells a special token is text ("split_special_tokens").
  bool spelled_is_text = false;
};

// `listed` is null without a tokenizer.json.  With one, that file says what
// stands around a text.  Without any file, the tokens are those of OPT's
// releases.
// Errors: DATA_LOSS for a malformed file, FAILED_PRECONDITION for a token or a
// tokenizer of a kind that is not supported.
absl::StatusOr<SpecialTokens> ReadSpecialTokens(const std::string& directory,
                                                const Vocabulary& vocabulary,
                                                const ListedTokens* listed);

}  // namespace h2o
