// The vocabulary of a byte-level tokenizer: its tokens, written in GPT-2's
// alphabet (byte_alphabet.h), and their ids.  Only for the .cc files of model/.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"

namespace h2o {

using Vocabulary = absl::flat_hash_map<std::string, int32_t>;  // token -> id

// From {token: id}.  Errors begin with `place`: DATA_LOSS for a malformed entry
// or an id that two tokens have, FAILED_PRECONDITION for an id that is not
// below `vocab_size`.
absl::StatusOr<Vocabulary> ParseVocabulary(const nlohmann::json& values,
                                           const std::string& place,
                                           int vocab_size);

}  // namespace h2o
