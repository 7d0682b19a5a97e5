// Text -> added tokens -> words -> bytes -> merged tokens, each stage as
// Hugging Face's `tokenizers` has it for GPT-2's byte-level BPE.
#include "model/tokenizer.h"

#include <algorithm>
#include <array>
#include <climits>
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
#include "model/special_tokens.h"
#include "model/tokenizer_files.h"
#include "model/vocabulary.h"

namespace h2o {
namespace {

using nlohmann::json;

absl::Status Malformed(const std::string& path, const std::string& what) {
  return absl::DataLossError(absl::StrCat(path, ": ", what));
}

// tokenizer.json gives its tokens ids, which must be those that they get.
absl::Status CheckIds(const ListedTokens& listed,
                      const Vocabulary& vocabulary) {
  for (const auto& [content, id] : listed.ids) {
    const auto it = vocabulary.find(content);
    if (it != vocabulary.end() && it->second == id) continue;
    return absl::FailedPreconditionError(absl::StrCat(
        listed.path, ": token ", Describe(json(content)), " has the id ", id,
        " there; ",
        it == vocabulary.end() ? "it is no token of the vocabulary"
                               : absl::StrCat("it must be ", it->second)));
  }
  return absl::OkStatus();
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
  void Encode(std::string_view text, bool add_special_tokens,
              std::vector<int32_t>* ids) const;

  int64_t LeastTokens(std::string_view text) const;
  int64_t longest() const { return longest_; }
  // Whether a token takes any number of spaces around it.
  bool Strips() const;

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

  absl::Status TakeVocabulary(const std::string& place, int vocab_size,
                              const Vocabulary& vocabulary);
  absl::Status CheckMerges(const std::string& place,
                           const Vocabulary& vocabulary,
                           const SpecialTokens& special) const;
  absl::Status TakeSpecialTokens(const std::string& directory,
                                 SpecialTokens special, Vocabulary* vocabulary);
  absl::Status AddToken(const std::string& directory, AddedToken* token,
                        Vocabulary* vocabulary);
  void EncodePiece(std::string_view piece, std::vector<int32_t>* ids) const;

  const ByteAlphabet alphabet_;
  std::vector<Token> tokens_;  // by id
  std::array<int32_t, 256> byte_tokens_;
  Merges merges_;
  AddedTokenFinder as_is_, normalized_;
  std::vector<int32_t> front_, back_;  // around every text
  bool prefix_space_ = false;          // before every piece
  int64_t longest_ = 1;                // bytes of a token
};

absl::Status TokenizerImpl::Load(const std::string& directory, int vocab_size) {
  H2O_ASSIGN_OR_RETURN(TokenizerFiles files, ReadTokenizerFiles(directory));
  H2O_ASSIGN_OR_RETURN(
      Vocabulary vocabulary,
      ParseVocabulary(files.vocabulary, files.vocabulary_path, vocab_size));
  H2O_RETURN_IF_ERROR(
      TakeVocabulary(files.vocabulary_path, vocab_size, vocabulary));
  H2O_ASSIGN_OR_RETURN(
      merges_, files.listed
                   ? Merges::Parse(files.merges, files.merges_path, vocabulary)
                   : Merges::Parse(std::string_view(files.merges_text),
                                   files.merges_path, vocabulary));
  const ListedTokens* listed = files.listed ? &*files.listed : nullptr;
  H2O_ASSIGN_OR_RETURN(SpecialTokens special,
                       ReadSpecialTokens(directory, vocabulary, listed));
  H2O_RETURN_IF_ERROR(CheckMerges(files.merges_path, vocabulary, special));
  H2O_RETURN_IF_ERROR(
      TakeSpecialTokens(directory, std::move(special), &vocabulary));
  for (const Token& token : tokens_) {
    longest_ = std::max(longest_, static_cast<int64_t>(token.bytes.size()));
  }
  return listed == nullptr ? absl::OkStatus() : CheckIds(*listed, vocabulary);
}

absl::Status TokenizerImpl::TakeVocabulary(const std::string& place,
                                           int vocab_size,
                                           const Vocabulary& vocabulary) {
  tokens_.resize(vocab_size);
  for (const auto& [token, id] : vocabulary) {
    tokens_[id].bytes = alphabet_.Bytes(token);
  }
  for (int b = 0; b < 256; ++b) {
    const auto it = vocabulary.find(alphabet_.Character(b));
    if (it == vocabulary.end()) {
      return Malformed(place,
                       absl::StrCat("no token for byte ", b, " (",
                                    Describe(json(alphabet_.Character(b))),
                                    "); a byte-level vocabulary has all 256"));
    }
    byte_tokens_[b] = it->second;
  }
  return absl::OkStatus();
}

// Without merges every byte of a text would become a token of its own.
absl::Status TokenizerImpl::CheckMerges(const std::string& place,
                                        const Vocabulary& vocabulary,
                                        const SpecialTokens& special) const {
  if (!merges_.empty()) return absl::OkStatus();
  for (const auto& [token, id] : vocabulary) {
    const bool added =
        std::any_of(special.added.begin(), special.added.end(),
                    [&](const AddedToken& t) { return t.content == token; });
    // Special tokens, "<unk>", are looked up whole, also where no file lists
    // them.
    const bool is_special = token.starts_with('<') && token.ends_with('>');
    if (added || is_special || tokens_[id].bytes.size() < 2) continue;
    return Malformed(
        place, absl::StrCat("there are no merges, but tokens that "
                            "only merges make, such as ",
                            Describe(json(token)), "; is the file cut off?"));
  }
  return absl::OkStatus();
}

// A token that the vocabulary lacks gets the next id, as Hugging Face does.
absl::Status TokenizerImpl::AddToken(const std::string& directory,
                                     AddedToken* token,
                                     Vocabulary* vocabulary) {
  const auto it = vocabulary->find(token->content);
  if (it != vocabulary->end()) {
    token->id = it->second;
    return absl::OkStatus();
  }
  const size_t id = vocabulary->size();
  if (id >= tokens_.size() || !tokens_[id].bytes.empty()) {
    return absl::FailedPreconditionError(absl::StrCat(
        directory, ": added token ", Describe(json(token->content)),
        " is not in the vocabulary and would get the id ", id,
        id >= tokens_.size()
            ? absl::StrCat("; it must be below the model's vocab_size, ",
                           tokens_.size())
            : std::string(", which is taken")));
  }
  token->id = static_cast<int32_t>(id);
  vocabulary->emplace(token->content, token->id);
  tokens_[id].bytes = alphabet_.Bytes(token->content);
  return absl::OkStatus();
}

absl::Status TokenizerImpl::TakeSpecialTokens(const std::string& directory,
                                              SpecialTokens special,
                                              Vocabulary* vocabulary) {
  std::vector<AddedToken> tokens;
  for (AddedToken& token : special.added) {
    H2O_RETURN_IF_ERROR(AddToken(directory, &token, vocabulary));
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
    if (token.special && special.spelled_is_text) continue;
    (token.normalized ? normalized_ : as_is_).Add(token);
  }
  for (const auto& [contents, ids] :
       {std::pair(&special.front, &front_), {&special.back, &back_}}) {
    for (const std::string& content : *contents) {
      AddedToken token{.content = content};
      H2O_RETURN_IF_ERROR(AddToken(directory, &token, vocabulary));
      ids->push_back(token.id);
    }
  }
  prefix_space_ = special.prefix_space;
  return absl::OkStatus();
}

void TokenizerImpl::EncodePiece(std::string_view piece,
                                std::vector<int32_t>* ids) const {
  std::vector<int32_t> bytes;  // of one word, as tokens
  const auto on_word = [&](std::string_view word) {
    bytes.clear();
    for (const unsigned char byte : word) bytes.push_back(byte_tokens_[byte]);
    merges_.Apply(bytes, ids);
  };
  if (prefix_space_ && !piece.starts_with(' ')) {
    ForEachWord(absl::StrCat(" ", std::string(piece)), on_word);
  } else {
    ForEachWord(piece, on_word);
  }
}

void TokenizerImpl::Encode(std::string_view text, bool add_special_tokens,
                           std::vector<int32_t>* ids) const {
  if (add_special_tokens) {
    ids->insert(ids->end(), front_.begin(), front_.end());
  }
  const auto on_token = [&](int32_t id) { ids->push_back(id); };
  const auto on_piece = [&](std::string_view piece) {
    EncodePiece(piece, ids);
  };
  as_is_.Split(
      text,
      [&](std::string_view piece) {
        normalized_.Split(piece, on_piece, on_token);
      },
      on_token);
  if (add_special_tokens) {
    ids->insert(ids->end(), back_.begin(), back_.end());
  }
}

bool TokenizerImpl::Strips() const {
  return as_is_.strips() || normalized_.strips();
}

int64_t TokenizerImpl::LeastTokens(std::string_view text) const {
  const int64_t bytes = Strips() ? CountBytesBesideSpace(text)
                                 : static_cast<int64_t>(text.size());
  return (bytes + longest_ - 1) / longest_;
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
    std::string_view text, bool add_special_tokens) const {
  if (text.size() > INT_MAX) {
    return absl::InvalidArgumentError(absl::StrCat("the text has ", text.size(),
                                                   " bytes; at most ", INT_MAX,
                                                   " are supported"));
  }
  H2O_RETURN_IF_ERROR(CheckUtf8("the text", text));
  std::vector<int32_t> ids;
  impl_->Encode(text, add_special_tokens, &ids);
  return ids;
}

int64_t Tokenizer::LeastTokens(std::string_view text) const {
  return impl_->LeastTokens(text);
}

std::optional<int64_t> Tokenizer::MostBytes(int64_t tokens) const {
  if (impl_->Strips()) return std::nullopt;
  return tokens * impl_->longest();
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
