// Draws requests: when they come, how long they are, whose they are.
#include "loadtest/arrival_plan.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "loadtest/draws.h"

namespace h2o {
namespace {

// Tokens under it mean something special to most models.
constexpr int kFirstToken = 10;

int32_t DrawToken(const LoadSpec& spec, Draws* draws) {
  return static_cast<int32_t>(
      kFirstToken + draws->Below(std::max(1, spec.vocab_size - kFirstToken)));
}

// The time in [0, width] at which a rate that goes from `low` to `high` has
// reached `area`.  REQUIRES: it does.
double TimeWithin(double low, double high, double width, double area) {
  const double slope = (high - low) / width;
  // The root of slope/2 t^2 + low t = area, in the form that stays exact for
  // slopes near 0.
  const double root = std::sqrt(std::max(0.0, low * low + 2 * slope * area));
  return low + root > 0 ? 2 * area / (low + root) : width;
}

}  // namespace

double TimeOfArea(const std::vector<RatePoint>& rate, double area) {
  double at = 0, per_second = rate.front().per_second;
  for (const RatePoint& point : rate) {
    const double width = point.at_seconds - at;
    const double gained = width * (per_second + point.per_second) / 2;
    if (area < gained) {
      return at + TimeWithin(per_second, point.per_second, width, area);
    }
    area -= gained;
    at = point.at_seconds;
    per_second = point.per_second;
  }
  if (per_second <= 0) return std::numeric_limits<double>::infinity();
  return at + area / per_second;
}

ArrivalPlan::ArrivalPlan(const LoadSpec* spec) : spec_(*spec) {
  for (const TenantShare& tenant : spec_.tenants) {
    all_weights_ += tenant.weight;
  }
}

std::optional<double> ArrivalPlan::NextTime() {
  switch (spec_.arrivals) {
    case ArrivalKind::kClosed:
      return 0;
    case ArrivalKind::kTrace:
      if (index_ >= static_cast<int64_t>(spec_.trace.size())) return {};
      return spec_.trace[index_].at_seconds / spec_.trace_speed;
    case ArrivalKind::kConstant:
      area_ = static_cast<double>(index_);
      break;
    case ArrivalKind::kPoisson:
      area_ += Draws(spec_.seed, index_, DrawFor::kGap).Exponential();
      break;
    case ArrivalKind::kGamma:
      area_ +=
          Draws(spec_.seed, index_, DrawFor::kGap).Gamma(spec_.burstiness) /
          spec_.burstiness;
      break;
  }
  return TimeOfArea(spec_.rate, area_);
}

std::optional<PlannedRequest> ArrivalPlan::Next() {
  if (spec_.max_requests > 0 && index_ >= spec_.max_requests) return {};
  const std::optional<double> at = NextTime();
  if (!at || !std::isfinite(*at)) return {};
  if (spec_.duration_seconds > 0 && *at >= spec_.duration_seconds) return {};
  PlannedRequest request{.index = index_, .at_seconds = *at};
  if (!spec_.targets.empty()) {
    request.target =
        static_cast<int>(index_ % static_cast<int64_t>(spec_.targets.size()));
  }
  DrawLengths(&request);
  DrawTenant(&request);
  DrawPrefix(&request);
  ++index_;
  return request;
}

void ArrivalPlan::DrawLengths(PlannedRequest* request) const {
  if (spec_.trace_lengths) {
    const auto rows = static_cast<int64_t>(spec_.trace.size());
    const int64_t row =
        spec_.arrivals == ArrivalKind::kTrace
            ? index_
            : Draws(spec_.seed, index_, DrawFor::kTraceRow).Below(rows);
    request->prompt_tokens = spec_.trace[row].prompt_tokens;
    request->output_tokens = spec_.trace[row].output_tokens;
  } else {
    Draws prompt(spec_.seed, index_, DrawFor::kPromptLength);
    Draws output(spec_.seed, index_, DrawFor::kOutputLength);
    request->prompt_tokens = spec_.lengths.prompt.Draw(&prompt);
    request->output_tokens = spec_.lengths.output.Draw(&output);
  }
  const int most = spec_.max_context;
  if (most == 0 || request->prompt_tokens + request->output_tokens <= most) {
    return;
  }
  request->cut = true;
  request->prompt_tokens = std::min(request->prompt_tokens, most - 1);
  request->output_tokens = most - request->prompt_tokens;
}

void ArrivalPlan::DrawTenant(PlannedRequest* request) const {
  if (spec_.tenants.size() < 2) return;
  double left =
      all_weights_ * Draws(spec_.seed, index_, DrawFor::kTenant).Uniform();
  const int last = static_cast<int>(spec_.tenants.size()) - 1;
  while (request->tenant < last &&
         left >= spec_.tenants[request->tenant].weight) {
    left -= spec_.tenants[request->tenant].weight;
    ++request->tenant;
  }
}

void ArrivalPlan::DrawPrefix(PlannedRequest* request) const {
  Draws draws(spec_.seed, index_, DrawFor::kPrefix);
  if (draws.Uniform() >= spec_.prefix_share) return;
  request->prefix = static_cast<int>(draws.Below(spec_.num_prefixes));
}

std::vector<int32_t> PromptOf(const LoadSpec& spec,
                              const PlannedRequest& request) {
  std::vector<int32_t> tokens(request.prompt_tokens);
  size_t i = 0;
  if (request.prefix >= 0) {
    Draws shared(spec.seed, request.prefix, DrawFor::kPrefixText);
    const size_t end = std::min<size_t>(spec.prefix_tokens, tokens.size());
    for (; i < end; ++i) tokens[i] = DrawToken(spec, &shared);
  }
  Draws own(spec.seed, request.index, DrawFor::kPrompt);
  for (; i < tokens.size(); ++i) tokens[i] = DrawToken(spec, &own);
  return tokens;
}

}  // namespace h2o
