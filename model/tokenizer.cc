// Text -> added tokens -> words -> bytes -> merged tokens, each stage as
// Hugging Face's `tokenizers` has it for GPT-2's byte-level BPE.
#include "model/tokenizer.h"

#include <algorithm>
#include <array>
#include <climits>
#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "base/utf8.h"
#include "model/added_tokens.h"
#include "model/byte_alphabet.h"
#include "model/json_file.h"
#include "model/merges.h"
#include "model/pre_tokenizer.h"

namespace h2o {
namespace {

using nlohmann::json;

absl::Status Malformed(const std::string& path, const std::string& what) {
  return absl::DataLossError(absl::StrCat(path, ": ", what));
}

// Appends `bytes` to `out` and replaces what is not UTF-8 by U+FFFD.  Unless
// `final`, an unfinished character at the end stays.  Returns the bytes taken.
size_t AppendReplaced(std::string_view bytes, bool final, std::string* out) {
  size_t i = 0;
  while (i < bytes.size()) {
    const Utf8Character next = FirstCharacter(bytes.substr(i));
    if (next.length > 0) {
      out->append(bytes, i, next.length);
      i += next.length;
    } else if (next.unfinished && !final) {
      break;
    } else {
      out->append("\xef\xbf\xbd");
      i += next.bad_bytes;
    }
  }
  return i;
}

}  // namespace

class TokenizerImpl {
 public:
  absl::Status Load(const std::string& directory, int vocab_size);
  void Encode(std::string_view text, std::vector<int32_t>* ids) const;

  bool Known(int32_t id) const {
    return id >= 0 && static_cast<size_t>(id) < tokens_.size();
  }
  bool IsSpecial(int32_t id) const { return Known(id) && tokens_[id].special; }
  std::string_view Bytes(int32_t id) const {
    return Known(id) ? std::string_view(tokens_[id].bytes) : std::string_view();
  }

 private:
  struct Token {
    std::string bytes;  // empty: no token has this id
    bool special = false;
  };

  absl::Status LoadVocabulary(const std::string& path, int vocab_size,
                              Vocabulary* vocabulary);
  absl::Status LoadAddedTokens(const std::filesystem::path& directory,
                               int vocab_size, Vocabulary vocabulary);

