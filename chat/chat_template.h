// How a model wants a conversation written as one prompt: the chat template of
// its directory, rendered as Hugging Face's transformers does it
// (apply_chat_template).  docs/chat_templates.md says what a template may use.
//
// Threads  Render by any number of threads at once.
#pragma once

#include <ctime>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "chat/jinja/tree.h"

namespace h2o {

struct ChatRequest {
  // A list of {"role": "user", "content": ".."}; a content may be a list of
  // {"type": "text", "text": ".."}.  What else a message has is the template's.
  nlohmann::ordered_json messages;
  // End with the words that begin the model's answer.
  bool add_generation_prompt = true;
  // End within the last message, which the model goes on with.
  bool continue_final_message = false;
  // chat_template_kwargs: an object of further names for the template, or null.
  nlohmann::ordered_json kwargs;
};

class ChatTemplate {
 public:
  // Reads `file`, or without one what is in the model's directory:
  // chat_template.jinja, or else the "chat_template" of tokenizer_config.json,
  // which is a text or a list of {"name", "template"} with a "default".
  // The names bos_token, eos_token and so on come from the directory's
  // tokenizer_config.json and special_tokens_map.json.  An empty `directory`
  // has none of these.
  // Errors: NOT_FOUND without `file`, INVALID_ARGUMENT with its name and a line
  // for what it uses that is not supported, DATA_LOSS for a malformed JSON
  // file. A template of the directory that is not supported is no error yet:
  // Render says so, and fault().
  static absl::StatusOr<ChatTemplate> Load(const std::string& directory,
                                           const std::string& file);

  // OK if there is a template; else why Render will refuse.
  const absl::Status& fault() const { return fault_; }

  // The prompt.  It holds the special tokens in front that the template writes,
  // so the tokenizer must not add them again.  `now` is the time that
  // strftime_now prints, in the process's time zone.
  // Errors: INVALID_ARGUMENT for a malformed request, in the template's own
  // words where it raises an exception, and for a model without a template.
  absl::StatusOr<std::string> Render(const ChatRequest& request,
                                     std::time_t now) const;

 private:
  ChatTemplate() = default;

  absl::Status ReadFiles(const std::string& directory, const std::string& file);
  void ReadSpecialTokens(const nlohmann::ordered_json& config,
                         const nlohmann::ordered_json& map);
  // Takes the text of a template, or keeps why it is not taken.
  void Take(std::string_view text, const std::string& where);

  absl::Status fault_;
  std::shared_ptr<const jinja::Tree> tree_;  // null: there is none
  nlohmann::ordered_json tokens_ = nlohmann::ordered_json::object();
};

}  // namespace h2o
