// Checks a request as it comes, and makes its spec if it has no text.
#include "coordinator/arrival.h"

#include <utility>

#include "absl/status/statusor.h"

namespace h2o {
namespace {

// The text has not been read yet, so this follows from its length.
int64_t ExpectedTokens(const Request& request, const RequestRules& rules) {
  const int64_t prompt = rules.tokenizer == nullptr
                             ? 0
                             : rules.tokenizer->LeastTokens(request.text);
  return prompt + request.max_tokens.value_or(kDefaultMaxTokens);
}

}  // namespace

Arrival ArrivalOf(Request request, const RequestRules& rules) {
  Arrival arrival;
  arrival.status = CheckUnencoded(request, rules);
  arrival.tenant = request.tenant;
  arrival.priority = request.priority;
  arrival.timeout_seconds = request.timeout_seconds;
  arrival.form = {.stops = request.stop,
                  .include_stop = request.include_stop,
                  .logprobs = request.logprobs,
                  .report_prompt = request.report_prompt};
  arrival.choices = request.n;
  arrival.generated = request.generated;
  if (request.has_text) {
    if (arrival.status.ok()) {
      arrival.expected_tokens = ExpectedTokens(request, rules);
    }
    arrival.to_encode = std::move(request);
  } else if (arrival.status.ok()) {
    absl::StatusOr<SequenceSpec> spec = SpecOf(std::move(request), rules);
    arrival.status = spec.status();
    if (spec.ok()) arrival.spec = *std::move(spec);
  }
  return arrival;
}

}  // namespace h2o
