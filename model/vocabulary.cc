// Reads a vocabulary out of JSON and checks its ids.
#include "model/vocabulary.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "model/json_file.h"

namespace h2o {

using nlohmann::json;

absl::StatusOr<Vocabulary> ParseVocabulary(const json& values,
                                           const std::string& place,
                                           int vocab_size) {
  const auto malformed = [&](const auto&... what) {
    return absl::DataLossError(absl::StrCat(place, ": ", what...));
  };
  if (!values.is_object()) {
    return malformed("the vocabulary is ", Describe(values),
                     "; it must be an object of tokens and their ids");
  }
  Vocabulary vocabulary;
  std::vector<const std::string*> owner(vocab_size, nullptr);
  for (const auto& [token, value] : values.items()) {
    if (!value.is_number_unsigned()) {
      return malformed("token ", Describe(json(token)), " has the id ",
                       Describe(value), "; it must be an integer from 0 on");
    }
    const uint64_t id = value.get<uint64_t>();
    if (id >= static_cast<uint64_t>(vocab_size)) {
      return absl::FailedPreconditionError(absl::StrCat(
          place, ": token ", Describe(json(token)), " has the id ", id,
          "; it must be below the model's vocab_size, ", vocab_size));
    }
    if (token.empty()) {
      return malformed("the token of id ", id,
                       " is empty; it must have a text");
    }
    if (owner[id] != nullptr) {
      return malformed("tokens ", Describe(json(*owner[id])), " and ",
                       Describe(json(token)), " have the same id ", id);
    }
    owner[id] = &token;
    vocabulary.emplace(token, static_cast<int32_t>(id));
  }
  return vocabulary;
}

}  // namespace h2o
