// Answers the routes of OpenAI's API.
#include "coordinator/openai_service.h"

#include <chrono>
#include <ctime>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "api/json_values.h"
#include "base/cut_text.h"
#include "base/entropy.h"
#include "base/status_macros.h"
#include "coordinator/end_line.h"

namespace h2o {
namespace {

using Json = nlohmann::ordered_json;

constexpr char kModelsPath[] = "/v1/models/";

HttpResponse JsonAnswer(const Json& body) {
  return {.body = body.dump(-1, ' ', false, Json::error_handler_t::replace)};
}

// "%2F" is '/': ids may hold slashes.
std::string Unescaped(std::string_view text) {
  const auto digit = [](char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
  };
  std::string plain;
  for (size_t i = 0; i < text.size(); ++i) {
    const bool is_escape = text[i] == '%' && i + 2 < text.size() &&
                           digit(text[i + 1]) >= 0 && digit(text[i + 2]) >= 0;
    if (!is_escape) {
      plain += text[i];
      continue;
    }
    plain += static_cast<char>(digit(text[i + 1]) * 16 + digit(text[i + 2]));
    i += 2;
  }
  return plain;
}

// A conversation as the model wants it written.
absl::StatusOr<std::string> PromptOf(const OpenAiAsk& ask,
                                     const ChatTemplate* chat) {
  if (chat == nullptr) {
    return BadField("messages", "this server takes no chats");
  }
  ChatRequest request = {.messages = Json(ask.messages),
                         .add_generation_prompt = ask.add_generation_prompt,
                         .continue_final_message = ask.continue_final_message,
                         .kwargs = Json(ask.template_kwargs)};
  absl::StatusOr<std::string> text = chat->Render(request, std::time(nullptr));
  if (text.ok()) return text;
  return BadField("messages", std::string(text.status().message()));
}

// What bodies of /tokenize and /detokenize say.
struct TokensAsk {
  std::string text;
  std::vector<int32_t> tokens;
  bool add_special_tokens = true;
};

absl::StatusOr<TokensAsk> ReadTokensAsk(const std::string& body,
                                        const char* field) {
  const absl::StatusOr<nlohmann::json> object = ParseClientJson(body);
  if (!object.ok()) {
    return BadField("", std::string(object.status().message()), "invalid_json");
  }
  TokensAsk ask;
  const auto value = object->find(field);
  if (value == object->end()) {
    return BadField(field, absl::StrCat(field, " is missing"),
                    "missing_required_parameter");
  }
  absl::Status read = value->is_string()
                          ? ReadString(field, *value, &ask.text)
                          : ReadTokens(field, *value, &ask.tokens);
  const auto special = object->find("add_special_tokens");
  if (read.ok() && special != object->end() && !special->is_null()) {
    field = "add_special_tokens";
    read = ReadBool(field, *special, &ask.add_special_tokens);
  }
  if (!read.ok()) return BadField(field, std::string(read.message()));
  return ask;
}

}  // namespace

OpenAiService::OpenAiService(OpenAiServiceOptions options, Engine* engine,
                             const Clock* clock)
    : options_(std::move(options)),
      engine_(engine),
      created_(std::chrono::duration_cast<std::chrono::seconds>(
                   std::chrono::system_clock::now().time_since_epoch())
                   .count()),
      refused_(clock),
      ended_(clock),
      door_{.tokenizer = options_.tokenizer,
            .default_policy = options_.rules.default_kv_policy.name,
            .overload_status = options_.overload_status,
            .log_requests = options_.log_requests,
            .engine = engine,
            .clock = clock,
            .refused = &refused_,
            .ended = &ended_} {}

void OpenAiService::Refuse(const HttpCall& call, const absl::Status& why) {
  engine_->CountRefusal(Refusal::kBadRequest);
  refused_.Add(LogLevel::kWarning, call.id,
               absl::StrCat("refused: ", Shown(why)));
  call.Fail(ErrorOf(why, options_.overload_status));
}

void OpenAiService::Generate(OpenAiForm form, HttpCall* call) {
  absl::StatusOr<OpenAiAsk> ask = ReadAsk(form, *call);
  if (!ask.ok()) return Refuse(*call, ask.status());
  std::make_shared<CompletionCall>(&door_, *std::move(ask), call->id,
                                   call->headers, call->reply)
      ->Start();
}

absl::StatusOr<OpenAiAsk> OpenAiService::ReadAsk(OpenAiForm form,
                                                 const HttpCall& call) {
  H2O_ASSIGN_OR_RETURN(OpenAiAsk ask,
                       ParseAsk(form, call.request.body, options_.rules));
  for (Request& prompt : ask.prompts) {
    prompt.tenant = call.tenant;
    if (!prompt.has_seed) prompt.sampling.seed = RandomBits64();
  }
  if (form == OpenAiForm::kCompletion) return ask;
  H2O_ASSIGN_OR_RETURN(ask.prompts.front().text, PromptOf(ask, options_.chat));
  return ask;
}

// ---- Models

std::string OpenAiService::ModelJson() const {
  const Json model = {{"id", options_.rules.model_names.front()},
                      {"object", "model"},
                      {"created", created_},
                      {"owned_by", "h2oserve"},
                      {"root", options_.model},
                      {"parent", nullptr},
                      {"max_model_len", options_.config.max_positions},
                      {"permission", Json::array()}};
  return model.dump(-1, ' ', false, Json::error_handler_t::replace);
}

void OpenAiService::Models(const HttpCall& call) const {
  call.Send({.body = absl::StrCat(R"({"object":"list","data":[)", ModelJson(),
                                  "]}")});
}

void OpenAiService::Model(const HttpCall& call) const {
  const std::string id =
      Unescaped(call.request.path.substr(sizeof(kModelsPath) - 1));
  for (const std::string& name : options_.rules.model_names) {
    if (id == name) return call.Send({.body = ModelJson()});
  }
  call.Fail({.status = 404,
             .message = absl::StrCat("the model ", CutText(id),
                                     " does not exist; this server has ",
                                     options_.rules.model_names.front()),
             .param = "model",
             .code = "model_not_found"});
}

// ---- Tokens

void OpenAiService::Tokenize(HttpCall call) {
  absl::StatusOr<TokensAsk> ask = ReadTokensAsk(call.request.body, "prompt");
  if (!ask.ok()) return Refuse(call, ask.status());
  const bool special = ask->add_special_tokens;
  engine_->Encode(
      std::move(ask->text), special,
      [call = std::move(call), most = options_.config.max_positions](
          const absl::StatusOr<Request>& encoded) {
        if (!encoded.ok()) return call.Fail(ErrorOf(encoded.status()));
        call.Send(JsonAnswer({{"count", encoded->tokens.size()},
                              {"max_model_len", most},
                              {"tokens", encoded->tokens}}));
      });
}

void OpenAiService::Detokenize(const HttpCall& call) {
  const absl::StatusOr<TokensAsk> ask =
      ReadTokensAsk(call.request.body, "tokens");
  if (!ask.ok()) return Refuse(call, ask.status());
  if (options_.tokenizer == nullptr) {
    return Refuse(call,
                  absl::FailedPreconditionError("the model has no tokenizer"));
  }
  for (const int32_t id : ask->tokens) {
    if (id >= 0 && id < options_.config.vocab_size) continue;
    return Refuse(
        call,
        BadField("tokens",
                 absl::StrCat("token ", id, " is not in the vocabulary, 0 to ",
                              options_.config.vocab_size - 1)));
  }
  call.Send(JsonAnswer(
      {{"prompt", options_.tokenizer->Decode(ask->tokens,
                                             /*skip_special_tokens=*/false)}}));
}

}  // namespace h2o
