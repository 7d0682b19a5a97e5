// Text -> added tokens -> words -> bytes -> merged tokens, each stage as
// Hugging Face's `tokenizers` has it for GPT-2's byte-level BPE.
#include "model/tokenizer.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <array>
#include <climits>
#include <filesystem>
#include <queue>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "base/utf8.h"
#include "model/json_file.h"

namespace h2o {
namespace {

using nlohmann::json;

// ---- Words

// White_Space of Unicode.  PCRE2's own \s differs: it takes U+180E.
#define H2O_SPACES                                        \
  "\\x{9}-\\x{D}\\x{20}\\x{85}\\x{A0}\\x{1680}\\x{2000}-" \
  "\\x{200A}\\x{2028}\\x{2029}\\x{202F}\\x{205F}\\x{3000}"

// Letters and numbers of Unicode 15 and 16, which Hugging Face's tokenizer
// knows and the PCRE2 of Debian 12 (Unicode 14) does not.
#define H2O_LETTERS                                                           \
  "\\p{L}"                                                                    \
  "\\x{1C89}-\\x{1C8A}\\x{A7CB}-\\x{A7CD}\\x{A7DA}-\\x{A7DC}"                 \
  "\\x{105C0}-\\x{105F3}\\x{10D4A}-\\x{10D65}\\x{10D6F}-\\x{10D85}"           \
  "\\x{10EC2}-\\x{10EC4}\\x{1123F}-\\x{11240}\\x{11380}-\\x{11389}\\x{1138B}" \
  "\\x{1138E}\\x{11390}-\\x{113B5}\\x{113B7}\\x{113D1}\\x{113D3}"             \
  "\\x{11BC0}-\\x{11BE0}\\x{11F02}\\x{11F04}-\\x{11F10}\\x{11F12}-\\x{11F33}" \
  "\\x{1342F}\\x{13441}-\\x{13446}\\x{13460}-\\x{143FA}\\x{16100}-\\x{1611D}" \
  "\\x{16D40}-\\x{16D6C}\\x{18CFF}\\x{1B132}\\x{1B155}\\x{1DF25}-\\x{1DF2A}"  \
  "\\x{1E030}-\\x{1E06D}\\x{1E4D0}-\\x{1E4EB}\\x{1E5D0}-\\x{1E5ED}\\x{1E5F0}" \
  "\\x{2B739}\\x{2EBF0}-\\x{2EE5D}\\x{31350}-\\x{323AF}"
#define H2O_NUMBERS                                                 \
  "\\p{N}"                                                          \
  "\\x{10D40}-\\x{10D49}\\x{116D0}-\\x{116E3}\\x{11BF0}-\\x{11BF9}" \
  "\\x{11F50}-\\x{11F59}\\x{16130}-\\x{16139}\\x{16D70}-\\x{16D79}" \
  "\\x{1CCF0}-\\x{1CCF9}\\x{1D2C0}-\\x{1D2D3}\\x{1E4F0}-\\x{1E4F9}" \
  "\\x{1E5F1}-\\x{1E5FA}"

// GPT-2's pattern.  Possessive (++), which changes no match but needs no stack.
constexpr char kWordPattern[] =
    "'(?:s|t|re|ve|m|ll|d)"
    "| ?[" H2O_LETTERS
    "]++"
    "| ?[" H2O_NUMBERS
    "]++"
    "| ?[^" H2O_SPACES H2O_LETTERS H2O_NUMBERS
    "]++"
    "|[" H2O_SPACES "]+(?![^" H2O_SPACES
    "])"
    "|[" H2O_SPACES "]++";

#undef H2O_SPACES
#undef H2O_LETTERS
#undef H2O_NUMBERS

const pcre2_code* WordCode() {
  static const pcre2_code* const code = [] {
    int error = 0;
    PCRE2_SIZE offset = 0;
    pcre2_code* c = pcre2_compile(
        reinterpret_cast<PCRE2_SPTR>(kWordPattern), PCRE2_ZERO_TERMINATED,
        PCRE2_UTF | PCRE2_ANCHORED, &error, &offset, nullptr);
    H2O_CHECK(c != nullptr) << "PCRE2 error " << error << " at " << offset;
    // Where no memory may be made executable, matching is only slower.
    pcre2_jit_compile(c, PCRE2_JIT_COMPLETE);
    return c;
  }();
  return code;
}

// Calls fn(word) for each word of `text`, valid UTF-8.
template <typename Fn>
void ForEachWord(std::string_view text, Fn&& fn) {
  const pcre2_code* code = WordCode();
  const std::unique_ptr<pcre2_match_data, decltype(&pcre2_match_data_free)>
      match(pcre2_match_data_create(1, nullptr), &pcre2_match_data_free);
  for (size_t begin = 0; begin < text.size();) {
    // Without NO_UTF_CHECK every match would read the whole text again.
    const int count = pcre2_match(
        code, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), begin,
        PCRE2_NO_UTF_CHECK, match.get(), nullptr);
    H2O_CHECK(count > 0) << "PCRE2 error " << count << " at " << begin;
    const size_t end = pcre2_get_ovector_pointer(match.get())[1];
    H2O_CHECK(end > begin);
    fn(text.substr(begin, end - begin));
    begin = end;
  }
}

// ---- UTF-8

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

// White_Space characters at the beginning or end of valid UTF-8, in bytes.
constexpr std::string_view kSpaces[] = {
    "\x09",   "\x0a",   "\x0b",   "\x0c",   "\x0d",   " ",      "\u0085",
    "\u00a0", "\u1680", "\u2000", "\u2001", "\u2002", "\u2003", "\u2004",
    "\u2005", "\u2006", "\u2007", "\u2008", "\u2009", "\u200a", "\u2028",
    "\u2029", "\u202f", "\u205f", "\u3000"};

size_t LeadingSpaceBytes(std::string_view text) {
  size_t n = 0;
  const auto next = [&] {
    for (std::string_view s : kSpaces) {
      if (text.substr(n).starts_with(s)) return s.size();
    }
    return size_t{0};
  };
  while (const size_t more = next()) n += more;
  return n;
}

size_t TrailingSpaceBytes(std::string_view text) {
  size_t n = 0;
  const auto next = [&] {
    for (std::string_view s : kSpaces) {
      if (text.substr(0, text.size() - n).ends_with(s)) return s.size();
    }
    return size_t{0};
  };
  while (const size_t more = next()) n += more;
  return n;
}

// ---- The alphabet of vocab.json and merges.txt

// GPT-2 writes a byte as a character: printable Latin-1 as itself, the others
// as U+0100 and up, in order.
class ByteAlphabet {
 public:
  ByteAlphabet() {
    int next = 256;
    for (int b = 0; b < 256; ++b) {
      const bool itself = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) ||
                          (b >= 174 && b <= 255);
      const int code_point = itself ? b : next++;
      if (code_point < 0x80) {
        characters_[b] = std::string(1, static_cast<char>(code_point));
      } else {  // none is above U+07FF
        characters_[b] = {static_cast<char>(0xc0 | (code_point >> 6)),
                          static_cast<char>(0x80 | (code_point & 0x3f))};
      }
      bytes_[characters_[b]] = static_cast<char>(b);
    }
  }
  const std::string& Character(int byte) const { return characters_[byte]; }

