// Makes the report of a run out of its records.
#include "loadtest/load_report.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace h2o {
namespace {

using Records = std::vector<const RequestRecord*>;

constexpr int kMostBuckets = 300;

// Values of all records, those without one left out.
template <typename Value>
Distribution DescribeEach(const Records& records, uint64_t seed,
                          const Value& value) {
  std::vector<Sample> samples;
  for (size_t i = 0; i < records.size(); ++i) {
    const std::optional<double> of = value(*records[i]);
    if (of) samples.push_back({*of, static_cast<int>(i)});
  }
  return Describe(samples, seed);
}

std::optional<double> TtftOf(const RequestRecord& r) {
  if (!r.HasToken()) return std::nullopt;
  return r.Ttft();
}

// The times between pieces.
Distribution DescribeGaps(const Records& records, uint64_t seed) {
  std::vector<Sample> samples;
  for (size_t i = 0; i < records.size(); ++i) {
    const std::vector<TokenPiece>& pieces = records[i]->pieces;
    for (size_t p = 1; p < pieces.size(); ++p) {
      samples.push_back({pieces[p].at - pieces[p - 1].at, static_cast<int>(i)});
    }
  }
  return Describe(samples, seed);
}

Records AnsweredOf(const Records& records) {
  Records answered;
  for (const RequestRecord* record : records) {
    if (record->outcome == LoadOutcome::kOk) answered.push_back(record);
  }
  return answered;
}

Tally TallyOf(const Records& records, const LoadSpec& spec, const Slo& slo) {
  Tally tally;
  for (const RequestRecord* record : records) {
    ++tally.requests;
    tally.ok += record->outcome == LoadOutcome::kOk;
    tally.refused += record->outcome == LoadOutcome::kRefused;
    tally.failed += record->outcome == LoadOutcome::kFailed;
    tally.unfinished += record->outcome == LoadOutcome::kUnfinished;
    tally.good += Keeps(*record, slo);
    tally.cut +=
        spec.max_context > 0 &&
        record->prompt_tokens + record->wanted_tokens == spec.max_context;
    if (record->outcome == LoadOutcome::kOk) {
      tally.prompt_tokens += record->prompt_tokens;
    }
    tally.output_tokens += record->OutputTokens();
  }
  tally.ttft = DescribeEach(AnsweredOf(records), spec.seed, TtftOf);
  tally.lateness = DescribeEach(records, spec.seed, [](const RequestRecord& r) {
    return std::optional(r.Lateness());
  });
  return tally;
}

// A tally for each value of `which` that has a name.
std::vector<Tally> TalliesBy(int RequestRecord::*which,
                             const std::vector<std::string>& names,
                             const Records& records, const LoadSpec& spec,
                             const Slo& slo) {
  std::vector<Records> parts(names.size());
  for (const RequestRecord* record : records) {
    const auto part = static_cast<size_t>(record->*which);
    if (part < parts.size()) parts[part].push_back(record);
  }
  std::vector<Tally> tallies;
  for (size_t i = 0; i < parts.size(); ++i) {
    tallies.push_back(TallyOf(parts[i], spec, slo));
    tallies.back().name = names[i];
  }
  return tallies;
}

void AddTenants(const Records& records, Report* report) {
  std::vector<std::string> names;
  for (const TenantShare& tenant : report->spec.tenants) {
    names.push_back(tenant.name);
  }
  report->tenants = TalliesBy(&RequestRecord::tenant, names, records,
                              report->spec, report->slo);
  std::vector<double> shares;
  for (size_t i = 0; i < report->tenants.size(); ++i) {
    Tally& tenant = report->tenants[i];
    tenant.weight = report->spec.tenants[i].weight;
    shares.push_back(static_cast<double>(tenant.output_tokens) / tenant.weight);
  }
  report->fairness = JainIndex(shares);
}

// 1, 2 or 5 times a power of ten, so that there are at most kMostBuckets.
double BucketSeconds(double seconds) {
  double width = 1;
  for (int i = 0; seconds / width > kMostBuckets; ++i) {
    width *= i % 3 == 1 ? 2.5 : 2;
  }
  return width;
}

// Of all requests, warm-up included.
void AddTimeline(const std::vector<RequestRecord>& records, Report* report) {
  double end = 0;
  for (const RequestRecord& r : records) end = std::max(end, r.end);
  report->bucket_seconds = BucketSeconds(end);
  const auto at = [&](double time) {
    return static_cast<size_t>(std::max(0.0, time) / report->bucket_seconds);
  };
  report->timeline.resize(records.empty() ? 0 : at(end) + 1);
  std::vector<Bucket>& timeline = report->timeline;
  for (size_t i = 0; i < timeline.size(); ++i) {
    timeline[i].begin = static_cast<double>(i) * report->bucket_seconds;
  }
  for (const RequestRecord& r : records) {
    ++timeline[at(std::min(r.intended, end))].intended;
    Bucket& last = timeline[at(r.end)];
    ++last.ended;
    last.refused += r.outcome == LoadOutcome::kRefused;
    last.failed += r.outcome == LoadOutcome::kFailed;
    for (const TokenPiece& piece : r.pieces) {
      timeline[at(std::min(piece.at, end))].tokens += piece.tokens;
    }
  }
  int64_t in_flight = 0;
  for (Bucket& bucket : timeline) {
    in_flight += bucket.intended - bucket.ended;
    bucket.in_flight = in_flight;
  }
}

// A server that falls behind ends fewer requests than come.  The slack is twice
// the deviation of a Poisson count.
bool KeepsUp(const Records& records, const LoadSpec& spec) {
  if (spec.arrivals == ArrivalKind::kClosed || records.empty()) return true;
  double first = records[0]->intended, last = first;
  for (const RequestRecord* r : records) {
    first = std::min(first, r->intended);
    last = std::max(last, r->intended);
  }
  const double middle = (first + last) / 2;
  double came = 0, ended = 0;
  for (const RequestRecord* r : records) {
    came += r->intended >= middle;
    ended += r->end >= middle && r->end <= last;
  }
  return ended >= 0.9 * came - 2 * std::sqrt(came);
}

void AddWarnings(Report* report) {
  std::vector<std::string>& warnings = report->warnings;
  for (size_t i = 0; i < report->generators.size(); ++i) {
    const Tally& g = report->generators[i];
    const double late = g.lateness.quantiles.back().value;
    if (late <= kMostLateSeconds) continue;
    warnings.push_back(absl::StrFormat(
        "generator %d sent late: %.0f ms at the 99th percentile; latencies "
        "count from the intended time and hold the generator's own delay; give "
        "it more cores, or use more generators",
        i, 1e3 * late));
  }
  for (size_t i = 0; i < report->clocks.size(); ++i) {
    if (report->clocks[i].waited == 0) continue;
    warnings.push_back(
        absl::StrCat("generator ", i, ": ", report->clocks[i].waited,
                     " requests waited because --max-in-flight ",
                     report->spec.max_in_flight, " others were running"));
  }
  if (report->all.unfinished > 0) {
    warnings.push_back(absl::StrCat(
        report->all.unfinished,
        " requests had not ended when the run was over; latencies are those of "
        "the others"));
  }
  if (report->all.cut > 0) {
    warnings.push_back(
        absl::StrCat(report->all.cut, " requests fill --max-context ",
                     report->spec.max_context, "; longer ones were cut to it"));
  }
  if (!report->keeps_up) {
    warnings.push_back(
        "fewer requests ended than came: the servers fall behind at this rate, "
        "and latencies grow with the length of the run");
  }
}

}  // namespace

