// Writes and reads the description of a load.
#include "loadtest/load_spec.h"

#include <algorithm>
#include <iterator>
#include <nlohmann/json.hpp>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/status_macros.h"

namespace h2o {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kArrivals[] = {"poisson", "gamma", "constant", "trace",
                                     "closed"};

// Each field once: `visit(key, &field)` writes or reads it.
template <typename Spec, typename Visit>
void ForEachField(Spec& spec, const Visit& visit) {
  visit("burstiness", spec.burstiness);
  visit("concurrency", spec.concurrency);
  visit("duration_seconds", spec.duration_seconds);
  visit("max_requests", spec.max_requests);
  visit("warmup_seconds", spec.warmup_seconds);
  visit("trace_lengths", spec.trace_lengths);
  visit("trace_speed", spec.trace_speed);
  visit("max_context", spec.max_context);
  visit("vocab_size", spec.vocab_size);
  visit("prefix_share", spec.prefix_share);
  visit("prefix_tokens", spec.prefix_tokens);
  visit("num_prefixes", spec.num_prefixes);
  visit("targets", spec.targets);
  visit("seed", spec.seed);
  visit("drain_seconds", spec.drain_seconds);
  visit("max_in_flight", spec.max_in_flight);
}

void ReadLists(const Json& json, LoadSpec* spec) {
  for (const Json& point : json.at("rate")) {
    spec->rate.push_back(
        {point.at(0).get<double>(), point.at(1).get<double>()});
  }
  for (const Json& row : json.at("trace")) {
    spec->trace.push_back(
        {row.at(0).get<double>(), row.at(1).get<int>(), row.at(2).get<int>()});
  }
  for (const Json& tenant : json.at("tenants")) {
    spec->tenants.push_back(
        {tenant.at(0).get<std::string>(), tenant.at(1).get<double>()});
  }
}

// Of a description that another program sent: what the plan relies on.
absl::Status Check(const LoadSpec& spec) {
  const bool by_rate = spec.arrivals != ArrivalKind::kTrace &&
                       spec.arrivals != ArrivalKind::kClosed;
  const bool by_trace =
      spec.trace_lengths || spec.arrivals == ArrivalKind::kTrace;
  bool good = !spec.targets.empty() && spec.num_prefixes >= 1 &&
              spec.prefix_tokens >= 0 && spec.burstiness > 0 &&
              spec.trace_speed > 0 && spec.concurrency >= 1 &&
              spec.max_in_flight >= 1 && spec.max_context != 1 &&
              !(by_rate && spec.rate.empty()) &&
              !(by_trace && spec.trace.empty());
  for (const TraceRow& row : spec.trace) {
    good &= IsLength(row.prompt_tokens) && IsLength(row.output_tokens);
  }
  if (good) return absl::OkStatus();
  return absl::InvalidArgumentError("this describes no load that can be made");
}

bool ParsePoint(const std::string& text, RatePoint* point) {
  const std::vector<std::string> parts = absl::StrSplit(text, ':');
  return parts.size() == 2 && absl::SimpleAtod(parts[0], &point->at_seconds) &&
         absl::SimpleAtod(parts[1], &point->per_second) &&
         point->at_seconds >= 0 && point->at_seconds <= 1e9 &&
         point->per_second >= 0 && point->per_second <= 1e6;
}

}  // namespace

const char* Name(ArrivalKind arrivals) {
  return kArrivals[static_cast<int>(arrivals)];
}

absl::StatusOr<ArrivalKind> ParseArrivals(std::string_view name) {
  for (size_t i = 0; i < std::size(kArrivals); ++i) {
    if (name == kArrivals[i]) return static_cast<ArrivalKind>(i);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("'", std::string(name), "' are no arrivals"));
}

absl::StatusOr<std::vector<RatePoint>> ParseRate(const std::string& text) {
  const auto wrong = [&] {
    return absl::InvalidArgumentError(absl::StrCat(
        "'", text,
        "' is no rate; give requests per second, over 0 and at most 1e6, or "
        "points SECOND:RATE in order, such as 0:1,60:20"));
  };
  double steady = 0;
  if (absl::SimpleAtod(text, &steady)) {
    if (!(steady > 0) || steady > 1e6) return wrong();
    return std::vector<RatePoint>{{0, steady}};
  }
  std::vector<RatePoint> points;
  double greatest = 0;
  const std::vector<std::string> parts = absl::StrSplit(text, ',');
  for (const std::string& part : parts) {
    RatePoint point;
    if (!ParsePoint(part, &point)) return wrong();
    if (!points.empty() && point.at_seconds < points.back().at_seconds) {
      return wrong();
    }
    greatest = std::max(greatest, point.per_second);
    points.push_back(point);
  }
  if (greatest <= 0) return wrong();
  return points;
}

std::string ToJson(const LoadSpec& spec) {
  Json json = {{"arrivals", Name(spec.arrivals)}};
  ForEachField(spec,
               [&](const char* key, const auto& value) { json[key] = value; });
  json["prompt_tokens"] = spec.lengths.prompt.ToString();
  json["output_tokens"] = spec.lengths.output.ToString();
  json["rate"] = Json::array();
  for (const RatePoint& point : spec.rate) {
    json["rate"].push_back({point.at_seconds, point.per_second});
  }
  json["trace"] = Json::array();
  for (const TraceRow& row : spec.trace) {
    json["trace"].push_back(
        {row.at_seconds, row.prompt_tokens, row.output_tokens});
  }
  json["tenants"] = Json::array();
  for (const TenantShare& tenant : spec.tenants) {
    json["tenants"].push_back(Json::array({tenant.name, tenant.weight}));
  }
  return json.dump();
}

absl::StatusOr<LoadSpec> LoadSpecFromJson(std::string_view text) {
  LoadSpec spec;
  try {
    const Json json = Json::parse(text);
    ForEachField(spec, [&](const char* key, auto& value) {
      json.at(key).get_to(value);
    });
    ReadLists(json, &spec);
    H2O_ASSIGN_OR_RETURN(spec.arrivals,
                         ParseArrivals(json.at("arrivals").get<std::string>()));
    H2O_ASSIGN_OR_RETURN(
        spec.lengths.prompt,
        ParseLengthLaw(json.at("prompt_tokens").get<std::string>()));
    H2O_ASSIGN_OR_RETURN(
        spec.lengths.output,
        ParseLengthLaw(json.at("output_tokens").get<std::string>()));
    H2O_RETURN_IF_ERROR(Check(spec));
  } catch (const nlohmann::json::exception& fault) {
    return absl::InvalidArgumentError(
        absl::StrCat("this is no description of a load: ", fault.what()));
  }
  return spec;
}

}  // namespace h2o
