// Reads bodies of OpenAI's API: one table of all fields.
#include "openai/ask.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/algorithm/container.h"
#include "absl/strings/str_cat.h"
#include "api/check_request.h"
#include "api/json_values.h"
#include "base/cut_text.h"
#include "base/logprobs.h"
#include "base/status_macros.h"
#include "openai/api_error.h"

namespace h2o {
namespace {

using nlohmann::json;

constexpr int32_t kDefaultMaxTokens = 16;  // of OpenAI's completions

// A body while it is read.  `base` has what holds for all its prompts.
struct Draft {
  OpenAiAsk ask;
  Request base;
  json prompt;
  std::optional<int32_t> max_tokens, max_completion_tokens, best_of;
  bool chat_logprobs = false;
  std::optional<int32_t> top_logprobs;
  std::string kv_policy;  // empty: not given
  std::string kv_budget;  // likewise
  std::optional<int32_t> kv_heavy, kv_recent;
};

template <typename... Parts>
absl::Status Bad(const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat(parts...));
}

absl::Status NotBuilt(const char* key, const std::string& what) {
  return BadField(key, absl::StrCat(key, " is not supported: ", what),
                  "unsupported_parameter");
}

absl::Status ReadCount(const char* key, const json& value, int32_t* out) {
  H2O_RETURN_IF_ERROR(ReadInt(key, value, out));
  if (*out >= 0) return absl::OkStatus();
  return Bad(key, " is ", *out, "; it must be 0 or more");
}

absl::Status ReadSeed(const char* key, const json& value, Draft* draft) {
  constexpr auto kMost =
      static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
  const bool fits =
      value.is_number_integer() &&
      (!value.is_number_unsigned() || value.get<uint64_t>() <= kMost);
  if (!fits) {
    return Bad(key, " is ", Shown(value),
               "; it must be a whole number of 64 bits, with a sign");
  }
  draft->base.sampling.seed = static_cast<uint64_t>(value.get<int64_t>());
  draft->base.has_seed = true;
  return absl::OkStatus();
}

// OpenAI's count of completions, of which 0 asks for the chosen token's alone;
// the yes or no of chats.
absl::Status ReadLogprobs(const char* key, const json& value, Draft* draft) {
  if (draft->ask.form == OpenAiForm::kChat) {
    return ReadBool(key, value, &draft->chat_logprobs);
  }
  return ReadCount(key, value, &draft->ask.logprobs.emplace());
}

absl::Status ReadStreamOptions(const char* key, const json& value,
                               Draft* draft) {
  if (!value.is_object()) {
    return Bad(key, " is ", Shown(value), "; it must be an object");
  }
  const auto read = [&](const char* name, bool* out) {
    const auto found = value.find(name);
    if (found == value.end() || found->is_null()) return absl::OkStatus();
    return ReadBool(name, *found, out);
  };
  H2O_RETURN_IF_ERROR(read("include_usage", &draft->ask.include_usage));
  return read("continuous_usage_stats", &draft->ask.continuous_usage);
}

absl::Status ReadResponseFormat(const char* key, const json& value,
                                Draft* /*draft*/) {
  if (value.is_object() && value.value("type", json()) == "text") {
    return absl::OkStatus();
  }
  return NotBuilt(key, "only {\"type\": \"text\"} is");
}

// Lists of what would change the answer: an empty one asks for nothing.
absl::Status ReadNoList(const char* key, const json& value, Draft* /*draft*/) {
  if (value.is_array() && value.empty()) return absl::OkStatus();
  return NotBuilt(key, "leave it out");
}

absl::Status ReadNothing(const char* key, const json& /*value*/,
                         Draft* /*draft*/) {
  return NotBuilt(key, "leave it out");
}

absl::Status ReadToolChoice(const char* key, const json& value,
                            Draft* /*draft*/) {
  if (value == "none") return absl::OkStatus();
  return NotBuilt(key, "there are no tools; \"none\" is allowed");
}

absl::Status ReadIgnored(const char* /*key*/, const json& /*value*/,
                         Draft* /*draft*/) {
  return absl::OkStatus();
}

absl::Status ReadSuffix(const char* key, const json& value, Draft* /*draft*/) {
  const auto* text = value.get_ptr<const std::string*>();
  if (text != nullptr && text->empty()) return absl::OkStatus();
  return NotBuilt(key, "text is generated behind the prompt alone");
}

absl::Status ReadBeamSearch(const char* key, const json& value,
                            Draft* /*draft*/) {
  bool use = false;
  H2O_RETURN_IF_ERROR(ReadBool(key, value, &use));
  return use ? NotBuilt(key,
                        "beams cannot share evicted KV caches; best_of "
                        "takes the likeliest of several samples")
             : absl::OkStatus();
}

absl::Status ReadLengthPenalty(const char* key, const json& value,
                               Draft* /*draft*/) {
  if (value.is_number() && value.get<double>() == 1) return absl::OkStatus();
  return NotBuilt(key, "it belongs to beam search");
}

absl::Status ReadModalities(const char* key, const json& value,
                            Draft* /*draft*/) {
  if (value == json::array({"text"})) return absl::OkStatus();
  return NotBuilt(key, "only [\"text\"] is");
}

absl::Status ReadSkipSpecial(const char* key, const json& value,
                             Draft* /*draft*/) {
  bool skip = true;
  H2O_RETURN_IF_ERROR(ReadBool(key, value, &skip));
  return skip ? absl::OkStatus()
              : NotBuilt(key,
                         "texts never hold special tokens; "
                         "return_token_ids tells them");
}

absl::Status ReadPriority(const char* key, const json& value, Draft* draft) {
  int32_t priority = 0;
  H2O_RETURN_IF_ERROR(ReadInt(key, value, &priority));
  draft->base.priority = PriorityOf(priority);
  return absl::OkStatus();
}

absl::Status ReadTopK(const char* key, const json& value, Draft* draft) {
  int32_t* const top_k = &draft->base.sampling.top_k;
  H2O_RETURN_IF_ERROR(ReadInt(key, value, top_k));
  if (*top_k == -1) *top_k = 0;  // all, in vLLM
  return absl::OkStatus();
}

absl::Status ReadN(const char* key, const json& value, Draft* draft) {
  H2O_RETURN_IF_ERROR(ReadInt(key, value, &draft->ask.n));
  if (draft->ask.n >= 1 && draft->ask.n <= kMostChoices) {
    return absl::OkStatus();
  }
  return Bad(key, " is ", draft->ask.n, "; it must be 1 to ", kMostChoices);
}

absl::Status ReadBudget(const char* key, const json& value, Draft* draft) {
  if (value.is_number()) {
    draft->kv_budget = value.dump();
    return absl::OkStatus();
  }
  return ReadString(key, value, &draft->kv_budget);
}

absl::Status ReadMessages(const char* key, const json& value, Draft* draft) {
  if (!value.is_array() || value.empty()) {
    return Bad(key, " is ", Shown(value),
               "; it must be a list of at least one message");
  }
  draft->ask.messages = value;
  return absl::OkStatus();
}

absl::Status ReadKwargs(const char* key, const json& value, Draft* draft) {
  if (!value.is_object()) {
    return Bad(key, " is ", Shown(value), "; it must be an object");
  }
  draft->ask.template_kwargs = value;
  return absl::OkStatus();
}

enum class Of : uint8_t { kBoth, kCompletion, kChat };

struct Field {
  const char* key;
  Of of;
  absl::Status (*read)(const char* key, const json& value, Draft* draft);
};

// Readers of one member each: Into<&OpenAiAsk::echo>.
Request& OwnerOf(Draft* draft, const Request*) { return draft->base; }
OpenAiAsk& OwnerOf(Draft* draft, const OpenAiAsk*) { return draft->ask; }
Draft& OwnerOf(Draft* draft, const Draft*) { return *draft; }
SamplingParams& OwnerOf(Draft* draft, const SamplingParams*) {
  return draft->base.sampling;
}

absl::Status Read(const char* key, const json& value, bool* out) {
  return ReadBool(key, value, out);
}
absl::Status Read(const char* key, const json& value, int32_t* out) {
  return ReadInt(key, value, out);
}
absl::Status Read(const char* key, const json& value,
                  std::optional<int32_t>* out) {
  return ReadCount(key, value, &out->emplace());
}
absl::Status Read(const char* key, const json& value, float* out) {
  return ReadFloat(key, value, out);
}
absl::Status Read(const char* key, const json& value, std::string* out) {
  return ReadString(key, value, out);
}
absl::Status Read(const char* key, const json& value,
                  std::vector<int32_t>* out) {
  return ReadTokens(key, value, out);
}
absl::Status Read(const char* key, const json& value,
                  std::vector<std::string>* out) {
  return ReadStrings(key, value, out);
}
absl::Status Read(const char* /*key*/, const json& value,
                  std::vector<LogitBias>* out) {
  return ReadLogitBias(value, out);
}

template <typename Owner, typename Value>
const Owner* OwnerTypeOf(Value Owner::*) {
  return nullptr;
}

template <auto kMember>
absl::Status Into(const char* key, const json& value, Draft* draft) {
  return Read(key, value, &(OwnerOf(draft, OwnerTypeOf(kMember)).*kMember));
}

constexpr Field kFields[] = {
    {"model", Of::kBoth, Into<&OpenAiAsk::model>},
    {"prompt", Of::kCompletion,
     [](const char*, const json& value, Draft* draft) {
       draft->prompt = value;
       return absl::OkStatus();
     }},
    {"messages", Of::kChat, ReadMessages},
    {"max_tokens", Of::kBoth, Into<&Draft::max_tokens>},
    {"max_completion_tokens", Of::kBoth, Into<&Draft::max_completion_tokens>},
    {"temperature", Of::kBoth, Into<&SamplingParams::temperature>},
    {"top_p", Of::kBoth, Into<&SamplingParams::top_p>},
    {"top_k", Of::kBoth, ReadTopK},
    {"min_p", Of::kBoth, Into<&SamplingParams::min_p>},
    {"repetition_penalty", Of::kBoth,
     Into<&SamplingParams::repetition_penalty>},
    {"frequency_penalty", Of::kBoth, Into<&SamplingParams::frequency_penalty>},
    {"presence_penalty", Of::kBoth, Into<&SamplingParams::presence_penalty>},
    {"logit_bias", Of::kBoth, Into<&Request::logit_bias>},
    {"seed", Of::kBoth, ReadSeed},
    {"n", Of::kBoth, ReadN},
    {"best_of", Of::kBoth, Into<&Draft::best_of>},
    {"stop", Of::kBoth, Into<&Request::stop>},
    {"include_stop_str_in_output", Of::kBoth, Into<&Request::include_stop>},
    {"stop_token_ids", Of::kBoth, Into<&Request::stop_token_ids>},
    {"min_tokens", Of::kBoth, Into<&Request::min_tokens>},
    {"ignore_eos", Of::kBoth, Into<&Request::ignore_eos>},
    {"add_special_tokens", Of::kBoth, Into<&Request::add_special_tokens>},
    {"generated", Of::kBoth, Into<&Request::generated>},
    {"priority", Of::kBoth, ReadPriority},
    {"logprobs", Of::kBoth, ReadLogprobs},
    {"top_logprobs", Of::kChat, Into<&Draft::top_logprobs>},
    {"prompt_logprobs", Of::kBoth, Into<&OpenAiAsk::prompt_logprobs>},
    {"echo", Of::kCompletion, Into<&OpenAiAsk::echo>},
    {"stream", Of::kBoth, Into<&OpenAiAsk::stream>},
    {"stream_options", Of::kBoth, ReadStreamOptions},
    {"return_token_ids", Of::kBoth, Into<&OpenAiAsk::return_token_ids>},
    {"return_tokens_as_token_ids", Of::kBoth, Into<&OpenAiAsk::tokens_as_ids>},
    {"request_id", Of::kBoth, Into<&OpenAiAsk::request_id>},
    {"kv_policy", Of::kBoth, Into<&Draft::kv_policy>},
    {"kv_budget", Of::kBoth, ReadBudget},
    {"kv_heavy", Of::kBoth, Into<&Draft::kv_heavy>},
    {"kv_recent", Of::kBoth, Into<&Draft::kv_recent>},
    {"kv_trace", Of::kBoth, Into<&Request::trace>},
    {"add_generation_prompt", Of::kChat,
     Into<&OpenAiAsk::add_generation_prompt>},
    {"continue_final_message", Of::kChat,
     Into<&OpenAiAsk::continue_final_message>},
    {"chat_template_kwargs", Of::kChat, ReadKwargs},
    {"skip_special_tokens", Of::kBoth, ReadSkipSpecial},
    {"response_format", Of::kBoth, ReadResponseFormat},
    // What changes nothing here.
    {"user", Of::kBoth, ReadIgnored},
    {"metadata", Of::kBoth, ReadIgnored},
    {"store", Of::kBoth, ReadIgnored},
    {"service_tier", Of::kBoth, ReadIgnored},
    {"parallel_tool_calls", Of::kBoth, ReadIgnored},
    {"spaces_between_special_tokens", Of::kBoth, ReadIgnored},
    {"early_stopping", Of::kBoth, ReadIgnored},
    // What is not built, by name: an answer that lacks it would be wrong.
    {"suffix", Of::kBoth, ReadSuffix},
    {"use_beam_search", Of::kBoth, ReadBeamSearch},
    {"length_penalty", Of::kBoth, ReadLengthPenalty},
    {"tools", Of::kBoth, ReadNoList},
    {"functions", Of::kBoth, ReadNoList},
    {"tool_choice", Of::kBoth, ReadToolChoice},
    {"function_call", Of::kBoth, ReadToolChoice},
    {"modalities", Of::kBoth, ReadModalities},
    {"audio", Of::kBoth, ReadNothing},
    {"chat_template", Of::kBoth,
     [](const char* key, const json&, Draft*) {
       return NotBuilt(key, "the operator names it (--chat-template)");
     }},
    {"truncate_prompt_tokens", Of::kBoth, ReadNothing},
    {"allowed_token_ids", Of::kBoth, ReadNoList},
    {"bad_words", Of::kBoth, ReadNoList},
    {"guided_json", Of::kBoth, ReadNothing},
    {"guided_regex", Of::kBoth, ReadNothing},
    {"guided_choice", Of::kBoth, ReadNothing},
    {"guided_grammar", Of::kBoth, ReadNothing},
    {"structured_outputs", Of::kBoth, ReadNothing},
    {"logits_processors", Of::kBoth, ReadNoList},
    {"prompt_embeds", Of::kBoth, ReadNothing},
};

bool IsOf(Of of, OpenAiForm form) {
  return of == Of::kBoth || (of == Of::kChat) == (form == OpenAiForm::kChat);
}

absl::Status ReadFields(const json& object, bool strict, Draft* draft) {
  for (const auto& [key, value] : object.items()) {
    const auto* const field =
        absl::c_find_if(kFields, [&key = key, draft](const Field& f) {
          return key == f.key && IsOf(f.of, draft->ask.form);
        });
    if (field == std::end(kFields)) {
      if (!strict) continue;
      return BadField(CutText(key),
                      absl::StrCat("unknown field ", CutText(key)),
                      "unknown_parameter");
    }
    if (value.is_null()) continue;  // as if it were absent
    const absl::Status read = field->read(field->key, value, draft);
    if (read.ok()) continue;
    // BadField's say more already.
    bool is_bad_field = false;
    read.ForEachPayload([&](auto, const auto&) { is_bad_field = true; });
    return is_bad_field ? read
                        : BadField(field->key, std::string(read.message()));
  }
  return absl::OkStatus();
}

// ---- What fields mean together

absl::Status NameModel(const OpenAiRules& rules, OpenAiAsk* ask) {
  if (rules.model_names.empty()) return absl::OkStatus();
  if (!ask->model.empty() &&
      !absl::c_linear_search(rules.model_names, ask->model)) {
    return BadField("model",
                    absl::StrCat("the model ", CutText(ask->model),
                                 " does not exist; this server has ",
                                 rules.model_names.front()),
                    "model_not_found");
  }
  ask->model = rules.model_names.front();
  return absl::OkStatus();
}

absl::Status SetPolicy(const OpenAiRules& rules, Draft* draft) {
  KvPolicyRequest policy = rules.default_kv_policy;
  const bool only_default = draft->kv_policy.empty() &&
                            draft->kv_budget.empty() && !draft->kv_heavy &&
                            !draft->kv_recent;
  if (only_default) return absl::OkStatus();
  if (!draft->kv_policy.empty()) {
    const std::optional<KvPolicyName> name =
        ParseKvPolicyName(draft->kv_policy);
    if (!name) {
      return BadField("kv_policy",
                      absl::StrCat("kv_policy is ", CutText(draft->kv_policy),
                                   "; it must be full, h2o, recent or sink"));
    }
    policy = {.name = *name};
  }
  if (!draft->kv_budget.empty()) {
    policy.budget_tokens.reset();
    policy.budget_percent.reset();
    policy.heavy.reset();
    policy.recent.reset();
    if (const absl::Status parsed = ParseKvBudget(draft->kv_budget, &policy);
        !parsed.ok()) {
      return BadField("kv_budget", std::string(parsed.message()));
    }
  }
  if (draft->kv_heavy) policy.heavy = draft->kv_heavy;
  if (draft->kv_recent) policy.recent = draft->kv_recent;
  draft->base.kv_policy = policy;
  return absl::OkStatus();
}

absl::Status SetMaxTokens(Draft* draft) {
  const bool is_chat = draft->ask.form == OpenAiForm::kChat;
  std::optional<int32_t> most = draft->max_completion_tokens;
  if (!most) most = draft->max_tokens;
  if (!most && !is_chat) most = kDefaultMaxTokens;
  draft->base.fills_positions = !most;
  draft->base.max_tokens = most;
  if (most != 0) return absl::OkStatus();
  if (!draft->ask.echo) {
    return BadField("max_tokens",
                    "max_tokens is 0; it must be at least 1 without echo");
  }
  draft->ask.no_tokens = true;
  draft->base.max_tokens = 1;
  draft->base.ignore_eos = true;  // so that it ends by its length
  return absl::OkStatus();
}

absl::Status SetLogprobs(Draft* draft) {
  OpenAiAsk& ask = draft->ask;
  if (draft->chat_logprobs) ask.logprobs = draft->top_logprobs.value_or(0);
  if (draft->top_logprobs.value_or(0) > 0 && !draft->chat_logprobs) {
    return BadField("top_logprobs", "top_logprobs needs logprobs: true");
  }
  const int32_t most =
      std::max(ask.logprobs.value_or(0), ask.prompt_logprobs.value_or(0));
  if (most > kMostTopLogprobs) {
    const char* const field = ask.prompt_logprobs == most ? "prompt_logprobs"
                              : ask.form == OpenAiForm::kChat ? "top_logprobs"
                                                              : "logprobs";
    return BadField(field,
                    absl::StrCat(field, " is ", most, "; it must be 0 to ",
                                 kMostTopLogprobs));
  }
  Request& base = draft->base;
  base.logprobs = ask.logprobs.has_value() || ask.best_of > ask.n;
  base.prompt_logprobs =
      ask.prompt_logprobs.has_value() || (ask.echo && ask.logprobs);
  base.top_logprobs = most;
  base.report_prompt = ask.echo || ask.return_token_ids ||
                       ask.continuous_usage || base.prompt_logprobs;
  return absl::OkStatus();
}

absl::Status SetChoices(Draft* draft) {
  OpenAiAsk& ask = draft->ask;
  ask.best_of = draft->best_of.value_or(ask.n);
  draft->base.n = ask.best_of;
  if (ask.best_of < ask.n || ask.best_of > kMostChoices) {
    return BadField("best_of", absl::StrCat("best_of is ", ask.best_of,
                                            "; it must be at least n, ", ask.n,
                                            ", and at most ", kMostChoices));
  }
  if (ask.best_of > ask.n && ask.stream) {
    return BadField("best_of",
                    "best_of over n cannot be streamed: the best is known at "
                    "the end");
  }
  return absl::OkStatus();
}

absl::Status BadPrompt(const std::string& message) {
  return BadField("prompt", message);
}

// A text, tokens, or a list of either.
absl::Status AddPrompts(Draft* draft) {
  const json& prompt = draft->prompt;
  const auto add = [draft](const json& one) {
    Request& request = draft->ask.prompts.emplace_back(draft->base);
    request.has_text = one.is_string();
    if (request.has_text) {
      request.text = one.get<std::string>();
      return absl::OkStatus();
    }
    const absl::Status read = ReadTokens("prompt", one, &request.tokens);
    if (!read.ok()) return BadPrompt(std::string(read.message()));
    return one.empty() ? BadPrompt("a prompt is an empty list of tokens")
                       : absl::OkStatus();
  };
  if (prompt.is_null()) {
    return BadField("prompt",
                    "prompt is missing; give a text, token ids, or a list of "
                    "either",
                    "missing_required_parameter");
  }
  if (!prompt.is_string() && !prompt.is_array()) {
    return BadPrompt(absl::StrCat("prompt is ", Shown(prompt),
                                  "; it must be a text, token ids, or a list "
                                  "of either"));
  }
  if (prompt.is_string()) return add(prompt);
  if (prompt.empty()) return BadPrompt("prompt is an empty list");
  if (prompt.front().is_number()) return add(prompt);
  if (static_cast<int64_t>(prompt.size()) > kMaxChoices) {
    return BadPrompt(absl::StrCat("prompt has ", prompt.size(),
                                  " prompts; at most ", kMaxChoices,
                                  " are allowed"));
  }
  for (const json& one : prompt) {
    if (!one.is_string() && !one.is_array()) {
      return BadPrompt(absl::StrCat("prompt holds ", Shown(one),
                                    "; it must be texts or lists of tokens"));
    }
    H2O_RETURN_IF_ERROR(add(one));
  }
  return absl::OkStatus();
}

absl::Status AddChat(Draft* draft) {
  if (draft->ask.messages.is_null()) {
    return BadField("messages", "messages is missing",
                    "missing_required_parameter");
  }
  if (draft->ask.continue_final_message && draft->ask.add_generation_prompt) {
    // vLLM asks for both to be said; the one that was named is meant.
    draft->ask.add_generation_prompt = false;
  }
  // The template writes the special tokens itself.
  draft->base.add_special_tokens = false;
  draft->base.has_text = true;
  draft->ask.prompts = {draft->base};
  return absl::OkStatus();
}

absl::Status CheckTogether(const OpenAiAsk& ask) {
  if (ask.candidates() > kMaxChoices) {
    return BadField(
        "n", absl::StrCat(ask.prompts.size(), " prompts with ", ask.best_of,
                          " choices each are ", ask.candidates(), "; at most ",
                          kMaxChoices, " are allowed"));
  }
  if (!ask.prompts.front().generated.empty() && ask.candidates() > 1) {
    return BadField("generated",
                    "generated belongs to one choice; send one "
                    "prompt with n 1");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<OpenAiAsk> ParseAsk(OpenAiForm form, std::string_view body,
                                   const OpenAiRules& rules) {
  const absl::StatusOr<json> object = ParseClientJson(body);
  if (!object.ok()) {
    return BadField("", std::string(object.status().message()), "invalid_json");
  }
  Draft draft;
  draft.ask.form = form;
  draft.base.sampling.temperature = 1;
  H2O_RETURN_IF_ERROR(ReadFields(*object, rules.strict_fields, &draft));
  H2O_RETURN_IF_ERROR(NameModel(rules, &draft.ask));
  H2O_RETURN_IF_ERROR(SetPolicy(rules, &draft));
  H2O_RETURN_IF_ERROR(SetMaxTokens(&draft));
  H2O_RETURN_IF_ERROR(SetChoices(&draft));
  H2O_RETURN_IF_ERROR(SetLogprobs(&draft));
  H2O_RETURN_IF_ERROR(form == OpenAiForm::kChat ? AddChat(&draft)
                                                : AddPrompts(&draft));
  H2O_RETURN_IF_ERROR(CheckTogether(draft.ask));
  return std::move(draft.ask);
}

int32_t PriorityOf(int32_t over_http) {
  return over_http == std::numeric_limits<int32_t>::min()
             ? std::numeric_limits<int32_t>::max()
             : -over_http;
}

}  // namespace h2o
