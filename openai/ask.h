// What a body of OpenAI's API asks for: bodies of POST /v1/completions and of
// /v1/chat/completions become requests for the Engine.
//
//   body -> ParseAsk -> OpenAiAsk, with a Request for each prompt
//
// Fields and defaults are OpenAI's and those of vLLM's server; docs/http.md has
// them all.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "api/request.h"
#include "base/kv_policy.h"

namespace h2o {

enum class OpenAiForm : uint8_t { kCompletion, kChat };

// A limit of one body: prompts times best_of.
inline constexpr int kMaxChoices = 1024;

struct OpenAiRules {
  // By which the model may be called; the first stands in answers.  Empty: any.
  std::vector<std::string> model_names;
  KvPolicyRequest default_kv_policy;
  bool strict_fields = false;  // refuse unknown fields
};

struct OpenAiAsk {
  OpenAiForm form = OpenAiForm::kCompletion;
  std::string model;  // as the answer names it
  // Of each prompt, in order, for best_of choices; with its policy, and with
  // priority as the Engine has it.  Of a chat: one, whose text is still to be
  // rendered.
  std::vector<Request> prompts;
  int n = 1;        // choices of each prompt,
  int best_of = 1;  // the likeliest of so many

  bool stream = false;
  bool include_usage = false;     // in a last chunk
  bool continuous_usage = false;  // in every chunk

  bool echo = false;
  bool no_tokens = false;  // max_tokens was 0: what is generated is dropped
  // Likeliest tokens to report beside each generated or echoed one; none: no
  // logprobs.
  std::optional<int32_t> logprobs;
  std::optional<int32_t> prompt_logprobs;  // likewise; vLLM's field
  bool return_token_ids = false;
  bool tokens_as_ids = false;  // "token_id:5" instead of the token's text
  std::string request_id;      // empty: none was given

  // Of a chat.
  nlohmann::json messages, template_kwargs;
  bool add_generation_prompt = true;
  bool continue_final_message = false;

  // All choices of the requests: best_of of the first prompt, then of the next.
  int candidates() const { return static_cast<int>(prompts.size()) * best_of; }
};

// Errors: INVALID_ARGUMENT with the field (BadField); ErrorOf makes the answer
// of it.
absl::StatusOr<OpenAiAsk> ParseAsk(OpenAiForm form, std::string_view body,
                                   const OpenAiRules& rules);

// Request::priority of a priority over HTTP, where a lower number goes first,
// as in vLLM.
int32_t PriorityOf(int32_t over_http);

}  // namespace h2o