  // The bytes that `token` writes; a token with any other character (an added
  // one) stands for itself.
  std::string Bytes(const std::string& token) const {
    std::string bytes;
    for (size_t i = 0; i < token.size();) {
      const size_t length = static_cast<unsigned char>(token[i]) < 0x80 ? 1 : 2;
      const auto it = bytes_.find(token.substr(i, length));
      if (it == bytes_.end()) return token;
      bytes.push_back(it->second);
      i += length;
    }
    return bytes;
  }

 private:
  std::array<std::string, 256> characters_;
  absl::flat_hash_map<std::string, char> bytes_;
};

// ---- Added tokens

// A token that is found in the text itself, before any word is cut.
struct AddedToken {
  std::string content;
  bool lstrip = false;  // swallows the white space before it, after it
  bool rstrip = false;
  bool normalized = false;  // looked for after those that are not
  bool special = true;
  int32_t id = -1;
  friend bool operator==(const AddedToken&, const AddedToken&) = default;
};

// Finds added tokens in text: the leftmost, of these the longest.
class AddedTokenFinder {
 public:
  void Add(const AddedToken& token) {
    tokens_.push_back(token);
    std::stable_sort(tokens_.begin(), tokens_.end(),
                     [](const AddedToken& a, const AddedToken& b) {
                       return a.content.size() > b.content.size();
                     });
    may_begin_[static_cast<unsigned char>(token.content[0])] = true;
  }

