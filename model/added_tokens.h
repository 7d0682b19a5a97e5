// Added tokens: strings that are tokens wherever a text holds them, before it
// is cut into words.  special_tokens.h says which there are.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/functional/function_ref.h"

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

// Bytes of `text` that belong to no white space.
int64_t CountBytesBesideSpace(std::string_view text);

// Finds added tokens in text: the leftmost, of these the longest.
class AddedTokenFinder {
 public:
  void Add(const AddedToken& token);

  // Whether a token takes white space around it.
  bool strips() const;

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
