// Writes a report as JSON and as text.
#include "loadtest/report_text.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace h2o {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kQuantileNames[] = {"p50", "p90", "p95", "p99"};

Json Milliseconds(const Distribution& d) {
  Json json = {{"count", d.count},
               {"mean", 1e3 * d.mean},
               {"min", 1e3 * d.min},
               {"max", 1e3 * d.max}};
  for (size_t q = 0; q < kQuantiles.size(); ++q) {
    const Estimate& estimate = d.quantiles[q];
    json[kQuantileNames[q]] = 1e3 * estimate.value;
    json[absl::StrCat(kQuantileNames[q], "_interval")] = {1e3 * estimate.low,
                                                          1e3 * estimate.high};
  }
  return json;
}

Json CountsOf(const Tally& t) {
  return {{"requests", t.requests},
          {"ok", t.ok},
          {"refused", t.refused},
          {"failed", t.failed},
          {"unfinished", t.unfinished}};
}

Json TallyJson(const Tally& t, const Report& report) {
  Json json = {{"name", t.name}};
  json.update(CountsOf(t));
  json["good"] = t.good;
  json["output_tokens_per_second"] = report.PerSecond(t.output_tokens);
  json["ttft_ms"] = Milliseconds(t.ttft);
  json["lateness_ms"] = Milliseconds(t.lateness);
  return json;
}

Json LimitOf(const std::optional<double>& seconds) {
  return seconds ? Json(1e3 * *seconds) : Json(nullptr);
}

Json LoadJson(const LoadSpec& spec) {
  Json json = Json::parse(ToJson(spec));
  json["trace"] = spec.trace.size();  // rows
  return json;
}

void AddParts(const Report& report, Json* json) {
  Json tenants = Json::array();
  for (const Tally& tenant : report.tenants) {
    tenants.push_back(TallyJson(tenant, report));
    tenants.back()["weight"] = tenant.weight;
  }
  (*json)["fairness"] = {{"jain", report.fairness},
                         {"tenants", std::move(tenants)}};
  (*json)["targets"] = Json::array();
  for (const Tally& target : report.targets) {
    (*json)["targets"].push_back(TallyJson(target, report));
  }
  (*json)["generators"] = Json::array();
  for (size_t i = 0; i < report.generators.size(); ++i) {
    Json generator = TallyJson(report.generators[i], report);
    generator["clock_round_trip_ms"] =
        1e3 * report.clocks[i].round_trip_seconds;
    generator["clock_drift_ms"] = 1e3 * report.clocks[i].drift_seconds;
    generator["waited"] = report.clocks[i].waited;
    (*json)["generators"].push_back(std::move(generator));
  }
}

Json TimelineJson(const Report& report) {
  Json json = {{"bucket_seconds", report.bucket_seconds}};
  for (const char* key : {"intended", "ended", "refused", "failed",
                          "tokens_per_second", "in_flight"}) {
    json[key] = Json::array();
  }
  for (const Bucket& bucket : report.timeline) {
    json["intended"].push_back(bucket.intended);
    json["ended"].push_back(bucket.ended);
    json["refused"].push_back(bucket.refused);
    json["failed"].push_back(bucket.failed);
    json["tokens_per_second"].push_back(static_cast<double>(bucket.tokens) /
                                        report.bucket_seconds);
    json["in_flight"].push_back(bucket.in_flight);
  }
  return json;
}

std::string Line(const char* name, const Distribution& d) {
  std::string line = absl::StrFormat("%-10s", name);
  for (const Estimate& e : d.quantiles) {
    absl::StrAppendFormat(
        &line, "%10.1f %-19s", 1e3 * e.value,
        absl::StrFormat("[%.1f, %.1f]", 1e3 * e.low, 1e3 * e.high));
  }
  return absl::StrCat(line, "\n");
}

std::string TenantLines(const Report& report) {
  if (report.tenants.size() < 2) return "";
  std::string text = absl::StrFormat(
      "fairness   %.3f (Jain, of the tenants' tokens by weight)\n",
      report.fairness);
  for (const Tally& t : report.tenants) {
    absl::StrAppendFormat(
        &text,
        "  %-16s weight %g, %d answered, %d refused, %.1f tokens/s, TTFT p50 "
        "%.1f ms, p99 %.1f ms\n",
        t.name, t.weight, t.ok, t.refused, report.PerSecond(t.output_tokens),
        1e3 * t.ttft.quantiles.front().value,
        1e3 * t.ttft.quantiles.back().value);
  }
  return text;
}

}  // namespace

