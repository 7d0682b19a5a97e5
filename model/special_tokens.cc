// Collects the tokens that the files around a vocabulary declare, in the order
// in which Hugging Face adds them.
#include "model/special_tokens.h"

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
using nlohmann::ordered_json;

// Begins every text of OPT.
constexpr char kOptFront[] = "</s>";

constexpr const char* kNamed[] = {"bos_token", "eos_token", "unk_token",
                                  "sep_token", "pad_token", "cls_token",
                                  "mask_token"};

absl::Status Malformed(const std::string& path, const std::string& what) {
  return absl::DataLossError(absl::StrCat(path, ": ", what));
}

// Each is looked for at every place of a text.
absl::Status CheckCount(const std::string& path, const std::string& key,
                        size_t count) {
  constexpr size_t kMost = 4096;
  if (count <= kMost) return absl::OkStatus();
  return Malformed(
      path, absl::StrCat("\"", key, "\" has ", count, " tokens; at most ",
                         kMost, " may be added"));
}

template <class Json>
absl::Status ReadFlag(const std::string& path, const std::string& key,
                      const Json& object, const char* name, bool* flag) {
  const auto value = object.find(name);
  if (value == object.end() || value->is_null()) return absl::OkStatus();
  if (!value->is_boolean()) {
    return Malformed(path, absl::StrCat("\"", name, "\" of \"", key, "\" is ",
                                        Describe(*value),
                                        "; it must be true or "
                                        "false"));
  }
  *flag = value->template get<bool>();
  return absl::OkStatus();
}

// "<pad>" or {"content": "<pad>", "lstrip": .., ..}.  `special` holds for an
// object that does not say.
absl::StatusOr<AddedToken> ParseAddedToken(const std::string& path,
                                           const std::string& key,
                                           const json& value, bool special) {
  AddedToken token;
  if (value.is_string()) {
    token.content = value.get<std::string>();
    return token;
  }
  if (!value.is_object() || !value.contains("content") ||
      !value["content"].is_string()) {
    return Malformed(path, absl::StrCat("\"", key, "\" is ", Describe(value),
                                        "; it must be a token's text, or an "
                                        "object with its \"content\""));
  }
  token.content = value["content"].get<std::string>();
  token.special = special;
  H2O_RETURN_IF_ERROR(ReadFlag(path, key, value, "special", &token.special));
  token.normalized = !token.special;  // where the object does not say
  bool single_word = false;
  for (const auto& [name, flag] : {std::pair("lstrip", &token.lstrip),
                                   {"rstrip", &token.rstrip},
                                   {"normalized", &token.normalized},
                                   {"single_word", &single_word}}) {
    H2O_RETURN_IF_ERROR(ReadFlag(path, key, value, name, flag));
  }
  if (single_word) {
    return absl::FailedPreconditionError(
        absl::StrCat(path, ": \"", key,
                     "\" is a single_word token; such tokens are not "
                     "supported"));
  }
  return token;
}

struct File {
  std::string path;
  bool exists = false;
  ordered_json values = ordered_json::object();  // empty: no such file
};

absl::Status ReadIfThere(File* file) {
  auto values = ReadJsonObject<ordered_json>(file->path);
  if (absl::IsNotFound(values.status())) return absl::OkStatus();
  H2O_RETURN_IF_ERROR(values.status());
  file->values = *std::move(values);
  file->exists = true;
  return absl::OkStatus();
}

// The files around a vocabulary.
struct Files {
  explicit Files(const std::filesystem::path& directory)
      : config{(directory / "tokenizer_config.json").string()},
        map{(directory / "special_tokens_map.json").string()},
        numbered{(directory / "added_tokens.json").string()} {}

  // special_tokens_map.json overrides tokenizer_config.json; a null is none.
  const ordered_json* Named(const std::string& key, const File** file) const {
    for (const File* f : {&map, &config, &defaults}) {
      const auto it = f->values.find(key);
      if (it == f->values.end()) continue;
      *file = f;
      return it->is_null() ? nullptr : &*it;
    }
    return nullptr;
  }

