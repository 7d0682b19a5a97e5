// Takes tokenizer.json apart and refuses by name whatever would make other
// tokens than byte-level BPE makes.
#include "model/tokenizer_json.h"

#include <cstdint>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "model/json_file.h"

namespace h2o {
namespace {

using nlohmann::json;

class Reader {
 public:
  explicit Reader(const std::string& path) : path_(path) {}

  absl::StatusOr<TokenizerJson> Read() {
    H2O_ASSIGN_OR_RETURN(json file, ReadJsonObject(path_));
    file_.tokens.path = path_;
    file_.tokens.added = std::move(file["added_tokens"]);
    H2O_RETURN_IF_ERROR(ReadIds());
    H2O_RETURN_IF_ERROR(TakeModel(&file["model"]));
    H2O_RETURN_IF_ERROR(CheckNormalizer(file["normalizer"]));
    H2O_RETURN_IF_ERROR(ReadPreTokenizer(file["pre_tokenizer"]));
    H2O_RETURN_IF_ERROR(ReadPostProcessor(file["post_processor"]));
    H2O_RETURN_IF_ERROR(CheckDecoder(file["decoder"]));
    return std::move(file_);
  }

 private:
  template <typename... Parts>
  absl::Status Unsupported(const Parts&... what) const {
    return absl::FailedPreconditionError(absl::StrCat(path_, ": ", what...));
  }
  template <typename... Parts>
  absl::Status Malformed(const Parts&... what) const {
    return absl::DataLossError(absl::StrCat(path_, ": ", what...));
  }

  // The "type" of a part; empty if it has none.
  static std::string TypeOf(const json& part) {
    if (!part.is_object()) return "";
    const auto type = part.find("type");
    return type != part.end() && type->is_string() ? type->get<std::string>()
                                                   : "";
  }

  // The parts of a "Sequence", which lie under `key`, or the part itself.
  static std::vector<json> PartsOf(const json& part, const char* key) {
    if (part.is_null()) return {};
    if (TypeOf(part) != "Sequence" || !part.contains(key) ||
        !part[key].is_array()) {
      return {part};
    }
    return part[key].get<std::vector<json>>();
  }

  absl::Status TakeModel(json* model) {
    if (!model->is_object()) {
      return Malformed("\"model\" is ", Describe(*model),
                       "; it must be an object");
    }
    // Old files have no type.
    const std::string type = TypeOf(*model);
    if (type != "BPE" && !(type.empty() && model->contains("merges"))) {
      return Unsupported("\"model\" is of the type \"", type,
                         "\"; only \"BPE\" is supported");
    }
    for (const char* flag : {"byte_fallback", "ignore_merges"}) {
      if (model->value(flag, json()) == true) {
        return Unsupported("\"", flag,
                           "\" of the model is true; it must be "
                           "false");
      }
    }
    for (const char* text :
         {"continuing_subword_prefix", "end_of_word_suffix"}) {
      const json value = model->value(text, json());
      const bool empty =
          value.is_string() && value.get_ref<const std::string&>().empty();
      if (!value.is_null() && !empty) {
        return Unsupported("\"", text, "\" of the model is ", Describe(value),
                           "; it must be empty");
      }
    }
    const json dropout = model->value("dropout", json());
    if (!dropout.is_null() && dropout != 0) {
      return Unsupported("\"dropout\" of the model is ", Describe(dropout),
                         "; it must be null");
    }
    file_.vocabulary = std::move((*model)["vocab"]);
    file_.merges = std::move((*model)["merges"]);
    return absl::OkStatus();
  }

  absl::Status ReadIds() {
    if (!file_.tokens.added.is_array()) return absl::OkStatus();
    for (const json& token : file_.tokens.added) {
      if (!token.is_object()) continue;
      H2O_RETURN_IF_ERROR(
          AddId(token.value("content", json()), token.value("id", json())));
    }
    return absl::OkStatus();
  }
  absl::Status AddId(const json& content, const json& id) {
    if (!content.is_string() || !id.is_number_unsigned() ||
        id.get<uint64_t>() > INT32_MAX) {
      return Malformed("token ", Describe(content), " has the id ",
                       Describe(id), "; it must be an integer from 0 on");
    }
    file_.tokens.ids.emplace_back(content, id.get<int64_t>());
    return absl::OkStatus();
  }

  absl::Status CheckNormalizer(const json& part) const {
    if (PartsOf(part, "normalizers").empty()) return absl::OkStatus();
    return Unsupported("there is a \"normalizer\" (", TypeOf(part),
                       "); it must be null");
  }

