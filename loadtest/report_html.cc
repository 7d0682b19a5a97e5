// Writes a report as a page.
#include "loadtest/report_html.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "loadtest/svg_plot.h"

namespace h2o {
namespace {

constexpr int kCurvePoints = 200;

constexpr char kHead[] = R"(<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>h2oserve load test</title>
<style>
:root { color-scheme: light dark; --back: #fff; --ink: #1b1f24; --faint: #6a737d;
  --line: #d9dee3; --s0: #0b62c4; --s1: #c2410c; --s2: #15803d; --s3: #7e22ce; }
@media (prefers-color-scheme: dark) { :root { --back: #14171b; --ink: #e3e7eb;
  --faint: #98a2ad; --line: #343b43; --s0: #69b1ff; --s1: #ff9a5c; --s2: #5fd38d;
  --s3: #cf9bff; } }
body { background: var(--back); color: var(--ink); max-width: 72rem; padding: 1rem;
  font: 15px/1.5 system-ui, sans-serif; margin: auto; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; } .wide { overflow-x: auto; }
th, td { padding: .2rem .7rem; border-bottom: 1px solid var(--line); text-align: right;
  font-variant-numeric: tabular-nums; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } th { color: var(--faint); font-weight: 500; }
small { color: var(--faint); } .warning { border-left: 4px solid var(--s1); padding-left: .7rem; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(22rem, 1fr)); gap: 1rem; }
figure { margin: 0; } figcaption { font-weight: 600; } svg { width: 100%; height: auto; }
svg text { fill: var(--faint); font-size: 12px; } .grid { stroke: var(--line); }
polyline, line { fill: none; stroke-width: 1.8; } .grid { stroke-width: 1; }
.s0 { stroke: var(--s0); } .s1 { stroke: var(--s1); } .s2 { stroke: var(--s2); } .s3 { stroke: var(--s3); }
</style></head><body>
<h1>h2oserve load test</h1>
)";

using Cells = std::vector<std::string>;

std::string Row(const char* cell, const Cells& cells) {
  std::string row = "<tr>";
  for (const std::string& text : cells) {
    absl::StrAppend(&row, "<", cell, ">", text, "</", cell, ">");
  }
  return absl::StrCat(row, "</tr>\n");
}

std::string Table(const Cells& head, const std::vector<Cells>& rows) {
  std::string table =
      absl::StrCat("<div class=\"wide\"><table>\n", Row("th", head));
  for (const Cells& row : rows) absl::StrAppend(&table, Row("td", row));
  return absl::StrCat(table, "</table></div>\n");
}

std::string Number(double value) { return absl::StrFormat("%.1f", value); }

// ---- Tables

std::string LoadText(const LoadSpec& spec) {
  std::string text = Name(spec.arrivals);
  if (spec.arrivals == ArrivalKind::kClosed) {
    absl::StrAppend(&text, ", ", spec.concurrency, " clients");
  } else if (spec.arrivals == ArrivalKind::kTrace) {
    absl::StrAppend(&text, " of ", spec.trace.size(), " rows at speed ",
                    spec.trace_speed);
  } else if (spec.rate.size() == 1) {
    absl::StrAppend(&text, ", ", spec.rate[0].per_second, " requests/s");
  } else {
    absl::StrAppend(&text, ", rate");
    for (const RatePoint& point : spec.rate) {
      absl::StrAppend(&text, " ", point.at_seconds, ":", point.per_second);
    }
  }
  if (spec.trace_lengths) {
    absl::StrAppend(&text, "; lengths of the trace");
  } else {
    absl::StrAppend(&text, "; prompts ", spec.lengths.prompt.ToString(),
                    " tokens, answers ", spec.lengths.output.ToString());
  }
  return absl::StrCat(text, "; seed ", spec.seed);
}

std::string Head(const Report& report) {
  const Tally& all = report.all;
  std::string text =
      absl::StrCat("<p>", Escaped(LoadText(report.spec)), "<br>targets:");
  for (const std::string& target : report.spec.targets) {
    absl::StrAppend(&text, " ", Escaped(target));
  }
  absl::StrAppendFormat(
      &text,
      "</p>\n<p><b>%d</b> requests in %.1f s: <b>%d</b> answered, %d refused, "
      "%d failed, %d unfinished. <b>%.2f</b> answers/s, <b>%.1f</b> tokens/s.",
      all.requests, report.seconds, all.ok, all.refused, all.failed,
      all.unfinished, report.PerSecond(all.ok),
      report.PerSecond(all.output_tokens));
  if (report.slo.Any()) {
    absl::StrAppendFormat(
        &text,
        " Goodput <b>%.2f</b> answers/s: %.1f %% of requests keep the "
        "SLO.",
        report.PerSecond(all.good), 100 * report.GoodShare());
  }
  absl::StrAppend(&text, "</p>\n");
  for (const std::string& warning : report.warnings) {
    absl::StrAppend(&text, "<p class=\"warning\">", Escaped(warning), "</p>\n");
  }
  if (!report.first_error.empty()) {
    absl::StrAppend(&text, "<p>first error: <code>",
                    Escaped(report.first_error), "</code></p>\n");
  }
  return text;
}

Cells LatencyRow(const char* name, const Distribution& d) {
  Cells cells = {name, absl::StrCat(d.count), Number(1e3 * d.mean)};
  for (const Estimate& e : d.quantiles) {
    cells.push_back(absl::StrFormat("%.1f <small>%.1f–%.1f</small>",
                                    1e3 * e.value, 1e3 * e.low, 1e3 * e.high));
  }
  cells.push_back(Number(1e3 * d.max));
  return cells;
}

std::string Latencies(const Report& report) {
  return absl::StrCat(
      "<h2>Latencies in ms, from the intended send time, with 95 % bootstrap "
      "intervals</h2>\n",
      Table({"", "count", "mean", "p50", "p90", "p95", "p99", "max"},
            {LatencyRow("time to first token (TTFT)", report.ttft),
             LatencyRow("TTFT from the actual send", report.ttft_from_send),
             LatencyRow("time per output token (TPOT)", report.tpot),
             LatencyRow("between pieces (ITL)", report.itl),
             LatencyRow("whole answer (E2E)", report.e2e),
             LatencyRow("generators' lateness", report.lateness)}));
}

std::string Parts(const char* title, const Report& report,
                  const std::vector<Tally>& tallies) {
  if (tallies.size() < 2) return "";
  std::vector<Cells> rows;
  for (const Tally& t : tallies) {
    rows.push_back({Escaped(t.name), absl::StrCat(t.requests),
                    absl::StrCat(t.ok), absl::StrCat(t.refused),
                    absl::StrCat(t.failed),
                    Number(report.PerSecond(t.output_tokens)),
                    Number(1e3 * t.ttft.quantiles.front().value),
                    Number(1e3 * t.ttft.quantiles.back().value),
                    Number(1e3 * t.lateness.quantiles.back().value)});
  }
  return absl::StrCat(
      "<h2>", title, "</h2>\n",
      Table({"", "requests", "answered", "refused", "failed", "tokens/s",
             "TTFT p50", "TTFT p99", "lateness p99"},
            rows));
}

std::string LimitTable(const LimitReport& limit) {
  std::vector<Cells> rows;
  for (const LimitProbe& probe : limit.probes) {
    rows.push_back({absl::StrFormat("%.3f", probe.rate),
                    Number(100 * probe.good_share),
                    probe.keeps_up ? "yes" : "no", probe.kept ? "yes" : "no",
                    Number(probe.tokens_per_second)});
  }
  const std::string found =
      limit.rate ? absl::StrFormat("%.3f requests/s", *limit.rate) : "none";
  return absl::StrCat(
      "<h2>Largest rate that keeps the SLO: ", found, "</h2>\n",
      Table({"requests/s", "good %", "keeps up", "kept", "tokens/s"}, rows));
}

// ---- Plots

template <typename Value>
PlotSeries OverTime(const Report& report, const char* name,
                    const Value& value) {
  PlotSeries series{.name = name, .steps = true};
  for (const Bucket& bucket : report.timeline) {
    series.x.push_back(bucket.begin);
    series.y.push_back(static_cast<double>(value(bucket)));
  }
  if (!series.x.empty()) {
    series.x.push_back(series.x.back() + report.bucket_seconds);
    series.y.push_back(series.y.back());
  }
  return series;
}

// The share of values up to x.
PlotSeries Cumulative(const char* name, const Distribution& d) {
  PlotSeries series{.name = name};
  for (int i = 0; i <= kCurvePoints && d.count > 0; ++i) {
    const double q = static_cast<double>(i) / kCurvePoints;
    series.x.push_back(1e3 * QuantileOfSorted(d.sorted, q));
    series.y.push_back(100 * q);
  }
  return series;
}

std::string Plots(const Report& report) {
  const double width = report.bucket_seconds;
  const std::vector<Plot> plots = {
      {"Tokens over time",
       "seconds",
       "tokens/s",
       {OverTime(report, "tokens/s",
                 [&](const Bucket& b) {
                   return static_cast<double>(b.tokens) / width;
                 })}},
      {"Requests over time",
       "seconds",
       "requests/s",
       {OverTime(report, "intended",
                 [&](const Bucket& b) {
                   return static_cast<double>(b.intended) / width;
                 }),
        OverTime(report, "ended",
                 [&](const Bucket& b) {
                   return static_cast<double>(b.ended) / width;
                 }),
        OverTime(report, "refused",
                 [&](const Bucket& b) {
                   return static_cast<double>(b.refused) / width;
                 }),
        OverTime(report, "failed",
                 [&](const Bucket& b) {
                   return static_cast<double>(b.failed) / width;
                 })}},
      {"In flight",
       "seconds",
       "requests",
       {OverTime(report, "in flight",
                 [](const Bucket& b) { return b.in_flight; })}},
      {"Time to first token",
       "ms",
       "% of answers",
       {Cumulative("from intended", report.ttft),
        Cumulative("from actual send", report.ttft_from_send)}},
      {"Time per token",
       "ms",
       "% of values",
       {Cumulative("TPOT", report.tpot), Cumulative("ITL", report.itl)}},
      {"Whole answer", "ms", "% of answers", {Cumulative("E2E", report.e2e)}}};
  std::string text = "<h2>Plots</h2>\n<div class=\"plots\">\n";
  for (const Plot& plot : plots) absl::StrAppend(&text, SvgOf(plot));
  return absl::StrCat(text, "</div>\n");
}

}  // namespace

std::string ReportHtml(const Report& report,
                       const std::optional<LimitReport>& limit) {
  const std::string fairness = absl::StrFormat(
      "Tenants: fairness %.3f (Jain, of tokens by weight)", report.fairness);
  return absl::StrCat(
      kHead, Head(report), limit ? LimitTable(*limit) : "", Latencies(report),
      Plots(report), Parts(fairness.c_str(), report, report.tenants),
      Parts("Targets", report, report.targets),
      Parts("Generators", report, report.generators), "</body></html>\n");
}

}  // namespace h2o