  File config, map, numbered;
  File defaults{"the defaults"};
  const ordered_json* declared = nullptr;  // the config's added_tokens_decoder
};

// A config that declares its added tokens replaces the two older files.
absl::Status ReadFiles(Files* files) {
  H2O_RETURN_IF_ERROR(ReadIfThere(&files->config));
  const auto declared = files->config.values.find("added_tokens_decoder");
  if (declared != files->config.values.end() && declared->is_object()) {
    files->declared = &*declared;
    return absl::OkStatus();
  }
  H2O_RETURN_IF_ERROR(ReadIfThere(&files->map));
  return ReadIfThere(&files->numbered);
}

// A token that a file names special.
struct Special {
  const File* file;
  std::string key;
  const ordered_json* value;
  bool listed = false;  // an object in a list says itself whether it is
};

class SpecialFinder {
 public:
  explicit SpecialFinder(const Files& files) : files_(files) {}

  // The tokens of the known names, of other names ("image_token"), and of
  // lists, in the order in which Hugging Face gives them ids.
  absl::StatusOr<std::vector<Special>> Find() {
    for (const char* key : kNamed) {
      const File* file = nullptr;
      if (const ordered_json* value = files_.Named(key, &file)) {
        special_.push_back({file, key, value});
      }
    }
    FindOtherNames(files_.config, /*objects=*/true, /*texts=*/false);
    FindOtherNames(files_.map, /*objects=*/true, /*texts=*/true);
    FindOtherNames(files_.config, /*objects=*/false, /*texts=*/true);
    for (const File* file : {&files_.config, &files_.map}) {
      H2O_RETURN_IF_ERROR(FindInList(*file, "extra_special_tokens",
                                     ordered_json::value_t::object));
    }
    // The older key counts where the newer one has no list.
    const size_t before = special_.size();
    H2O_RETURN_IF_ERROR(FindInList(files_.config, "extra_special_tokens",
                                   ordered_json::value_t::array));
    if (special_.size() == before) {
      H2O_RETURN_IF_ERROR(FindInList(files_.config, "additional_special_tokens",
                                     ordered_json::value_t::array));
    }
    H2O_RETURN_IF_ERROR(FindInList(files_.map, "extra_special_tokens",
                                   ordered_json::value_t::array));
    if (special_.size() == before) {
      H2O_RETURN_IF_ERROR(FindInList(files_.map, "additional_special_tokens",
                                     ordered_json::value_t::array));
    }
    return std::move(special_);
  }

 private:
  void FindOtherNames(const File& file, bool objects, bool texts) {
    for (const auto& [key, value] : file.values.items()) {
      const bool known = std::find(std::begin(kNamed), std::end(kNamed), key) !=
                         std::end(kNamed);
      if (known || !std::string_view(key).ends_with("_token")) continue;
      if ((objects && value.is_object()) || (texts && value.is_string())) {
        special_.push_back({&file, key, &value});
      }
    }
  }
  // The tokens of a list, or of an object of names and tokens, if that is what
  // `key` has.
  absl::Status FindInList(const File& file, const char* key,
                          ordered_json::value_t type) {
    const auto list = file.values.find(key);
    if (list == file.values.end() || list->is_null()) return absl::OkStatus();
    if (!list->is_structured()) {
      return Malformed(file.path,
                       absl::StrCat("\"", key, "\" is ", Describe(*list),
                                    "; it must be a list or an object of "
                                    "tokens"));
    }
    if (list->type() != type) return absl::OkStatus();
    H2O_RETURN_IF_ERROR(CheckCount(file.path, key, list->size()));
    for (const ordered_json& value : *list) {
      special_.push_back({&file, key, &value, list->is_array()});
    }
    return absl::OkStatus();
  }

  const Files& files_;
  std::vector<Special> special_;
};

class SpecialTokenReader {
 public:
  SpecialTokenReader(const std::filesystem::path& directory,
                     const Vocabulary& vocabulary, const ListedTokens* listed)
      : vocabulary_(vocabulary), listed_(listed), files_(directory) {}

