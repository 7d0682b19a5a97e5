// Added tokens: strings that are tokens wherever a text holds them, before it
// is cut into words.  Which there are is read as Hugging Face's `tokenizers`
// reads tokenizer_config.json and special_tokens_map.json.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"

namespace h2o {

struct AddedToken {
  std::string content;
  bool lstrip = false;  // takes the white space before it, after it
  bool rstrip = false;
  bool normalized = false;  // looked for after those that are not
  bool special = true;
  int32_t id = -1;
  friend bool operator==(const AddedToken&, const AddedToken&) = default;
};

struct SpecialTokens {
  std::vector<AddedToken>
      added;          // in order; of equal contents, the last counts
  std::string front;  // the token that begins every text
};

// Without `has_pad` the vocabulary has no "<pad>".  Neither file need exist.
// Errors: DATA_LOSS for a malformed file, FAILED_PRECONDITION for a token of a
// kind that is not supported.
absl::StatusOr<SpecialTokens> ReadSpecialTokens(const std::string& directory,
                                                bool has_pad);

// Finds added tokens in text: the leftmost, of these the longest.
class AddedTokenFinder {
 public:
  void Add(const AddedToken& token);

  // Calls on_text(piece) and on_token(id), in order; no piece is empty.
  void Split(std::string_view text,
             absl::FunctionRef<void(std::string_view piece)> on_text,
             absl::FunctionRef<void(int32_t id)> on_token) const;

 private:
  const AddedToken* At(std::string_view text) const;

  std::vector<AddedToken> tokens_;  // the longest first
  std::array<bool, 256> may_begin_{};
};

}  // namespace h2o
