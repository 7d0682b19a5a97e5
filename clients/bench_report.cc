// Formats the report of h2oserve bench, as text and as JSON.
#include "clients/bench_report.h"

#include <sys/resource.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/quantile.h"
#include "worker/rank_sums.h"

namespace h2o {
namespace {

using Json = nlohmann::ordered_json;

void AddLoad(const BenchReport& report, Json* json) {
  (*json)["model"] = report.model;
  (*json)["tp"] = report.tp;
  (*json)["threads"] = report.threads;
  (*json)["prompt_len"] = report.load.prompt_len;
  (*json)["gen_len"] = report.load.gen_len;
  (*json)["num_seqs"] = report.load.num_seqs;
  (*json)["kv_slots"] = report.load.slots;
  (*json)["load_seconds"] = report.load_seconds;
}

void AddThroughput(const BenchRun& run, Json* json) {
  double tokens = 0;
  for (const Arrivals& a : run.arrivals) tokens += a.tokens;
  const double decoded = tokens - static_cast<double>(run.arrivals.size());
  (*json)["seconds"] = run.seconds;
  (*json)["tokens_per_second"] = tokens / run.seconds;
  (*json)["decode_tokens_per_second"] =
      decoded > 0 ? decoded / run.spent.decode_seconds : 0;
}

void AddLatency(const BenchRun& run, Json* json) {
  std::vector<double> ttft, tpot;
  for (const Arrivals& a : run.arrivals) {
    ttft.push_back(a.first - run.start);
    if (a.tokens > 1) tpot.push_back((a.last - a.first) / (a.tokens - 1));
  }
  const auto add = [json](const char* key, const std::vector<double>& seconds,
                          double q) {
    (*json)[key] = 1e3 * Quantile(seconds, q);
  };
  add("ttft_p50_ms", ttft, 0.5);
  add("ttft_max_ms", ttft, 1);
  add("tpot_p50_ms", tpot, 0.5);
  add("tpot_p99_ms", tpot, 0.99);
  add("gap_p50_ms", run.gaps, 0.5);
  add("gap_p99_ms", run.gaps, 0.99);
  (*json)["full_batch_steps"] = run.full_batch.seconds().size();
  add("full_batch_step_ms", run.full_batch.seconds(), 0.5);
}

void AddSteps(const BenchRun& run, Json* json) {
  const Engine::Counters& spent = run.spent;
  (*json)["steps"] = spent.steps;
  (*json)["step_bubble"] = spent.interval_seconds > 0
                               ? 1 - spent.step_seconds / spent.interval_seconds
                               : 0;
  (*json)["device_idle"] =
      spent.idle_seconds / (spent.prefill_seconds + spent.decode_seconds);
  (*json)["sequences_resident"] = run.peak_running;
  (*json)["prefill_seconds"] = spent.prefill_seconds;
  (*json)["decode_seconds"] = spent.decode_seconds;
}

void AddMemory(const BenchReport& report, Json* json) {
  (*json)["peak_resident_bytes"] = report.run.peak_bytes;
  (*json)["weights_bytes"] = report.memory.weights;
  (*json)["workspace_bytes"] = report.memory.workspace;
  (*json)["kv_pool_bytes"] = report.memory.kv_pool;
}

// The time of each way to sum a layer's addends, LayerNorm included.
void AddSums(const std::vector<SumTimes>& sums, Json* json) {
  for (const SumTimes& t : sums) {
    Json& of_rows = (*json)["sums"].emplace_back(Json{{"rows", t.rows}});
    for (int way = 0; way < kSumWays; ++way) {
      if (std::isinf(t.seconds[way])) continue;
      of_rows[absl::StrCat(Name(static_cast<SumWay>(way)), "_us")] =
          1e6 * t.seconds[way];
    }
  }
}

void AddCeilings(const BenchCeilings& ceilings, Json* json) {
  const auto add = [&](const std::string& key, double MachineRates::*rate) {
    (*json)[key] = ceilings.Mean().*rate / 1e9;
    (*json)[key + "_before_after"] = {ceilings.before.*rate / 1e9,
                                      ceilings.after.*rate / 1e9};
  };
  add("read_gb_per_second", &MachineRates::read_bytes_per_second);
  add("sgemm_gflops", &MachineRates::sgemm_flops_per_second);
  add("bf16_gflops", &MachineRates::bf16_flops_per_second);
  add("fp8_gflops", &MachineRates::fp8_flops_per_second);
  for (const AllReduceTime& sum : ceilings.all_reduces) {
    (*json)["all_reduces"].push_back(
        {{"bytes", sum.bytes}, {"median_us", 1e6 * sum.median}});
  }
}

void AddFloor(const BenchFloor& floor, const BenchRun& run, Json* json) {
  const Engine::Counters& spent = run.spent;
  (*json)["floor_prefill_seconds"] = floor.prefill_seconds;
  (*json)["floor_decode_seconds"] = floor.decode_seconds;
  (*json)["fraction_of_floor"] = floor.seconds() / run.seconds;
  (*json)["prefill_fraction"] = floor.prefill_seconds / spent.prefill_seconds;
  (*json)["decode_fraction"] = spent.decode_seconds > 0
                                   ? floor.decode_seconds / spent.decode_seconds
                                   : 0;
}

void PrintMachine(const Json& json, bool gpu) {
  const auto number = [&](const char* key) { return json[key].get<double>(); };
  const auto side = [&](const char* key, int i) {
    return json[key][i].get<double>();
  };
  if (gpu) {
    std::printf("machine     %.0f GB/s read, %.0f TFLOP/s bf16, %.0f fp8\n",
                number("read_gb_per_second"), number("bf16_gflops") / 1e3,
                number("fp8_gflops") / 1e3);
    return;
  }
  std::printf(
      "machine     %.1f GB/s read, %.0f GFLOP/s float32, %.0f bf16; before\n"
      "            the run %.1f, %.0f, %.0f, after it %.1f, %.0f, %.0f\n",
      number("read_gb_per_second"), number("sgemm_gflops"),
      number("bf16_gflops"), side("read_gb_per_second_before_after", 0),
      side("sgemm_gflops_before_after", 0), side("bf16_gflops_before_after", 0),
      side("read_gb_per_second_before_after", 1),
      side("sgemm_gflops_before_after", 1),
      side("bf16_gflops_before_after", 1));
}

void PrintRun(const Json& json, bool gpu) {
  const auto number = [&](const char* key) { return json[key].get<double>(); };
  // On a GPU two plans are in flight, so the times of results say little about
  // its steps; the GPU's own clock is used.
  const std::string beside =
      gpu ? absl::StrFormat("GPUs idle between them %.2f %%",
                            100 * number("device_idle"))
          : absl::StrFormat("%.1f %% outside the workers",
                            // Ranks that lag behind each other may count more
                            // idle time than there was.
                            std::max(0.0, 100 * number("step_bubble")));
  std::printf(
      "total       %.1f tok/s in %.3f s\n"
      "decode      %.1f tok/s\n"
      "TTFT        %.2f ms median, %.2f longest\n"
      "TPOT        %.3f ms median, %.3f p99; gaps %.3f median, %.3f p99\n"
      "full batch  %.3f ms a step, the median of %.0f decode steps of all "
      "sequences\n"
      "steps       %.0f; %s\n"
      "memory      %.2f GB %s; %.2f weights, %.2f workspace, %.2f KV pool\n"
      "resident    %.0f sequences at most\n"
      "workers     %.3f s prefill, %.3f s decode\n",
      number("tokens_per_second"), number("seconds"),
      number("decode_tokens_per_second"), number("ttft_p50_ms"),
      number("ttft_max_ms"), number("tpot_p50_ms"), number("tpot_p99_ms"),
      number("gap_p50_ms"), number("gap_p99_ms"), number("full_batch_step_ms"),
      number("full_batch_steps"), number("steps"), beside.c_str(),
      number("peak_resident_bytes") / 1e9, gpu ? "planned" : "peak",
      number("weights_bytes") / 1e9, number("workspace_bytes") / 1e9,
      number("kv_pool_bytes") / 1e9, number("sequences_resident"),
      number("prefill_seconds"), number("decode_seconds"));
}

void PrintFloor(const Json& json) {
  const auto number = [&](const char* key) { return json[key].get<double>(); };
  std::printf(
      "floor       %.3f s prefill, %.3f s decode\n"
      "fraction    %.2f of the floor: prefill %.2f, decode %.2f\n",
      number("floor_prefill_seconds"), number("floor_decode_seconds"),
      number("fraction_of_floor"), number("prefill_fraction"),
      number("decode_fraction"));
}

void PrintText(const Json& json, bool gpu) {
  std::printf(
      "%s, tp %d on %s: %d x %d+%d tokens, %d KV slots a head\n",
      json["model"].get<std::string>().c_str(), json["tp"].get<int>(),
      gpu ? "GPUs"
          : absl::StrCat(json["threads"].get<int>(), " threads").c_str(),
      json["num_seqs"].get<int>(), json["prompt_len"].get<int>(),
      json["gen_len"].get<int>(), json["kv_slots"].get<int>());
  PrintMachine(json, gpu);
  PrintRun(json, gpu);
  PrintFloor(json);
  if (!json.contains("with_all_reduces")) return;
  const Json& least = json["all_reduces"].front();
  const Json& most = json["all_reduces"].back();
  std::printf(
      "with %sall-reduces, alone %.1f us of %.0f KB to %.1f us of %.0f:\n",
      gpu ? "NCCL's " : "", least["median_us"].get<double>(),
      least["bytes"].get<double>() / 1e3, most["median_us"].get<double>(),
      most["bytes"].get<double>() / 1e3);
  PrintFloor(json["with_all_reduces"]);
}

Json ToJson(const BenchReport& report) {
  Json json;
  AddLoad(report, &json);
  AddThroughput(report.run, &json);
  AddLatency(report.run, &json);
  AddSteps(report.run, &json);
  AddMemory(report, &json);
  AddSums(report.sums, &json);
  AddCeilings(report.ceilings, &json);
  AddFloor(report.floor, report.run, &json);
  if (report.tp > 1) {
    AddFloor(report.floor + report.all_reduces, report.run,
             &json["with_all_reduces"]);
  }
  return json;
}

}  // namespace

void FullBatchSteps::OnToken(double now, bool first, bool last) {
  started_ += first;
  over_ |= last;
  if (over_ || first || started_ < num_seqs_) return;
  if (++tokens_ < num_seqs_) return;
  tokens_ = 0;
  if (last_step_ >= 0) seconds_.push_back(now - last_step_);
  last_step_ = now;
}

MachineRates BenchCeilings::Mean() const {
  return {(before.read_bytes_per_second + after.read_bytes_per_second) / 2,
          (before.sgemm_flops_per_second + after.sgemm_flops_per_second) / 2,
          (before.bf16_flops_per_second + after.bf16_flops_per_second) / 2,
          (before.fp8_flops_per_second + after.fp8_flops_per_second) / 2};
}

void Print(const BenchReport& report, bool json) {
  const Json figures = ToJson(report);
  if (json) {
    std::printf("%s\n", figures.dump().c_str());
  } else {
    PrintText(figures, report.gpu);
  }
}

int64_t PeakResidentBytes() {
  rusage usage = {};
  ::getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss * 1024;
}

}  // namespace h2o
