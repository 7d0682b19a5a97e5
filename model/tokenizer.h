// Byte-level BPE (Sennrich et al. 2016, as in GPT-2) from the vocab.json,
// merges.txt and tokenizer_config.json of a Hugging Face directory.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace h2o {

class TokenizerImpl;

// Threads  const methods may be called by any thread.
class Tokenizer {
 public:
  // Errors: NOT_FOUND naming a missing file, DATA_LOSS for a malformed one,
  // FAILED_PRECONDITION if an id is not below `vocab_size`.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Load(
      const std::string& directory, int vocab_size);
  ~Tokenizer();

  // The token that begins every text (OPT: `</s>`), then those of `text`.  Text
  // that spells an added token becomes that token, as in Hugging Face.  Errors:
  // INVALID_ARGUMENT if not UTF-8, with the offset of the first bad byte.
  // Without `add_special_tokens` nothing is put around the text.
  absl::StatusOr<std::vector<int32_t>> Encode(
      std::string_view text, bool add_special_tokens = true) const;

  // A lower bound of the tokens that `text` becomes, told from its length: no
  // token stands for more bytes than the longest.
  int64_t LeastTokens(std::string_view text) const;

  // The most bytes of a text of `tokens` tokens; nothing if there is a token
  // that takes any number of spaces around it.
  std::optional<int64_t> MostBytes(int64_t tokens) const;

  // The bytes that ids stand for; invalid UTF-8 is replaced by U+FFFD exactly
  // as Hugging Face's decode does.  Special tokens are left out if asked.  Ids
  // without a token (padding rows of the embedding) decode to nothing.
  std::string Decode(absl::Span<const int32_t> ids,
                     bool skip_special_tokens) const;

  // Raw bytes of one token; empty for special tokens and ids without one.
  std::string_view TokenBytes(int32_t id) const;
  bool IsSpecial(int32_t id) const;

 private:
  explicit Tokenizer(std::unique_ptr<TokenizerImpl> impl);
  std::unique_ptr<TokenizerImpl> impl_;
};

// Turns a stream of tokens into a stream of text that never splits a UTF-8
// character: bytes of an unfinished character wait for the next token.  The
// concatenation of all pieces and Finish() equals Decode() of all tokens with
// special tokens skipped.
class IncrementalDecoder {
 public:
  explicit IncrementalDecoder(const Tokenizer* tokenizer)
      : tokenizer_(tokenizer) {}
  std::string Push(int32_t token);
  std::string Finish();  // what is left, invalid bytes replaced

 private:
  const Tokenizer* tokenizer_;
  std::string pending_;  // at most 3 bytes of an unfinished character
};

}  // namespace h2o
