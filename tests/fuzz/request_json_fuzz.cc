// Fuzzes the JSON form of a request: a line of an input file, or an HTTP body.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "api/check_request.h"
#include "api/request_json.h"
#include "api/result.h"
#include "base/check.h"

namespace h2o {
namespace {

// What CheckRequest lets through, the Engine may rely on.
void ExpectSound(const Request& request) {
  H2O_CHECK(request.has_text || !request.tokens.empty());
  for (int32_t id : request.tokens) H2O_CHECK(id >= 0) << id;
  H2O_CHECK(request.max_tokens.value_or(1) > 0);
  H2O_CHECK(std::isfinite(request.sampling.temperature));
  H2O_CHECK(request.sampling.temperature >= 0 && request.sampling.top_k >= 0);
  H2O_CHECK(request.sampling.top_p >= 0 && request.sampling.top_p <= 1);
  H2O_CHECK(request.sampling.min_p >= 0 && request.sampling.min_p <= 1);
  H2O_CHECK(std::isfinite(request.sampling.repetition_penalty));
  H2O_CHECK(std::isfinite(request.sampling.frequency_penalty));
  H2O_CHECK(std::isfinite(request.sampling.presence_penalty));
  for (const LogitBias& bias : request.logit_bias) {
    H2O_CHECK(bias.token >= 0 && std::isfinite(bias.bias)) << bias.token;
  }
  H2O_CHECK(request.top_logprobs >= 0);
  H2O_CHECK(request.top_logprobs <= kMostTopLogprobs);
  H2O_CHECK(request.min_tokens >= 0);
  H2O_CHECK(request.stop_token_ids.size() <= size_t{kMaxStopTokens});
  H2O_CHECK(request.stop.size() <= kMaxStopStrings);
}

// What a line says beside the request is carried to the output, one JSON object
// a line.
void ExpectCarried(std::string_view text, bool request_is_good) {
  Result result;
  if (!RequestFromJson(text, Request{}, &result.others).ok()) {
    H2O_CHECK(!request_is_good) << "it was good without other keys";
    return;
  }
  H2O_CHECK(!request_is_good || result.others.empty());
  const std::string line = ResultJson(result);
  H2O_CHECK(line.find('\n') == std::string::npos);
  const auto answer = nlohmann::json::parse(line, nullptr, false);
  H2O_CHECK(answer.is_object() && answer.contains("index")) << line;
}

void Run(std::string_view text) {
  ExpectCarried(text, RequestFromJson(text, Request{}).ok());
  const auto request = RequestFromJson(text, Request{});
  if (!request.ok()) {
    H2O_CHECK(!request.status().message().empty());
    return;
  }
  if (CheckRequest(*request).ok()) ExpectSound(*request);
}

}  // namespace
}  // namespace h2o

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  h2o::Run({reinterpret_cast<const char*>(data), size});
  return 0;
}
