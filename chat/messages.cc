// Checks messages, and turns their contents into the form that is asked for.
#include "chat/messages.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "model/json_file.h"

namespace h2o {
namespace {

using nlohmann::ordered_json;

absl::Status Refuse(const std::string& where, const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat(where, " ", what));
}

absl::Status CheckPart(const std::string& where, const ordered_json& part) {
  if (!part.is_object() || !part.contains("type")) {
    return Refuse(where, "must be {\"type\": \"text\", \"text\": ..}");
  }
  if (part["type"] != "text") {
    return Refuse(where, absl::StrCat("has the type ", Describe(part["type"]),
                                      "; only \"text\" is supported"));
  }
  if (!part.contains("text") || !part["text"].is_string()) {
    return Refuse(where, "has no \"text\"");
  }
  return absl::OkStatus();
}

absl::Status CheckContent(const std::string& where,
                          const ordered_json& content) {
  if (content.is_string() || content.is_null()) return absl::OkStatus();
  if (!content.is_array()) {
    return Refuse(where, "must be a string or a list of parts");
  }
  for (size_t i = 0; i < content.size(); ++i) {
    H2O_RETURN_IF_ERROR(
        CheckPart(absl::StrCat(where, "[", i, "]"), content[i]));
  }
  return absl::OkStatus();
}

std::string JoinParts(const ordered_json& parts) {
  std::string text;
  for (const ordered_json& part : parts) {
    if (!text.empty()) text += "\n";
    text += part["text"].get_ref<const std::string&>();
  }
  return text;
}

void GiveForm(ContentForm form, ordered_json* content) {
  if (form == ContentForm::kText && content->is_array()) {
    *content = JoinParts(*content);
  }
  if (form == ContentForm::kParts && content->is_string()) {
    ordered_json part = {{"type", "text"}, {"text", std::move(*content)}};
    *content = ordered_json::array({std::move(part)});
  }
}

}  // namespace

absl::StatusOr<ordered_json> CheckedMessages(ordered_json messages,
                                             ContentForm form) {
  if (!messages.is_array() || messages.empty()) {
    return Refuse("messages", "must be a list of at least one message");
  }
  for (size_t i = 0; i < messages.size(); ++i) {
    const std::string where = absl::StrCat("messages[", i, "]");
    ordered_json& message = messages[i];
    if (!message.is_object()) return Refuse(where, "must be an object");
    if (!message.contains("role") || !message["role"].is_string()) {
      return Refuse(where, "must have a \"role\"");
    }
    if (!message.contains("content")) continue;
    H2O_RETURN_IF_ERROR(
        CheckContent(absl::StrCat(where, ".content"), message["content"]));
    GiveForm(form, &message["content"]);
  }
  return messages;
}

absl::Status AppendToLastContent(const std::string& text,
                                 ordered_json* messages) {
  ordered_json& message = messages->back();
  ordered_json* content =
      message.contains("content") ? &message["content"] : nullptr;
  if (content != nullptr && content->is_array() && !content->empty()) {
    content = &content->back()["text"];
  }
  if (content == nullptr || !content->is_string()) {
    return Refuse("continue_final_message", "takes a last message with text");
  }
  content->get_ref<std::string&>() += text;
  return absl::OkStatus();
}

}  // namespace h2o
