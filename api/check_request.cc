// Checks requests without a model: see check_request.h.
#include "api/check_request.h"

#include <cmath>
#include <set>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "base/utf8.h"

namespace h2o {
namespace {

template <typename... Parts>
absl::Status Bad(const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat(parts...));
}

absl::Status CheckTokens(const char* field,
                         const std::vector<int32_t>& tokens) {
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] < 0) {
      return Bad(field, "[", i, "] is ", tokens[i],
                 "; token ids are 0 or more");
    }
  }
  return absl::OkStatus();
}

absl::Status CheckPenalty(const char* name, float penalty) {
  if (!(std::abs(penalty) <= kMostPenalty)) {
    return Bad(name, " is ", penalty, "; it must be ", -kMostPenalty, " to ",
               kMostPenalty);
  }
  return absl::OkStatus();
}

absl::Status CheckSampling(const SamplingParams& sampling) {
  if (!std::isfinite(sampling.temperature) || sampling.temperature < 0) {
    return Bad("temperature is ", sampling.temperature,
               "; it must be 0 (greedy) or more, and finite");
  }
  if (sampling.top_k < 0) {
    return Bad("top_k is ", sampling.top_k, "; it must be 0 (off) or more");
  }
  if (!(sampling.top_p >= 0 && sampling.top_p <= 1)) {
    return Bad("top_p is ", sampling.top_p,
               "; it must be over 0 and at most 1 (0 or 1: off)");
  }
  if (!(sampling.min_p >= 0 && sampling.min_p <= 1)) {
    return Bad("min_p is ", sampling.min_p, "; it must be 0 (off) to 1");
  }
  if (!std::isfinite(sampling.repetition_penalty) ||
      sampling.repetition_penalty < 0) {
    return Bad("repetition_penalty is ", sampling.repetition_penalty,
               "; it must be over 0, and finite (0 or 1: off)");
  }
  H2O_RETURN_IF_ERROR(
      CheckPenalty("frequency_penalty", sampling.frequency_penalty));
  return CheckPenalty("presence_penalty", sampling.presence_penalty);
}

absl::Status CheckChoices(const Request& request) {
  if (request.n < 1 || request.n > kMostChoices) {
    return Bad("n is ", request.n, "; it must be 1 to ", kMostChoices);
  }
  if (request.n > 1 && !request.generated.empty()) {
    return Bad("n is ", request.n,
               ", and generated holds the tokens of one answer; resume each "
               "choice by itself, with its seed");
  }
  return absl::OkStatus();
}

absl::Status CheckLogitBias(const std::vector<LogitBias>& biases) {
  if (static_cast<int64_t>(biases.size()) > kMaxLogitBiases) {
    return Bad("logit_bias has ", biases.size(), " tokens; at most ",
               kMaxLogitBiases, " are allowed");
  }
  std::set<int32_t> seen;  // ranks would not add up two of one token alike
  for (const LogitBias& bias : biases) {
    if (!seen.insert(bias.token).second) {
      return Bad("logit_bias names token ", bias.token, " twice");
    }
    if (bias.token < 0) {
      return Bad("logit_bias names token ", bias.token,
                 "; token ids are 0 or more");
    }
    if (!(std::abs(bias.bias) <= kMostLogitBias)) {
      return Bad("logit_bias of token ", bias.token, " is ", bias.bias,
                 "; it must be ", -kMostLogitBias, " to ", kMostLogitBias);
    }
  }
  return absl::OkStatus();
}

absl::Status CheckLogprobs(const Request& request) {
  if (request.top_logprobs < 0 || request.top_logprobs > kMostTopLogprobs) {
    return Bad("top_logprobs is ", request.top_logprobs, "; it must be 0 to ",
               kMostTopLogprobs);
  }
  if (request.top_logprobs > 0 && !request.logprobs &&
      !request.prompt_logprobs) {
    return Bad("top_logprobs is ", request.top_logprobs,
               ", but neither logprobs nor prompt_logprobs are asked for");
  }
  return absl::OkStatus();
}

absl::Status CheckStopTokens(const std::vector<int32_t>& ids) {
  if (ids.size() > kMaxStopTokens) {
    return Bad("stop_token_ids has ", ids.size(), " ids; at most ",
               kMaxStopTokens, " are allowed");
  }
  return CheckTokens("stop_token_ids", ids);
}

absl::Status CheckStop(const std::vector<std::string>& stop, int max_stop) {
  if (static_cast<int64_t>(stop.size()) > max_stop) {
    return Bad("stop has ", stop.size(), " strings; at most ", max_stop,
               " are allowed");
  }
  for (size_t i = 0; i < stop.size(); ++i) {
    if (stop[i].empty()) {
      return Bad("stop[", i, "] is empty; a stop string needs a character");
    }
    if (stop[i].size() > kMaxStopBytes) {
      return Bad("stop[", i, "] has ", stop[i].size(), " bytes; at most ",
                 kMaxStopBytes, " are allowed");
    }
    H2O_RETURN_IF_ERROR(CheckUtf8(absl::StrCat("stop[", i, "]"), stop[i]));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckRequest(const Request& request, int max_stop) {
  if (!request.has_text && request.tokens.empty()) {
    return Bad("the prompt has no tokens; give at least one, or a text");
  }
  H2O_RETURN_IF_ERROR(CheckUtf8("the prompt", request.text));
  H2O_RETURN_IF_ERROR(CheckTokens("tokens", request.tokens));
  H2O_RETURN_IF_ERROR(CheckTokens("generated", request.generated));
  if (request.max_tokens && *request.max_tokens < 1) {
    return Bad("max_tokens is ", *request.max_tokens,
               "; it must be at least 1");
  }
  if (request.min_tokens < 0) {
    return Bad("min_tokens is ", request.min_tokens, "; it must be 0 or more");
  }
  if (request.max_tokens && request.min_tokens > *request.max_tokens) {
    return Bad("min_tokens is ", request.min_tokens, "; max_tokens is ",
               *request.max_tokens);
  }
  H2O_RETURN_IF_ERROR(CheckSampling(request.sampling));
  H2O_RETURN_IF_ERROR(CheckChoices(request));
  H2O_RETURN_IF_ERROR(CheckLogitBias(request.logit_bias));
  H2O_RETURN_IF_ERROR(CheckLogprobs(request));
  H2O_RETURN_IF_ERROR(CheckStop(request.stop, max_stop));
  H2O_RETURN_IF_ERROR(CheckStopTokens(request.stop_token_ids));
  if (request.kv_policy) {
    H2O_RETURN_IF_ERROR(ValidateKvPolicyRequest(*request.kv_policy));
  }
  if (!request.generated.empty() && request.sampling.temperature > 0 &&
      !request.has_seed) {
    return Bad(
        "generated is given without the seed of the request that is resumed; "
        "other random numbers would draw other tokens");
  }
  return absl::OkStatus();
}

}  // namespace h2o