Json ReportJson(const Report& report) {
  const Tally& all = report.all;
  Json json = {{"load", LoadJson(report.spec)}, {"seconds", report.seconds}};
  json["requests"] = CountsOf(all);
  json["requests"]["cut"] = all.cut;
  json["throughput"] = {
      {"requests_per_second", report.PerSecond(all.ok)},
      {"prompt_tokens_per_second", report.PerSecond(all.prompt_tokens)},
      {"output_tokens_per_second", report.PerSecond(all.output_tokens)}};
  json["slo"] = {{"ttft_ms", LimitOf(report.slo.ttft_seconds)},
                 {"tpot_ms", LimitOf(report.slo.tpot_seconds)},
                 {"e2e_ms", LimitOf(report.slo.e2e_seconds)},
                 {"share", report.slo.share}};
  json["goodput"] = {{"requests_per_second", report.PerSecond(all.good)},
                     {"share", report.GoodShare()}};
  json["ttft_ms"] = Milliseconds(report.ttft);
  json["ttft_from_send_ms"] = Milliseconds(report.ttft_from_send);
  json["tpot_ms"] = Milliseconds(report.tpot);
  json["itl_ms"] = Milliseconds(report.itl);
  json["e2e_ms"] = Milliseconds(report.e2e);
  json["lateness_ms"] = Milliseconds(report.lateness);
  AddParts(report, &json);
  json["keeps_up"] = report.keeps_up;
  json["timeline"] = TimelineJson(report);
  json["first_error"] = report.first_error;
  json["warnings"] = report.warnings;
  return json;
}

std::string ReportText(const Report& report) {
  const Tally& all = report.all;
  std::string text = absl::StrFormat(
      "requests   %d: %d answered, %d refused, %d failed, %d unfinished, in "
      "%.1f s\n",
      all.requests, all.ok, all.refused, all.failed, all.unfinished,
      report.seconds);
  absl::StrAppendFormat(
      &text,
      "rate       %.2f answers/s, %.1f tokens/s (prompts %.1f tokens/s)\n",
      report.PerSecond(all.ok), report.PerSecond(all.output_tokens),
      report.PerSecond(all.prompt_tokens));
  if (report.slo.Any()) {
    absl::StrAppendFormat(
        &text, "goodput    %.2f answers/s; %.1f %% of requests keep the SLO\n",
        report.PerSecond(all.good), 100 * report.GoodShare());
  }
  absl::StrAppendFormat(&text, "ms        %10s%-20s%10s%-20s%10s%-20s%10s\n",
                        "p50", " [95 % interval]", "p90", "", "p95", "", "p99");
  absl::StrAppend(&text, Line("TTFT", report.ttft), Line("TPOT", report.tpot),
                  Line("ITL", report.itl), Line("E2E", report.e2e),
                  Line("lateness", report.lateness), TenantLines(report));
  if (!report.first_error.empty()) {
    absl::StrAppend(&text, "first error: ", report.first_error, "\n");
  }
  for (const std::string& warning : report.warnings) {
    absl::StrAppend(&text, "warning: ", warning, "\n");
  }
  return text;
}

Json LimitJson(const LimitReport& limit) {
  Json json = {
      {"requests_per_second", limit.rate ? Json(*limit.rate) : Json(nullptr)},
      {"too_much", limit.too_much ? Json(*limit.too_much) : Json(nullptr)},
      {"probes", Json::array()}};
  for (const LimitProbe& probe : limit.probes) {
    json["probes"].push_back(
        {{"requests_per_second", probe.rate},
         {"good_share", probe.good_share},
         {"keeps_up", probe.keeps_up},
         {"kept", probe.kept},
         {"output_tokens_per_second", probe.tokens_per_second}});
  }
  return json;
}

std::string LimitText(const LimitReport& limit) {
  if (!limit.rate) return "limit      no rate that was tried keeps the SLO\n";
  return absl::StrFormat(
      "limit      %.3f requests/s keep the SLO%s; %d runs\n", *limit.rate,
      limit.too_much ? absl::StrFormat(", %.3f do not", *limit.too_much)
                     : std::string(),
      limit.probes.size());
}

}  // namespace h2o
