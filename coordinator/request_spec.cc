// Checks requests against the model and resolves them for the workers.
#include "coordinator/request_spec.h"

#include <algorithm>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include "absl/algorithm/container.h"
#include "absl/strings/str_cat.h"
#include "api/check_request.h"
#include "api/refusal.h"
#include "base/status_macros.h"

namespace h2o {
namespace {

absl::Status CheckVocabulary(const std::vector<int32_t>& tokens,
                             const char* what, int vocab_size) {
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] < 0 || tokens[i] >= vocab_size) {
      return absl::InvalidArgumentError(
          absl::StrCat(what, " ", tokens[i], " at index ", i,
                       " is not in the vocabulary, 0 to ", vocab_size - 1));
    }
  }
  return absl::OkStatus();
}

// Tokens to generate.  The last is not stored, so it needs no position.
absl::StatusOr<int32_t> MaxTokensOf(const Request& request, int max_positions) {
  const int64_t prompt = static_cast<int64_t>(request.tokens.size());
  const int64_t most = max_positions - prompt + 1;
  const int64_t unless_told =
      request.fills_positions ? max_positions : int64_t{kDefaultMaxTokens};
  const int64_t wanted = request.max_tokens.value_or(
      std::min<int64_t>(unless_told, std::max<int64_t>(most, 1)));
  if (wanted > most) {
    return NeverFitting(absl::InvalidArgumentError(absl::StrCat(
        "a prompt of ", prompt, " tokens and max_tokens ", wanted, " need ",
        prompt + wanted - 1, " positions; the model has ", max_positions)));
  }
  return static_cast<int32_t>(wanted);
}

// Refuses by its length alone a prompt that the model has no positions for,
// because all other checks, and the encoder, read all of it.
absl::Status CheckLength(const Request& request, const RequestRules& rules) {
  const int64_t positions = rules.config.max_positions;
  if (request.has_text && rules.tokenizer != nullptr) {
    const int64_t least = rules.tokenizer->LeastTokens(request.text);
    if (least > positions) {
      return NeverFitting(absl::InvalidArgumentError(absl::StrCat(
          "a prompt of ", request.text.size(), " bytes is at least ", least,
          " tokens; the model has ", positions, " positions")));
    }
  }
  if (static_cast<int64_t>(request.tokens.size()) > positions) {
    return NeverFitting(absl::InvalidArgumentError(
        absl::StrCat("a prompt of ", request.tokens.size(),
                     " tokens; the model has ", positions, " positions")));
  }
  return absl::OkStatus();
}

// Tokens that the client has of an earlier answer.
absl::Status CheckGenerated(const Request& request, const SequenceSpec& spec,
                            const RequestRules& rules) {
  const std::vector<int32_t>& given = request.generated;
  H2O_RETURN_IF_ERROR(
      CheckVocabulary(given, "generated token", rules.config.vocab_size));
  if (!given.empty() && static_cast<int64_t>(given.size()) >= spec.max_tokens) {
    return absl::InvalidArgumentError(absl::StrCat(
        "generated has ", given.size(), " tokens; max_tokens, ",
        spec.max_tokens, ", counts them and leaves none to generate"));
  }
  const auto ends = [&](int32_t token) {
    return absl::c_linear_search(spec.stop_tokens, token) ||
           (!spec.ignore_eos &&
            absl::c_linear_search(rules.config.stop_tokens, token));
  };
  for (size_t i = 0; i < given.size(); ++i) {
    if (ends(given[i])) {
      return absl::InvalidArgumentError(
          absl::StrCat("generated[", i, "] is ", given[i],
                       ", which ends the answer; there is nothing to resume"));
    }
  }
  return absl::OkStatus();
}

// Token ids that options name.
absl::Status CheckNamedTokens(const Request& request,
                              const RequestRules& rules) {
  const ModelConfig& config = rules.config;
  H2O_RETURN_IF_ERROR(CheckVocabulary(request.stop_token_ids, "stop token id",
                                      config.vocab_size));
  const size_t stops = request.stop_token_ids.size() +
                       (request.ignore_eos ? 0 : config.stop_tokens.size());
  if (stops > kMaxStopTokens) {
    return absl::InvalidArgumentError(absl::StrCat(
        request.stop_token_ids.size(), " stop_token_ids and the model's ",
        config.stop_tokens.size(), " are ", stops, "; at most ", kMaxStopTokens,
        " are allowed"));
  }
  std::vector<int32_t> biased;
  for (const LogitBias& bias : request.logit_bias) {
    biased.push_back(bias.token);
  }
  return CheckVocabulary(biased, "token of logit_bias", config.vocab_size);
}

}  // namespace

