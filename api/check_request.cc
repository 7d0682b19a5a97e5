// Checks requests without a model: see check_request.h.
#include "api/check_request.h"

#include <cmath>
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
  return absl::OkStatus();
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
  H2O_RETURN_IF_ERROR(CheckSampling(request.sampling));
  H2O_RETURN_IF_ERROR(CheckStop(request.stop, max_stop));
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
