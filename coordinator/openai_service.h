// The routes of OpenAI's API, and those that vLLM has beside them: completions,
// chats, models, tokens of texts.
//
// Threads  any; nothing waits.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/limited_log.h"
#include "chat/chat_template.h"
#include "coordinator/completion_call.h"
#include "coordinator/engine.h"
#include "coordinator/http_call.h"
#include "model/model_config.h"
#include "openai/ask.h"

namespace h2o {

struct OpenAiServiceOptions {
  ModelConfig config;
  std::string model;  // as --model has it
  OpenAiRules rules;
  const Tokenizer* tokenizer = nullptr;  // null: no texts
  const ChatTemplate* chat = nullptr;    // null: no chats
  int overload_status = 503;             // of a full queue
  bool log_requests = false;
};

class OpenAiService {
 public:
  // `engine` and `clock` must outlive this.
  OpenAiService(OpenAiServiceOptions options, Engine* engine,
                const Clock* clock);

  void Complete(HttpCall call) { Generate(OpenAiForm::kCompletion, &call); }
  void Chat(HttpCall call) { Generate(OpenAiForm::kChat, &call); }
  void Models(const HttpCall& call) const;
  void Model(const HttpCall& call) const;  // /v1/models/{id}
  void Tokenize(HttpCall call);
  void Detokenize(const HttpCall& call);

 private:
  void Generate(OpenAiForm form, HttpCall* call);
  // With seeds, and the chat's text.
  absl::StatusOr<OpenAiAsk> ReadAsk(OpenAiForm form, const HttpCall& call);
  void Refuse(const HttpCall& call, const absl::Status& why);
  std::string ModelJson() const;

  const OpenAiServiceOptions options_;
  Engine* const engine_;
  const int64_t created_;  // Unix, seconds
  LimitedLog refused_, ended_;
  const CompletionDoor door_;
};

}  // namespace h2o