  // Calls on_text(piece) and on_token(id), in order; no piece is empty.
  template <typename OnText, typename OnToken>
  void Split(std::string_view text, OnText&& on_text,
             OnToken&& on_token) const {
    size_t done = 0;
    for (size_t i = 0; i < text.size();) {
      const AddedToken* token = At(text.substr(i));
      if (token == nullptr) {
        ++i;
        continue;
      }
      size_t begin = i, end = i + token->content.size();
      i = end;
      if (token->lstrip) {
        // Never into what the token before has swallowed.
        begin -= TrailingSpaceBytes(text.substr(done, begin - done));
      }
      if (token->rstrip) end += LeadingSpaceBytes(text.substr(end));
      if (done < begin) on_text(text.substr(done, begin - done));
      on_token(token->id);
      done = end;
      i = std::max(i, done);
    }
    if (done < text.size()) on_text(text.substr(done));
  }

 private:
  const AddedToken* At(std::string_view text) const {
    if (!may_begin_[static_cast<unsigned char>(text[0])]) return nullptr;
    for (const AddedToken& token : tokens_) {
      if (text.starts_with(token.content)) return &token;
    }
    return nullptr;
  }

  std::vector<AddedToken> tokens_;  // the longest first
  std::array<bool, 256> may_begin_{};
};

absl::Status Malformed(const std::string& path, const std::string& what) {
  return absl::DataLossError(absl::StrCat(path, ": ", what));
}

// "<pad>" or {"content": "<pad>", "lstrip": .., ..}; an object is `special`
// where it says nothing of that itself.
absl::StatusOr<AddedToken> ParseAddedToken(const std::string& path,
                                           const std::string& key,
                                           const json& value, bool special) {
  AddedToken token;
  if (value.is_string()) {
    token.content = value.get<std::string>();
  } else if (value.is_object() && value.contains("content") &&
             value["content"].is_string()) {
    token.content = value["content"].get<std::string>();
    if (const auto it = value.find("special");
        it != value.end() && it->is_boolean()) {
      special = it->get<bool>();
    }
    token.special = special;
    token.normalized = !special;  // where the object does not say
    bool single_word = false;
    for (const auto& [name, flag] : {std::pair("lstrip", &token.lstrip),
                                     {"rstrip", &token.rstrip},
                                     {"normalized", &token.normalized},
                                     {"special", &token.special},
                                     {"single_word", &single_word}}) {
      if (!value.contains(name)) continue;
      if (!value[name].is_boolean()) {
        return Malformed(path, absl::StrCat("\"", name, "\" of \"", key,
                                            "\" is ", Describe(value[name]),
                                            "; it must be true or false"));
      }
      *flag = value[name].get<bool>();
    }
    if (single_word) {
      return absl::FailedPreconditionError(
          absl::StrCat(path, ": \"", key,
                       "\" is a single_word token; such "
                       "tokens, which no OPT has, are not supported"));
    }
  } else {
    return Malformed(path, absl::StrCat("\"", key, "\" is ", Describe(value),
                                        "; it must be a token's text, or an "
                                        "object with its \"content\""));
  }
  return token;
}