int64_t MostRequestBytes(const ModelConfig& config,
                         const Tokenizer* tokenizer) {
  // A number of Protobuf takes at most 10 bytes, and 1 for the name of its
  // field.
  constexpr int64_t kTokenBytes = 11;
  constexpr int64_t kStopBytes = kMostStopStrings * (kMaxStopBytes + 8);
  constexpr int64_t kBiasBytes = kMaxLogitBiases * 32;
  constexpr int64_t kOtherBytes = 4096 + kMaxStopTokens * kTokenBytes;
  const int64_t positions = config.max_positions;
  int64_t prompt = positions * kTokenBytes;
  if (tokenizer != nullptr) {
    const std::optional<int64_t> text = tokenizer->MostBytes(positions);
    if (!text) return std::numeric_limits<int64_t>::max();
    prompt = std::max(prompt, *text);
  }
  return prompt + positions * kTokenBytes + kStopBytes + kBiasBytes +
         kOtherBytes;
}

absl::Status CheckUnencoded(const Request& request, const RequestRules& rules) {
  H2O_RETURN_IF_ERROR(CheckLength(request, rules));
  H2O_RETURN_IF_ERROR(CheckRequest(request, rules.max_stop));
  if (rules.tokenizer != nullptr) return absl::OkStatus();
  if (request.has_text) {
    return absl::InvalidArgumentError(
        "a text prompt, but the model has no tokenizer; send token ids");
  }
  if (!request.stop.empty()) {
    return absl::InvalidArgumentError(
        "stop strings, but the model has no tokenizer to find them with");
  }
  return absl::OkStatus();
}

absl::Status EncodePrompt(const Tokenizer* tokenizer, Request* request) {
  if (!request->has_text) return absl::OkStatus();
  H2O_ASSIGN_OR_RETURN(
      request->tokens,
      tokenizer->Encode(request->text, request->add_special_tokens));
  request->has_text = false;
  request->text.clear();
  return absl::OkStatus();
}

absl::StatusOr<SequenceSpec> SpecOf(Request request,
                                    const RequestRules& rules) {
  if (request.tokens.empty()) {
    return absl::InvalidArgumentError(
        "the prompt is an empty text without special tokens; give at least one "
        "token");
  }
  const int vocab_size = rules.config.vocab_size;
  H2O_RETURN_IF_ERROR(
      CheckVocabulary(request.tokens, "prompt token", vocab_size));
  H2O_RETURN_IF_ERROR(
      CheckVocabulary(request.forced, "forced token", vocab_size));
  H2O_RETURN_IF_ERROR(CheckNamedTokens(request, rules));
  SequenceSpec spec;
  H2O_ASSIGN_OR_RETURN(spec.max_tokens,
                       MaxTokensOf(request, rules.config.max_positions));
  H2O_ASSIGN_OR_RETURN(
      spec.policy,
      ResolveKvPolicy(request.kv_policy.value_or(rules.default_kv_policy),
                      static_cast<int32_t>(request.tokens.size()),
                      spec.max_tokens, rules.kv_budget_cap));
  if (request.min_tokens > spec.max_tokens) {
    return absl::InvalidArgumentError(
        absl::StrCat("min_tokens is ", request.min_tokens, "; max_tokens is ",
                     spec.max_tokens, " unless told otherwise"));
  }
  spec.ignore_eos = request.ignore_eos;
  spec.stop_tokens = std::move(request.stop_token_ids);
  H2O_RETURN_IF_ERROR(CheckGenerated(request, spec, rules));
  spec.prompt = std::move(request.tokens);
  spec.sampling = request.sampling;
  spec.trace = request.trace;
  spec.forced = std::move(request.forced);
  spec.logits = request.logits;
  spec.logit_bias = std::move(request.logit_bias);
  spec.min_tokens = request.min_tokens;
  if (request.logprobs || request.prompt_logprobs) {
    spec.top_logprobs = request.top_logprobs;
  }
  spec.prompt_logprobs = request.prompt_logprobs;
  return spec;
}

}  // namespace h2o