bool Keeps(const RequestRecord& record, const Slo& slo) {
  if (record.outcome != LoadOutcome::kOk) return false;
  if (slo.ttft_seconds &&
      (!record.HasToken() || record.Ttft() > *slo.ttft_seconds)) {
    return false;
  }
  if (slo.tpot_seconds && record.Tpot().value_or(0) > *slo.tpot_seconds) {
    return false;
  }
  return !slo.e2e_seconds || record.E2e() <= *slo.e2e_seconds;
}

Report MakeReport(const LoadSpec& spec, const Slo& slo,
                  const std::vector<RequestRecord>& records,
                  const std::vector<GeneratorClock>& clocks) {
  Report report{.spec = spec, .slo = slo, .clocks = clocks};
  Records counted;
  double end = spec.warmup_seconds;
  for (const RequestRecord& record : records) {
    if (record.intended < spec.warmup_seconds) continue;
    counted.push_back(&record);
    end = std::max(end, record.end);
    if (report.first_error.empty()) report.first_error = record.error;
  }
  report.seconds = end - spec.warmup_seconds;
  report.all = TallyOf(counted, spec, slo);
  report.lateness = report.all.lateness;
  report.ttft = report.all.ttft;
  const Records answered = AnsweredOf(counted);
  report.ttft_from_send =
      DescribeEach(answered, spec.seed, [](const RequestRecord& r) {
        return r.HasToken() ? std::optional(r.TtftFromSend()) : std::nullopt;
      });
  report.tpot = DescribeEach(answered, spec.seed,
                             [](const RequestRecord& r) { return r.Tpot(); });
  report.e2e = DescribeEach(answered, spec.seed, [](const RequestRecord& r) {
    return std::optional(r.E2e());
  });
  report.itl = DescribeGaps(answered, spec.seed);
  AddTenants(counted, &report);
  report.targets =
      TalliesBy(&RequestRecord::target, spec.targets, counted, spec, slo);
  std::vector<std::string> generators;
  for (const GeneratorClock& clock : clocks) generators.push_back(clock.name);
  report.generators =
      TalliesBy(&RequestRecord::generator, generators, counted, spec, slo);
  AddTimeline(records, &report);
  report.keeps_up = KeepsUp(counted, spec);
  AddWarnings(&report);
  return report;
}

}  // namespace h2o