// Each is looked for at every place of a text.
absl::Status CheckCount(const std::string& path, const char* key,
                        size_t count) {
  constexpr size_t kMost = 4096;
  if (count <= kMost) return absl::OkStatus();
  return Malformed(
      path, absl::StrCat("\"", key, "\" has ", count, " tokens; at most ",
                         kMost, " may be added"));
}

// The added tokens that a directory's files declare, in the order in which
// Hugging Face adds them: of equal contents, the last one counts.
absl::StatusOr<std::vector<AddedToken>> ReadAddedTokens(
    const std::filesystem::path& directory, bool has_pad) {
  const std::string config_path =
      (directory / "tokenizer_config.json").string();
  const std::string map_path = (directory / "special_tokens_map.json").string();
  const auto read = [](const std::string& path) -> absl::StatusOr<json> {
    const auto text = ReadWholeFile(path);
    if (absl::IsNotFound(text.status())) return json::object();
    H2O_RETURN_IF_ERROR(text.status());
    return ParseJsonObject(*text, path);
  };
  H2O_ASSIGN_OR_RETURN(const json config, read(config_path));

  std::vector<AddedToken> tokens;
  const auto add = [&](AddedToken token) {
    if (token.content.empty()) return;
    if (std::find(tokens.begin(), tokens.end(), token) == tokens.end()) {
      tokens.push_back(std::move(token));
    }
  };

  json map = json::object();
  if (const auto it = config.find("added_tokens_decoder");
      it != config.end() && it->is_object()) {
    H2O_RETURN_IF_ERROR(
        CheckCount(config_path, "added_tokens_decoder", it->size()));
    // {"2": {token}}; ids are found by content, as Hugging Face does.
    std::vector<std::pair<int64_t, AddedToken>> by_id;
    for (const auto& [id, value] : it->items()) {
      int64_t number = 0;
      if (!absl::SimpleAtoi(id, &number)) {
        return Malformed(
            config_path,
            absl::StrCat("\"added_tokens_decoder\" has the key ",
                         Describe(json(id)), "; keys must be ids"));
      }
      H2O_ASSIGN_OR_RETURN(
          AddedToken token,
          ParseAddedToken(config_path, id, value, /*special=*/false));
      by_id.emplace_back(number, std::move(token));
    }
    std::stable_sort(
        by_id.begin(), by_id.end(),
        [](const auto& a, const auto& b) { return a.first < b.first; });
    for (auto& [id, token] : by_id) add(std::move(token));
  } else {
    H2O_ASSIGN_OR_RETURN(map, read(map_path));
  }
  const size_t num_declared = tokens.size();

  // special_tokens_map.json overrides tokenizer_config.json; what neither has
  // is as OPT's releases have it, and a null is none.
  json defaults = {
      {"bos_token", "</s>"}, {"eos_token", "</s>"}, {"unk_token", "</s>"}};
  if (has_pad) defaults["pad_token"] = "<pad>";
  const auto add_special = [&](const std::string& path, const std::string& key,
                               const json& value) -> absl::Status {
    H2O_ASSIGN_OR_RETURN(
        AddedToken token,
        ParseAddedToken(path, key, value, /*special=*/path == map_path));
    token.special = true;
    const auto same = [&](const AddedToken& t) {
      return t.content == token.content;
    };
    const auto end = tokens.begin() + static_cast<int64_t>(num_declared);
    const auto it = std::find_if(tokens.begin(), end, same);
    if (it != end) {
      it->special = true;  // declared with its flags already
    } else {
      add(std::move(token));
    }
    return absl::OkStatus();
  };
  using Source = std::pair<const json*, const std::string*>;
  for (const char* key : {"bos_token", "eos_token", "unk_token", "sep_token",
                          "pad_token", "cls_token", "mask_token"}) {
    for (const auto& [values, path] :
         {Source(&map, &map_path), Source(&config, &config_path),
          Source(&defaults, &config_path)}) {
      const auto it = values->find(key);
      if (it == values->end()) continue;
      if (!it->is_null()) H2O_RETURN_IF_ERROR(add_special(*path, key, *it));
      break;
    }
  }
  for (const auto& [values, path] :
       {Source(&config, &config_path), Source(&map, &map_path)}) {
    for (const char* key :
         {"additional_special_tokens", "extra_special_tokens"}) {
      const auto it = values->find(key);
      if (it == values->end() || !it->is_array()) continue;
      H2O_RETURN_IF_ERROR(CheckCount(*path, key, it->size()));
      for (const json& value : *it) {
        H2O_RETURN_IF_ERROR(add_special(*path, key, value));
      }
    }
  }
  return tokens;
}

}  // namespace