  absl::StatusOr<SpecialTokens> Read() {
    H2O_RETURN_IF_ERROR(ReadFiles(&files_));
    H2O_RETURN_IF_ERROR(CheckClass());
    if (listed_ == nullptr) SetDefaults();
    H2O_ASSIGN_OR_RETURN(special_, SpecialFinder(files_).Find());
    H2O_RETURN_IF_ERROR(AddListed());
    H2O_RETURN_IF_ERROR(AddDeclared());
    H2O_RETURN_IF_ERROR(AddNumbered());
    num_declared_ = tokens_.size();
    for (const Special& special : special_) {
      H2O_RETURN_IF_ERROR(AddSpecial(special));
    }
    SpecialTokens all{.added = std::move(tokens_)};
    H2O_RETURN_IF_ERROR(FindEnds(&all));
    H2O_RETURN_IF_ERROR(FindFlags(&all));
    return all;
  }

 private:
  absl::Status CheckClass() {
    const auto name = files_.config.values.find("tokenizer_class");
    if (name == files_.config.values.end() || name->is_null() ||
        *name == "GPT2Tokenizer" || *name == "GPT2TokenizerFast") {
      return absl::OkStatus();
    }
    is_gpt2_ = false;
    if (listed_ != nullptr &&
        (*name == "PreTrainedTokenizerFast" || *name == "TokenizersBackend")) {
      return absl::OkStatus();
    }
    return absl::FailedPreconditionError(absl::StrCat(
        files_.config.path, ": \"tokenizer_class\" is ", Describe(*name),
        "; only GPT2Tokenizer is supported, and beside a tokenizer.json also "
        "PreTrainedTokenizerFast"));
  }

  // What neither file names is as in OPT's releases.
  void SetDefaults() {
    for (const char* key : {"bos_token", "eos_token", "unk_token"}) {
      files_.defaults.values[key] = kOptFront;
    }
    if (vocabulary_.contains("<pad>"))
      files_.defaults.values["pad_token"] = "<pad>";
  }

  absl::Status AddListed() {
    if (listed_ == nullptr || listed_->added.is_null()) return absl::OkStatus();
    if (!listed_->added.is_array()) {
      return Malformed(
          listed_->path,
          absl::StrCat("\"added_tokens\" is ", Describe(listed_->added),
                       "; it must be a list of tokens"));
    }
    H2O_RETURN_IF_ERROR(
        CheckCount(listed_->path, "added_tokens", listed_->added.size()));
    for (const json& value : listed_->added) {
      H2O_ASSIGN_OR_RETURN(AddedToken token,
                           ParseAddedToken(listed_->path, "added_tokens", value,
                                           /*special=*/false));
      Add(std::move(token));
    }
    return absl::OkStatus();
  }

  // {"2": {token}}; ids are found by content, as Hugging Face does.
  absl::Status AddDeclared() {
    if (files_.declared == nullptr) return absl::OkStatus();
    H2O_RETURN_IF_ERROR(CheckCount(files_.config.path, "added_tokens_decoder",
                                   files_.declared->size()));
    std::vector<std::pair<int64_t, AddedToken>> by_id;
    for (const auto& [id, value] : files_.declared->items()) {
      int64_t number = 0;
      if (!absl::SimpleAtoi(id, &number)) {
        return Malformed(
            files_.config.path,
            absl::StrCat("\"added_tokens_decoder\" has the key ",
                         Describe(json(id)), "; keys must be ids"));
      }
      H2O_ASSIGN_OR_RETURN(
          AddedToken token,
          ParseAddedToken(files_.config.path, id, value, /*special=*/false));
      by_id.emplace_back(number, std::move(token));
    }
    AddInOrder(std::move(by_id));
    return absl::OkStatus();
  }

