// Finds a model's chat template, and renders conversations with it.
#include "chat/chat_template.h"

#include <filesystem>
#include <optional>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "chat/jinja/parser.h"
#include "chat/jinja/renderer.h"
#include "chat/jinja/value.h"
#include "chat/jinja/vocabulary.h"
#include "chat/messages.h"
#include "model/json_file.h"

namespace h2o {
namespace {

using nlohmann::ordered_json;

// Stands at the end of the message that the model goes on with while it is
// rendered.  The space tells whether the template strips what it writes.
constexpr char kEndMark[] = "[end of the message to go on with] ";

constexpr const char* kTokenNames[] = {"bos_token", "eos_token", "unk_token",
                                       "sep_token", "pad_token", "cls_token",
                                       "mask_token"};

// The file's object, empty if there is no such file.
absl::StatusOr<ordered_json> ReadIfThere(const std::filesystem::path& path) {
  auto read = ReadJsonObject<ordered_json>(path.string());
  if (absl::IsNotFound(read.status())) return ordered_json::object();
  return read;
}

// The text of a token: "<s>", or {"content": "<s>", ..}.
std::optional<std::string> TokenText(const ordered_json& value) {
  if (value.is_string()) return value.get<std::string>();
  const bool has_content = value.is_object() && value.contains("content") &&
                           value["content"].is_string();
  if (!has_content) return std::nullopt;
  return value["content"].get<std::string>();
}

// The template of a tokenizer_config.json.
absl::StatusOr<std::string> TextIn(const ordered_json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (value.is_array()) {
    for (const ordered_json& entry : value) {
      const bool is_default = entry.is_object() && entry.contains("name") &&
                              entry["name"] == "default" &&
                              entry.contains("template");
      if (is_default && entry["template"].is_string()) {
        return entry["template"].get<std::string>();
      }
    }
  }
  return absl::InvalidArgumentError(
      "it must be a text, or a list of {\"name\", \"template\"} with a "
      "\"default\"");
}

// What the template takes, by what it asks of contents.
ContentForm FormOf(const jinja::Tree& tree) {
  if (!tree.goes_over_content) return ContentForm::kText;
  return tree.asks_kind ? ContentForm::kAsGiven : ContentForm::kParts;
}

absl::Status CheckFlags(const ChatRequest& request) {
  if (request.add_generation_prompt && request.continue_final_message) {
    return absl::InvalidArgumentError(
        "continue_final_message and add_generation_prompt exclude each other");
  }
  if (!request.kwargs.is_null() && !request.kwargs.is_object()) {
    return absl::InvalidArgumentError("chat_template_kwargs must be an object");
  }
  for (const char* name : {"messages", "tools", "documents", "chat_template",
                           "tokenize", "add_generation_prompt"}) {
    if (request.kwargs.contains(name)) {
      return absl::InvalidArgumentError(
          absl::StrCat("chat_template_kwargs must not have \"", name, "\""));
    }
  }
  return absl::OkStatus();
}

std::string_view TrimRight(std::string_view text) {
  const size_t last = text.find_last_not_of(" \t\r\n");
  return text.substr(0, last == std::string_view::npos ? 0 : last + 1);
}

// What stands before the mark.
absl::StatusOr<std::string> CutAtMark(const std::string& text) {
  const std::string_view mark = kEndMark;
  const std::string_view stripped = TrimRight(mark);
  const size_t at = text.rfind(stripped);
  if (at == std::string::npos) {
    return absl::InvalidArgumentError(
        "continue_final_message: the chat template does not write the last "
        "message");
  }
  const std::string_view before = std::string_view(text).substr(0, at);
  const bool keeps_space = text.compare(at, mark.size(), mark) == 0;
  return std::string(keeps_space ? before : TrimRight(before));
}

}  // namespace

absl::StatusOr<ChatTemplate> ChatTemplate::Load(const std::string& directory,
                                                const std::string& file) {
  ChatTemplate loaded;
  H2O_RETURN_IF_ERROR(loaded.ReadFiles(directory, file));
  if (!file.empty()) H2O_RETURN_IF_ERROR(loaded.fault_);
  return loaded;
}

absl::Status ChatTemplate::ReadFiles(const std::string& directory,
                                     const std::string& file) {
  const std::filesystem::path folder = directory;
  ordered_json config = ordered_json::object(), map = config;
  if (!directory.empty()) {
    H2O_ASSIGN_OR_RETURN(config, ReadIfThere(folder / "tokenizer_config.json"));
    H2O_ASSIGN_OR_RETURN(map, ReadIfThere(folder / "special_tokens_map.json"));
  }
  ReadSpecialTokens(config, map);
  if (!file.empty()) {
    H2O_ASSIGN_OR_RETURN(const std::string text, ReadWholeFile(file));
    Take(text, file);
    return absl::OkStatus();
  }
  const std::string own = (folder / "chat_template.jinja").string();
  auto text = directory.empty() ? absl::NotFoundError("") : ReadWholeFile(own);
  if (text.ok()) {
    Take(*text, own);
  } else if (!absl::IsNotFound(text.status())) {
    return text.status();
  } else if (config.contains("chat_template") &&
             !config["chat_template"].is_null()) {
    const std::string where = absl::StrCat(
        (folder / "tokenizer_config.json").string(), ", chat_template");
    text = TextIn(config["chat_template"]);
    if (text.ok()) {
      Take(*text, where);
    } else {
      fault_ = absl::InvalidArgumentError(
          absl::StrCat(where, ": ", text.status().message()));
    }
  } else {
    fault_ = absl::InvalidArgumentError(
        absl::StrCat("model ", directory,
                     " has no chat template; start the server with "
                     "--chat-template FILE, or use completions"));
  }
  return absl::OkStatus();
}

// A config that declares its added tokens replaces the older file.
void ChatTemplate::ReadSpecialTokens(const ordered_json& config,
                                     const ordered_json& map) {
  const bool declares = config.contains("added_tokens_decoder") &&
                        config["added_tokens_decoder"].is_object();
  for (const char* name : kTokenNames) {
    const bool in_map = !declares && map.contains(name);
    const ordered_json& from = in_map ? map : config;
    if (!from.contains(name)) continue;
    const std::optional<std::string> text = TokenText(from[name]);
    if (text.has_value()) tokens_[name] = *text;
  }
}

void ChatTemplate::Take(std::string_view text, const std::string& where) {
  auto tree = jinja::Parse(text);
  if (tree.ok()) {
    tree_ = std::make_shared<const jinja::Tree>(*std::move(tree));
  } else {
    fault_ = absl::InvalidArgumentError(
        absl::StrCat("chat template ", where, ": ", tree.status().message()));
  }
}

absl::StatusOr<std::string> ChatTemplate::Render(const ChatRequest& request,
                                                 std::time_t now) const {
  H2O_RETURN_IF_ERROR(fault_);
  H2O_RETURN_IF_ERROR(CheckFlags(request));
  H2O_ASSIGN_OR_RETURN(ordered_json messages,
                       CheckedMessages(request.messages, FormOf(*tree_)));
  if (request.continue_final_message) {
    H2O_RETURN_IF_ERROR(AppendToLastContent(kEndMark, &messages));
  }
  // Later names replace earlier ones.
  ordered_json names = tokens_;
  if (request.kwargs.is_object()) names.update(request.kwargs);
  names["messages"] = std::move(messages);
  names["add_generation_prompt"] = request.add_generation_prompt;
  names["tools"] = nullptr;
  names["documents"] = nullptr;

  std::tm local = {};
  localtime_r(&now, &local);
  jinja::Run run(jinja::Limits(), local);
  jinja::Variables variables;
  for (const auto& [name, json] : names.items()) {
    H2O_ASSIGN_OR_RETURN(jinja::Value value, FromJson(run.work, json));
    variables.emplace_back(name, std::move(value));
  }
  auto text = jinja::Render(*tree_, std::move(variables), run);
  if (!text.ok() && !run.raised.has_value()) {
    return absl::InvalidArgumentError(
        absl::StrCat("chat template: ", text.status().message()));
  }
  if (!text.ok() || !request.continue_final_message) return text;
  return CutAtMark(*text);
}

}  // namespace h2o