// ---- The tokenizer

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
  struct Merge {
    int32_t rank;
    int32_t merged;
  };
  using Vocabulary = absl::flat_hash_map<std::string, int32_t>;

  absl::Status LoadVocabulary(const std::string& path, int vocab_size,
                              Vocabulary* vocabulary);
  absl::Status LoadMerges(const std::string& path,
                          const Vocabulary& vocabulary);
  absl::Status LoadAddedTokens(const std::filesystem::path& directory,
                               int vocab_size, Vocabulary vocabulary);
  void EncodeWord(std::string_view word, std::vector<int32_t>* ids) const;
  const Merge* FindMerge(int32_t left, int32_t right) const {
    const auto it = merges_.find(Pair(left, right));
    return it == merges_.end() ? nullptr : &it->second;
  }
  static uint64_t Pair(int32_t left, int32_t right) {
    return static_cast<uint64_t>(left) << 32 | static_cast<uint32_t>(right);
  }

  const ByteAlphabet alphabet_;
  std::vector<Token> tokens_;  // by id
  std::array<int32_t, 256> byte_tokens_;
  absl::flat_hash_map<uint64_t, Merge> merges_;  // by Pair
  AddedTokenFinder as_is_, normalized_;
  int32_t front_ = -1;  // </s>
};

absl::Status TokenizerImpl::Load(const std::string& directory, int vocab_size) {
  const std::filesystem::path root(directory);
  Vocabulary vocabulary;
  H2O_RETURN_IF_ERROR(
      LoadVocabulary((root / "vocab.json").string(), vocab_size, &vocabulary));
  H2O_RETURN_IF_ERROR(LoadMerges((root / "merges.txt").string(), vocabulary));
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
  const auto front = vocabulary->find("</s>");
  if (front == vocabulary->end()) {
    return Malformed(path,
                     "no token \"</s>\", which begins every prompt of OPT");
  }
  front_ = front->second;
  return absl::OkStatus();
}

absl::Status TokenizerImpl::LoadMerges(const std::string& path,
                                       const Vocabulary& vocabulary) {
  H2O_ASSIGN_OR_RETURN(const std::string text, ReadWholeFile(path));
  int line_number = 0;
  int32_t rank = 0;
  for (size_t begin = 0; begin < text.size();) {
    ++line_number;
    size_t end = std::min(text.find('\n', begin), text.size());
    std::string_view line(text.data() + begin, end - begin);
    begin = end + 1;
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.starts_with("#version")) continue;
    const auto malformed = [&](const std::string& what) {
      return Malformed(path, absl::StrCat("line ", line_number, ": ", what));
    };
    const size_t space = line.find(' ');
    if (space == std::string_view::npos ||
        line.find(' ', space + 1) != std::string_view::npos) {
      return malformed(absl::StrCat(Describe(json(line)),
                                    " is no merge; it must be two tokens and a "
                                    "space between them"));
    }
    const std::string left(line.substr(0, space));
    const std::string right(line.substr(space + 1));
    std::array<int32_t, 3> ids;
    const std::array<std::string, 3> names = {left, right, left + right};
    for (int i = 0; i < 3; ++i) {
      const auto it = vocabulary.find(names[i]);
      if (it == vocabulary.end()) {
        return malformed(absl::StrCat("token ", Describe(json(names[i])),
                                      " of the merge ", Describe(json(line)),
                                      " is not in vocab.json"));
      }
      ids[i] = it->second;
    }
    merges_[Pair(ids[0], ids[1])] = {rank++, ids[2]};
  }
  return absl::OkStatus();
}