  // {"<mask>": 8192}; such a token is special if another file names it so.
  absl::Status AddNumbered() {
    H2O_RETURN_IF_ERROR(CheckCount(files_.numbered.path, "added_tokens.json",
                                   files_.numbered.values.size()));
    std::vector<std::pair<int64_t, AddedToken>> by_id;
    for (const auto& [content, id] : files_.numbered.values.items()) {
      if (!id.is_number_unsigned() || id.get<uint64_t>() > INT32_MAX) {
        return Malformed(
            files_.numbered.path,
            absl::StrCat("token ", Describe(json(content)), " has the id ",
                         Describe(id), "; it must be an integer from 0 on"));
      }
      bool special = false;
      for (const Special& s : special_) {
        special = special || *s.value == content ||
                  (s.value->is_object() &&
                   s.value->value("content", ordered_json()) == content);
      }
      by_id.emplace_back(id.get<int64_t>(), AddedToken{.content = content,
                                                       .normalized = !special,
                                                       .special = special});
    }
    AddInOrder(std::move(by_id));
    return absl::OkStatus();
  }

  void AddInOrder(std::vector<std::pair<int64_t, AddedToken>> by_id) {
    std::stable_sort(
        by_id.begin(), by_id.end(),
        [](const auto& a, const auto& b) { return a.first < b.first; });
    for (auto& [id, token] : by_id) Add(std::move(token));
  }

  absl::Status AddSpecial(const Special& special) {
    H2O_ASSIGN_OR_RETURN(
        AddedToken token,
        ParseAddedToken(special.file->path, special.key, *special.value,
                        /*special=*/special.file == &files_.map));
    token.special = token.special || !special.listed;
    const auto end = tokens_.begin() + static_cast<int64_t>(num_declared_);
    const auto it = std::find_if(
        tokens_.begin(), end,
        [&](const AddedToken& t) { return t.content == token.content; });
    if (it != end) {
      it->special |= token.special;  // declared with its flags already
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

  absl::Status FindEnds(SpecialTokens* all) const {
    if (listed_ != nullptr) {
      all->front = listed_->front;
      all->back = listed_->back;
      return absl::OkStatus();
    }
    // Without the file, as in OPT's releases.
    H2O_RETURN_IF_ERROR(FindEnd("add_bos_token", !files_.config.exists,
                                "bos_token", &all->front));
    return FindEnd("add_eos_token", false, "eos_token", &all->back);
  }
  absl::Status FindEnd(const char* flag, bool if_absent, const char* key,
                       std::vector<std::string>* out) const {
    bool add = if_absent;
    H2O_RETURN_IF_ERROR(
        ReadFlag(files_.config.path, flag, files_.config.values, flag, &add));
    const File* file = nullptr;
    const ordered_json* value = files_.Named(key, &file);
    if (!add || value == nullptr) return absl::OkStatus();
    H2O_ASSIGN_OR_RETURN(
        const AddedToken token,
        ParseAddedToken(file->path, key, *value, /*special=*/true));
    if (token.content.empty()) return absl::OkStatus();
    if (file == &files_.defaults && !vocabulary_.contains(token.content)) {
      return Malformed(
          files_.config.path,
          absl::StrCat("no \"", key,
                       "\", and the vocabulary has "
                       "no \"",
                       token.content, "\", which begins every text of OPT"));
    }
    out->push_back(token.content);
    return absl::OkStatus();
  }

  // The class of GPT-2's tokenizer asks the config alone for the space, others
  // ask tokenizer.json.
  absl::Status FindFlags(SpecialTokens* all) const {
    H2O_RETURN_IF_ERROR(ReadFlag(files_.config.path, "split_special_tokens",
                                 files_.config.values, "split_special_tokens",
                                 &all->spelled_is_text));
    if (listed_ != nullptr && !is_gpt2_) {
      all->prefix_space = listed_->prefix_space;
      return absl::OkStatus();
    }
    return ReadFlag(files_.config.path, "add_prefix_space",
                    files_.config.values, "add_prefix_space",
                    &all->prefix_space);
  }

  const Vocabulary& vocabulary_;
  const ListedTokens* const listed_;  // null: there is no tokenizer.json
  Files files_;
  bool is_gpt2_ = true;
  std::vector<Special> special_;
  std::vector<AddedToken> tokens_;
  size_t num_declared_ = 0;
};

}  // namespace

absl::StatusOr<SpecialTokens> ReadSpecialTokens(const std::string& directory,
                                                const Vocabulary& vocabulary,
                                                const ListedTokens* listed) {
  return SpecialTokenReader(directory, vocabulary, listed).Read();
}

}  // namespace h2o