  absl::Status ReadPreTokenizer(const json& part) {
    const std::vector<json> parts = PartsOf(part, "pretokenizers");
    if (parts.size() != 1 || TypeOf(parts[0]) != "ByteLevel" ||
        parts[0].value("use_regex", json(true)) != true) {
      return Unsupported("\"pre_tokenizer\" is ", Named(part),
                         "; only \"ByteLevel\" is supported, which cuts words "
                         "as GPT-2 does");
    }
    file_.tokens.prefix_space =
        parts[0].value("add_prefix_space", json(true)) == true;
    return absl::OkStatus();
  }

  absl::Status ReadPostProcessor(const json& part) {
    for (const json& one : PartsOf(part, "processors")) {
      const std::string type = TypeOf(one);
      if (type == "ByteLevel") continue;  // moves offsets, adds nothing
      if (type == "TemplateProcessing") {
        H2O_RETURN_IF_ERROR(ReadTemplate(one));
      } else if (type == "RobertaProcessing" || type == "BertProcessing") {
        H2O_RETURN_IF_ERROR(ReadPair(one, "cls", &file_.tokens.front));
        H2O_RETURN_IF_ERROR(ReadPair(one, "sep", &file_.tokens.back));
      } else {
        return Unsupported("\"post_processor\" is ", Named(one),
                           "; only ByteLevel, TemplateProcessing, "
                           "RobertaProcessing and BertProcessing are "
                           "supported");
      }
    }
    return absl::OkStatus();
  }

  // {"cls": ["<s>", 0]}
  absl::Status ReadPair(const json& part, const char* key,
                        std::vector<std::string>* out) {
    const json pair = part.value(key, json());
    if (!pair.is_array() || pair.size() != 2) {
      return Malformed("\"", key, "\" of the post_processor is ",
                       Describe(pair), "; it must be a token and its id");
    }
    H2O_RETURN_IF_ERROR(AddId(pair[0], pair[1]));
    out->push_back(pair[0].get<std::string>());
    return absl::OkStatus();
  }

  // {"single": [{"SpecialToken": {"id": "</s>"}}, {"Sequence": {"id": "A"}}],
  //  "special_tokens": {"</s>": {"tokens": ["</s>"]}}}
  absl::Status ReadTemplate(const json& part) {
    const json single = In(part, "single");
    const json special = In(part, "special_tokens");
    if (!single.is_array() || !special.is_object()) {
      return Malformed(
          "the TemplateProcessing of \"post_processor\" must have "
          "\"single\" and \"special_tokens\"");
    }
    std::vector<std::string>* out = &file_.tokens.front;
    int num_texts = 0;
    for (const json& piece : single) {
      if (piece.is_object() && piece.contains("Sequence")) {
        ++num_texts;
        out = &file_.tokens.back;
        continue;
      }
      H2O_RETURN_IF_ERROR(ReadTemplateToken(piece, special, out));
    }
    if (num_texts == 1) return absl::OkStatus();
    return Unsupported(
        "the TemplateProcessing of \"post_processor\" has the "
        "text ",
        num_texts, " times; it must have it once");
  }
  absl::Status ReadTemplateToken(const json& piece, const json& special,
                                 std::vector<std::string>* out) {
    const json token = In(piece, "SpecialToken");
    const json id = In(token, "id");
    const json entry =
        id.is_string() ? In(special, id.get<std::string>()) : json();
    const json tokens = In(entry, "tokens");
    const json ids = In(entry, "ids");
    if (!tokens.is_array() || !ids.is_array() || tokens.size() != ids.size()) {
      return Malformed(
          "\"special_tokens\" of the post_processor must have "
          "\"tokens\" and as many \"ids\" for ",
          Describe(id));
    }
    for (size_t i = 0; i < tokens.size(); ++i) {
      H2O_RETURN_IF_ERROR(AddId(tokens[i], ids[i]));
      out->push_back(tokens[i].get<std::string>());
    }
    return absl::OkStatus();
  }
  static json In(const json& object, const std::string& key) {
    return object.is_object() ? object.value(key, json()) : json();
  }

  absl::Status CheckDecoder(const json& part) const {
    const std::vector<json> parts = PartsOf(part, "decoders");
    if (parts.empty() ||
        (parts.size() == 1 && TypeOf(parts[0]) == "ByteLevel")) {
      return absl::OkStatus();
    }
    return Unsupported("\"decoder\" is ", Named(part),
                       "; only \"ByteLevel\" is supported");
  }

  static std::string Named(const json& part) {
    const std::string type = TypeOf(part);
    return type.empty() ? Describe(part) : absl::StrCat("\"", type, "\"");
  }

  const std::string& path_;
  TokenizerJson file_;
};

}  // namespace

absl::StatusOr<TokenizerJson> ReadTokenizerJson(const std::string& path) {
  return Reader(path).Read();
}

}  // namespace h2o