absl::Status TokenizerImpl::LoadAddedTokens(
    const std::filesystem::path& directory, int vocab_size,
    Vocabulary vocabulary) {
  H2O_ASSIGN_OR_RETURN(
      std::vector<AddedToken> declared,
      ReadAddedTokens(directory, vocabulary.contains("<pad>")));
  // A token that the vocabulary lacks gets the next id, as Hugging Face does.
  int64_t next_id = static_cast<int64_t>(vocabulary.size());
  std::vector<AddedToken> tokens;
  for (AddedToken& token : declared) {
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
  const auto on_token = [&](int32_t id) { ids->push_back(id); };
  const auto on_words = [&](std::string_view piece) {
    ForEachWord(piece, [&](std::string_view word) { EncodeWord(word, ids); });
  };
  as_is_.Split(
      text,
      [&](std::string_view piece) {
        normalized_.Split(piece, on_words, on_token);
      },
      on_token);
}

// Merges the pair of the lowest rank, of equal ones the leftmost, until no pair
// of neighbours has a merge.  A heap of candidates and a linked list of
// symbols: n log n for a word of n bytes, however hostile.
void TokenizerImpl::EncodeWord(std::string_view word,
                               std::vector<int32_t>* ids) const {
  struct Symbol {
    int32_t id;
    int32_t previous, next;  // -1: none
  };
  struct Candidate {
    int32_t rank;
    int32_t at;  // of the left symbol
    int32_t left, right;
    int32_t merged;
    bool operator<(const Candidate& other) const {  // the top is the lowest
      return std::pair(rank, at) > std::pair(other.rank, other.at);
    }
  };
  constexpr int32_t kGone = -1;

  const int32_t n = static_cast<int32_t>(word.size());
  std::vector<Symbol> symbols(n);
  for (int32_t i = 0; i < n; ++i) {
    symbols[i] = {byte_tokens_[static_cast<unsigned char>(word[i])], i - 1,
                  i + 1 < n ? i + 1 : -1};
  }
  std::priority_queue<Candidate> candidates;
  const auto consider = [&](int32_t at) {
    if (at < 0 || symbols[at].next < 0) return;
    const int32_t left = symbols[at].id;
    const int32_t right = symbols[symbols[at].next].id;
    if (const Merge* merge = FindMerge(left, right)) {
      candidates.push({merge->rank, at, left, right, merge->merged});
    }
  };
  for (int32_t i = 0; i + 1 < n; ++i) consider(i);
  while (!candidates.empty()) {
    const Candidate c = candidates.top();
    candidates.pop();
    Symbol& left = symbols[c.at];
    // A symbol may have merged with another neighbour in the meantime.
    if (left.id != c.left || left.next < 0 ||
        symbols[left.next].id != c.right) {
      continue;
    }
    Symbol& right = symbols[left.next];
    left.id = c.merged;
    left.next = right.next;
    right.id = kGone;
    if (left.next >= 0) symbols[left.next].previous = c.at;
    consider(left.previous);
    consider(c.at);
  }
  for (int32_t i = 0; i >= 0; i = symbols[i].next) {
    ids->push_back(symbols[i].id);
  }
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

std::vector<std::string_view> SplitWords(std::string_view text) {
  std::vector<std::string_view> words;
  ForEachWord(text, [&](std::string_view word) { words.push_back(word); });
  return words;
}

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
