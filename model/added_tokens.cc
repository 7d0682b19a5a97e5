// Reads and finds added tokens.
#include "model/added_tokens.h"

#include <algorithm>
#include <filesystem>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "model/json_file.h"

namespace h2o {
namespace {

using nlohmann::json;

// The characters of Unicode's White_Space, in UTF-8.
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

absl::Status Malformed(const std::string& path, const std::string& what) {
  return absl::DataLossError(absl::StrCat(path, ": ", what));
}

// "<pad>" or {"content": "<pad>", "lstrip": .., ..}.  `special` holds for an
// object that does not say.
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
                       "\" is a single_word token; such tokens are not "
                       "supported"));
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

struct File {
  std::string path;
  json values = json::object();  // empty: there is no such file
};

absl::Status ReadIfThere(File* file) {
  const auto text = ReadWholeFile(file->path);
  if (absl::IsNotFound(text.status())) return absl::OkStatus();
  H2O_RETURN_IF_ERROR(text.status());
  H2O_ASSIGN_OR_RETURN(file->values, ParseJsonObject(*text, file->path));
  return absl::OkStatus();
}

// Collects the tokens that two files declare, in the order in which Hugging
// Face adds them.
class SpecialTokenReader {
 public:
  SpecialTokenReader(const std::filesystem::path& directory, bool has_pad)
      : config_{(directory / "tokenizer_config.json").string()},
        map_{(directory / "special_tokens_map.json").string()},
        // What neither file names is as in OPT's releases.
        defaults_{config_.path,
                  {{"bos_token", kFront},
                   {"eos_token", kFront},
                   {"unk_token", kFront}}} {
    if (has_pad) defaults_.values["pad_token"] = "<pad>";
  }

  absl::StatusOr<SpecialTokens> Read() {
    H2O_RETURN_IF_ERROR(ReadIfThere(&config_));
    const auto declared = config_.values.find("added_tokens_decoder");
    if (declared != config_.values.end() && declared->is_object()) {
      H2O_RETURN_IF_ERROR(AddDeclared(*declared));
    } else {
      H2O_RETURN_IF_ERROR(ReadIfThere(&map_));
    }
    num_declared_ = tokens_.size();
    H2O_RETURN_IF_ERROR(AddNamed());
    H2O_RETURN_IF_ERROR(AddListed());
    return SpecialTokens{std::move(tokens_), kFront};
  }

 private:
  static constexpr char kFront[] = "</s>";

  // {"2": {token}}; ids are found by content, as Hugging Face does.
  absl::Status AddDeclared(const json& declared) {
    H2O_RETURN_IF_ERROR(
        CheckCount(config_.path, "added_tokens_decoder", declared.size()));
    std::vector<std::pair<int64_t, AddedToken>> by_id;
    for (const auto& [id, value] : declared.items()) {
      int64_t number = 0;
      if (!absl::SimpleAtoi(id, &number)) {
        return Malformed(
            config_.path,
            absl::StrCat("\"added_tokens_decoder\" has the key ",
                         Describe(json(id)), "; keys must be ids"));
      }
      H2O_ASSIGN_OR_RETURN(
          AddedToken token,
          ParseAddedToken(config_.path, id, value, /*special=*/false));
      by_id.emplace_back(number, std::move(token));
    }
    std::stable_sort(
        by_id.begin(), by_id.end(),
        [](const auto& a, const auto& b) { return a.first < b.first; });
    for (auto& [id, token] : by_id) Add(std::move(token));
    return absl::OkStatus();
  }

  // special_tokens_map.json overrides tokenizer_config.json; a null is none.
  absl::Status AddNamed() {
    for (const char* key : {"bos_token", "eos_token", "unk_token", "sep_token",
                            "pad_token", "cls_token", "mask_token"}) {
      for (const File* file : {&map_, &config_, &defaults_}) {
        const auto it = file->values.find(key);
        if (it == file->values.end()) continue;
        if (!it->is_null()) H2O_RETURN_IF_ERROR(AddSpecial(*file, key, *it));
        break;
      }
    }
    return absl::OkStatus();
  }

  absl::Status AddListed() {
    for (const File* file : {&config_, &map_}) {
      for (const char* key :
           {"additional_special_tokens", "extra_special_tokens"}) {
        const auto it = file->values.find(key);
        if (it == file->values.end() || !it->is_array()) continue;
        H2O_RETURN_IF_ERROR(CheckCount(file->path, key, it->size()));
        for (const json& value : *it) {
          H2O_RETURN_IF_ERROR(AddSpecial(*file, key, value));
        }
      }
    }
    return absl::OkStatus();
  }

  absl::Status AddSpecial(const File& file, const std::string& key,
                          const json& value) {
    H2O_ASSIGN_OR_RETURN(
        AddedToken token,
        ParseAddedToken(file.path, key, value, /*special=*/&file == &map_));
    token.special = true;
    const auto end = tokens_.begin() + static_cast<int64_t>(num_declared_);
    const auto it = std::find_if(
        tokens_.begin(), end,
        [&](const AddedToken& t) { return t.content == token.content; });
    if (it != end) {
      it->special = true;  // declared with its flags already
    } else {
      Add(std::move(token));
    }
    return absl::OkStatus();
  }

  void Add(AddedToken token) {
    if (token.content.empty()) return;
    if (std::find(tokens_.begin(), tokens_.end(), token) == tokens_.end()) {
      tokens_.push_back(std::move(token));
    }
  }

  File config_, map_, defaults_;
  std::vector<AddedToken> tokens_;
  size_t num_declared_ = 0;
};

}  // namespace

absl::StatusOr<SpecialTokens> ReadSpecialTokens(const std::string& directory,
                                                bool has_pad) {
  return SpecialTokenReader(directory, has_pad).Read();
}

void AddedTokenFinder::Add(const AddedToken& token) {
  tokens_.push_back(token);
  std::stable_sort(tokens_.begin(), tokens_.end(),
                   [](const AddedToken& a, const AddedToken& b) {
                     return a.content.size() > b.content.size();
                   });
  may_begin_[static_cast<unsigned char>(token.content[0])] = true;
}

void AddedTokenFinder::Split(
    std::string_view text,
    absl::FunctionRef<void(std::string_view piece)> on_text,
    absl::FunctionRef<void(int32_t id)> on_token) const {
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
      // Never what the token before has taken.
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

const AddedToken* AddedTokenFinder::At(std::string_view text) const {
  if (!may_begin_[static_cast<unsigned char>(text[0])]) return nullptr;
  for (const AddedToken& token : tokens_) {
    if (text.starts_with(token.content)) return &token;
  }
  return nullptr;
}

}  // namespace h2o
