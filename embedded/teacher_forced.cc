// Makes requests of given tokens, and reads the logits of their events.
#include "embedded/teacher_forced.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"

namespace h2o {

absl::StatusOr<Request> TeacherForced(std::vector<int32_t> tokens, int prefill,
                                      std::optional<KvPolicyRequest> policy) {
  const int total = static_cast<int>(tokens.size());
  if (total == 0) {
    return absl::InvalidArgumentError("no tokens; there must be at least one");
  }
  if (prefill > total) {
    return absl::InvalidArgumentError(absl::StrCat(
        "prefill ", prefill, " is over the number of tokens, ", total));
  }
  if (prefill == 0) prefill = total;
  Request request;
  request.forced.assign(tokens.begin() + prefill, tokens.end());
  tokens.resize(prefill);
  request.tokens = std::move(tokens);
  request.max_tokens = total - prefill + 1;
  request.ignore_eos = true;
  request.kv_policy = std::move(policy);
  request.logits = true;
  return request;
}

void ForEachLogitRow(
    const StreamEvent& event, int64_t vocabulary,
    absl::FunctionRef<void(int64_t, absl::Span<const float>)> fn) {
  for (const LogitRows& part : event.logits) {
    const auto all = absl::MakeConstSpan(part.rows);
    const int64_t rows = static_cast<int64_t>(all.size()) / vocabulary;
    for (int64_t r = 0; r < rows; ++r) {
      fn(part.first_position + r, all.subspan(r * vocabulary, vocabulary));
    }
  }
}

bool IsUsable(absl::Span<const float> logits) {
  return std::all_of(logits.begin(), logits.end(), [](float x) {
    return x < std::numeric_limits<float>::infinity();
  });
}

double LogSumExp(absl::Span<const float> logits) {
  const double greatest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float x : logits) sum += std::exp(x - greatest);
  return greatest + std::log(sum);
}

}  // namespace h2o