  const ByteAlphabet alphabet_;
  std::vector<Token> tokens_;  // by id
  std::array<int32_t, 256> byte_tokens_;
  Merges merges_;
  AddedTokenFinder as_is_, normalized_;
  int32_t front_ = -1;  // begins every text
};

absl::Status TokenizerImpl::Load(const std::string& directory, int vocab_size) {
  const std::filesystem::path root(directory);
  Vocabulary vocabulary;
  H2O_RETURN_IF_ERROR(
      LoadVocabulary((root / "vocab.json").string(), vocab_size, &vocabulary));
  H2O_RETURN_IF_ERROR(merges_.Load((root / "merges.txt").string(), vocabulary));
  return LoadAddedTokens(root, vocab_size, std::move(vocabulary));
}

absl::Status TokenizerImpl::LoadVocabulary(const std::string& path,
                                           int vocab_size,
                                           Vocabulary* vocabulary) {
  H2O_ASSIGN_OR_RETURN(const std::string text, ReadWholeFile(path));
  H2O_ASSIGN_OR_RETURN(const json values, ParseJsonObject(text, path));
  tokens_.resize(vocab_size);
  std::vector<const std::string*> owner(vocab_size, nullptr);
  for (const auto& [token, value] : values.items()) {
    if (!value.is_number_unsigned()) {
      return Malformed(path, absl::StrCat("token ", Describe(json(token)),
                                          " has the id ", Describe(value),
                                          "; it must be an integer from 0 on"));
    }
    const uint64_t id = value.get<uint64_t>();
    if (id >= static_cast<uint64_t>(vocab_size)) {
      return absl::FailedPreconditionError(absl::StrCat(
          path, ": token ", Describe(json(token)), " has the id ", id,
          "; it must be below the model's vocab_size, ", vocab_size));
    }
    const auto it = vocabulary->emplace(token, static_cast<int32_t>(id)).first;
    if (!tokens_[id].bytes.empty()) {
      std::string other;
      for (const auto& [key, number] : values.items()) {
        if (number == id && key != token) other = Describe(json(key));
      }
      return Malformed(
          path, absl::StrCat("tokens ", other, " and ", Describe(json(token)),
                             " have the same id ", id));
    }
    tokens_[id].bytes = alphabet_.Bytes(it->first);
    if (token.empty()) {
      return Malformed(path, absl::StrCat("the token of id ", id,
                                          " is empty; it must have a text"));
    }
  }
  for (int b = 0; b < 256; ++b) {
    const auto it = vocabulary->find(alphabet_.Character(b));
    if (it == vocabulary->end()) {
      return Malformed(path,
                       absl::StrCat("no token for byte ", b, " (",
                                    Describe(json(alphabet_.Character(b))),
                                    "); a byte-level vocabulary has all 256"));
    }
    byte_tokens_[b] = it->second;
  }
  return absl::OkStatus();
}

absl::Status TokenizerImpl::LoadAddedTokens(
    const std::filesystem::path& directory, int vocab_size,
    Vocabulary vocabulary) {
  H2O_ASSIGN_OR_RETURN(
      SpecialTokens special,
      ReadSpecialTokens(directory.string(), vocabulary.contains("<pad>")));
  const auto front = vocabulary.find(special.front);
  if (front == vocabulary.end()) {
    return Malformed((directory / "vocab.json").string(),
                     absl::StrCat("no token \"", special.front,
                                  "\", which begins every text"));
  }
  front_ = front->second;
  // A token that the vocabulary lacks gets the next id, as Hugging Face does.
  int64_t next_id = static_cast<int64_t>(vocabulary.size());
  std::vector<AddedToken> tokens;
  for (AddedToken& token : special.added) {
    const auto it = vocabulary.find(token.content);
    if (it != vocabulary.end()) {
      token.id = it->second;
    } else {
      if (next_id >= vocab_size || !tokens_[next_id].bytes.empty()) {
        return absl::FailedPreconditionError(absl::StrCat(
            directory.string(), ": added token ", Describe(json(token.content)),
            " is not in vocab.json and would get the id ", next_id,
            next_id >= vocab_size
                ? absl::StrCat("; it must be below the model's vocab_size, ",
                               vocab_size)
                : std::string(", which is taken")));
      }
      token.id = static_cast<int32_t>(next_id++);
      vocabulary.emplace(token.content, token.id);
      tokens_[token.id].bytes = alphabet_.Bytes(token.content);
    }
    const auto same = std::find_if(
        tokens.begin(), tokens.end(),
        [&](const AddedToken& t) { return t.content == token.content; });
    if (same != tokens.end()) {
      token.special = token.special || same->special;
      *same = token;
    } else {
      tokens.push_back(token);
    }
  }
  for (const AddedToken& token : tokens) {
    tokens_[token.id].special = token.special;
    (token.normalized ? normalized_ : as_is_).Add(token);
  }
  return absl::OkStatus();
}

void TokenizerImpl::Encode(std::string_view text,
                           std::vector<int32_t>* ids) const {
  ids->push_back(front_);
  std::vector<int32_t> bytes;  // of one word, as tokens
  const auto on_word = [&](std::string_view word) {
    bytes.clear();
    for (const unsigned char byte : word) bytes.push_back(byte_tokens_[byte]);
    merges_.Apply(bytes, ids);
  };
  const auto on_token = [&](int32_t id) { ids->push_back(id); };
  const auto on_piece = [&](std::string_view piece) {
    ForEachWord(piece, on_word);
  };
  as_is_.Split(
      text,
      [&](std::string_view piece) {
        normalized_.Split(piece, on_piece, on_token);
      },
      on_token);
}

Tokenizer::Tokenizer(std::unique_ptr<TokenizerImpl> impl)
    : impl_(std::move(impl)) {}
Tokenizer::~Tokenizer() = default;

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Load(
    const std::string& directory, int vocab_size) {
  H2O_CHECK(vocab_size > 0) << vocab_size;
  auto impl = std::make_unique<TokenizerImpl>();
  H2O_RETURN_IF_ERROR(impl->Load(directory, vocab_size));
  return std::unique_ptr<Tokenizer>(new Tokenizer(std::move(impl)));
}

absl::StatusOr<std::vector<int32_t>> Tokenizer::Encode(
    std::string_view text) const {
  if (text.size() > INT_MAX) {
    return absl::InvalidArgumentError(absl::StrCat("the text has ", text.size(),
                                                   " bytes; at most ", INT_MAX,
                                                   " are supported"));
  }
  H2O_RETURN_IF_ERROR(CheckUtf8("the text", text));
  std::vector<int32_t> ids;
  impl_->Encode(text, &ids);
  return ids;
}

std::string Tokenizer::Decode(absl::Span<const int32_t> ids,
                              bool skip_special_tokens) const {
  std::string bytes;
  for (int32_t id : ids) {
    if (skip_special_tokens && impl_->IsSpecial(id)) continue;
    bytes.append(impl_->Bytes(id));
  }
  std::string text;
  AppendReplaced(bytes, /*final=*/true, &text);
  return text;
}

std::string_view Tokenizer::TokenBytes(int32_t id) const {
  return impl_->IsSpecial(id) ? std::string_view() : impl_->Bytes(id);
}

bool Tokenizer::IsSpecial(int32_t id) const { return impl_->IsSpecial(id); }

std::string IncrementalDecoder::Push(int32_t token) {
  pending_.append(tokenizer_->TokenBytes(token));
  std::string text;
  pending_.erase(0, AppendReplaced(pending_, /*final=*/false, &text));
  return text;
}

std::string IncrementalDecoder::Finish() {
  std::string text;
  AppendReplaced(pending_, /*final=*/true, &text);
  pending_.clear();
  return text;
}

}  // namespace h2o
