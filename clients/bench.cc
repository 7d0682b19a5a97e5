#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/sampling.h"
#include "base/status_macros.h"
#include "clients/bench_report.h"
#include "clients/commands.h"
#include "clients/embedded_flags.h"
#include "flags/flags.h"
#include "kernels/cpu/machine_rates.h"
#include "kernels/cuda/cuda_backend.h"

namespace h2o {
namespace {

struct BenchFlags {
  EmbeddedFlags embedded;
  PolicyFlags policy;
  int max_sequences = 256;
  double stall_target_ms = 50;
  int prompt_len = 512;
  int gen_len = 128;
  int num_seqs = 1;
  bool json = false;
};

// When the tokens of one request came.
struct Arrivals {
  double first = 0, last = 0;
  int tokens = 0;
};

std::vector<Request> MakeRequests(
    const BenchFlags& flags, const OptConfig& config,
    const std::optional<KvPolicyRequest>& policy) {
  std::vector<Request> requests(flags.num_seqs);
  for (int i = 0; i < flags.num_seqs; ++i) {
    Request& request = requests[i];
    for (int t = 0; t < flags.prompt_len; ++t) {
      request.tokens.push_back(
          static_cast<int32_t>(CounterRandom(i, t, 0)[0] % config.vocab_size));
    }
    request.max_tokens = flags.gen_len;
    request.ignore_eos = true;
    request.kv_policy = policy;
  }
  return requests;
}

MachineRates Mean(const MachineRates& a, const MachineRates& b) {
  return {(a.read_bytes_per_second + b.read_bytes_per_second) / 2,
          (a.sgemm_flops_per_second + b.sgemm_flops_per_second) / 2,
          (a.bf16_flops_per_second + b.bf16_flops_per_second) / 2};
}

// Of all ranks together.
absl::StatusOr<MachineRates> MeasureRates(const EmbeddedOptions& options) {
  if (!options.device.cuda) return MeasureMachineRates(options.num_threads);
  H2O_ASSIGN_OR_RETURN(MachineRates rates,
                       MeasureGpuRates(options.device.ordinal));
  rates.read_bytes_per_second *= options.tp;
  rates.bf16_flops_per_second *= options.tp;
  return rates;
}

absl::Status RunBench(const BenchFlags& flags) {
  H2O_ASSIGN_OR_RETURN(const std::optional<KvPolicyRequest> policy,
                       flags.policy.Request());
  H2O_ASSIGN_OR_RETURN(EmbeddedOptions options, flags.embedded.Options());
  options.engine.max_sequences = flags.max_sequences;
  options.engine.max_queue = std::max(flags.num_seqs, 1);
  options.engine.stall_target_seconds = flags.stall_target_ms / 1000;
  const int threads = options.num_threads;
  // A GPU's rates stay as they are, and later its memory is taken.
  const bool gpu = options.device.cuda;
  MachineRates rates_before;
  if (gpu) {
    H2O_ASSIGN_OR_RETURN(rates_before, MeasureRates(options));
  }
  H2O_ASSIGN_OR_RETURN(const std::unique_ptr<Embedded> embedded,
                       Embedded::Create(options));
  const OptConfig& config = embedded->config();
  std::vector<Request> requests = MakeRequests(flags, config, policy);
  H2O_RETURN_IF_ERROR(embedded->engine().Check(requests[0]));
  H2O_ASSIGN_OR_RETURN(const KvPolicy resolved,
                       ResolveKvPolicy(policy.value_or(KvPolicyRequest{}),
                                       flags.prompt_len, flags.gen_len, 0));

  // Short requests first: pages are touched, kernels chosen.  On a GPU all of
  // them, since steps are recorded by the size of the batch.
  {
    std::vector<Request> warm(requests.begin(),
                              gpu ? requests.end() : requests.begin() + 1);
    for (Request& r : warm) r.max_tokens = std::min(flags.gen_len, 8);
    embedded->Run(std::move(warm), [](int, StreamEvent) {});
  }
  // A CPU's rates move within minutes: taken on both sides of the run.
  if (!gpu) {
    H2O_ASSIGN_OR_RETURN(rates_before, MeasureRates(options));
  }
  const Engine::Counters before = embedded->engine().counters();
  SteadyClock clock;
  std::vector<Arrivals> arrivals(flags.num_seqs);
  std::vector<double> gaps;
  gaps.reserve(static_cast<size_t>(flags.num_seqs) * flags.gen_len);
  FullBatchSteps full_batch(flags.num_seqs);
  int64_t peak_running = 0;
  int running = 0;
  const double start = clock.Now();
  embedded->Run(std::move(requests), [&](int i, StreamEvent event) {
    const double now = clock.Now();
    Arrivals& a = arrivals[i];
    if (a.tokens == 0) {
      a.first = now;
      peak_running = std::max<int64_t>(peak_running, ++running);
    } else {
      gaps.push_back(now - a.last);
    }
    full_batch.OnToken(now, a.tokens == 0, event.done);
    a.last = now;
    a.tokens += static_cast<int>(event.tokens.size());
    if (event.done) --running;
  });
  const double total = clock.Now() - start;
  const Engine::Counters after = embedded->engine().counters();
  const int64_t peak_resident = PeakResidentBytes();
  MachineRates rates_after = rates_before;
  if (!gpu) {
    H2O_ASSIGN_OR_RETURN(rates_after, MeasureRates(options));
  }
  const MachineRates rates = Mean(rates_before, rates_after);

  std::vector<double> ttft, tpot;
  int64_t generated = 0;
  for (const Arrivals& a : arrivals) {
    ttft.push_back(a.first - start);
    if (a.tokens > 1) tpot.push_back((a.last - a.first) / (a.tokens - 1));
    generated += a.tokens;
  }
  const double prefill = after.prefill_seconds - before.prefill_seconds;
  const double decode_seconds = after.decode_seconds - before.decode_seconds;
  const ModelSpec spec =
      WithFormats(flags.embedded.model.spec, config, options.device.cuda);
  H2O_ASSIGN_OR_RETURN(const KvGeometry geometry, GeometryOf(config, spec));
  H2O_ASSIGN_OR_RETURN(const DType dtype, WeightDType(spec));
  const double flops =
      gpu || (dtype == DType::kBFloat16 && rates.bf16_flops_per_second > 0)
          ? rates.bf16_flops_per_second
          : rates.sgemm_flops_per_second;
  const int64_t tables =
      (config.max_positions + kPositionOffset) * int64_t{config.hidden_size};
  const double stored_width =
      static_cast<double>(embedded->memory_plan().weights) /
      static_cast<double>(config.num_parameters());
  const double weight_bytes =
      static_cast<double>(embedded->memory_plan().weights) -
      tables * stored_width;
  const BenchFloor floor = ComputeFloor(
      config, geometry,
      {flags.prompt_len, flags.gen_len, flags.num_seqs,
       resolved.slots[0].Capacity()},
      weight_bytes, static_cast<int>(std::max<int64_t>(peak_running, 1)),
      rates.read_bytes_per_second, flops);
  const double floor_seconds = floor.prefill_seconds + floor.decode_seconds;
  const double decode_tokens = static_cast<double>(generated - flags.num_seqs);
  const double steps = static_cast<double>(after.steps - before.steps);
  const double interval = after.interval_seconds - before.interval_seconds;
  const double bubble =
      interval > 0 ? 1 - (after.step_seconds - before.step_seconds) / interval
                   : 0;

  nlohmann::ordered_json json;
  json["model"] = config.name;
  json["tp"] = flags.embedded.tp;
  json["threads"] = threads;
  json["prompt_len"] = flags.prompt_len;
  json["gen_len"] = flags.gen_len;
  json["num_seqs"] = flags.num_seqs;
  json["kv_slots"] = resolved.slots[0].Capacity();
  json["load_seconds"] = embedded->load_seconds();
  json["seconds"] = total;
  json["tokens_per_second"] = generated / total;
  json["decode_tokens_per_second"] =
      decode_tokens > 0 ? decode_tokens / decode_seconds : 0;
  json["ttft_p50_ms"] = 1e3 * Quantile(ttft, 0.5);
  json["ttft_max_ms"] = 1e3 * Quantile(ttft, 1);
  json["tpot_p50_ms"] = 1e3 * Quantile(tpot, 0.5);
  json["tpot_p99_ms"] = 1e3 * Quantile(tpot, 0.99);
  json["gap_p50_ms"] = 1e3 * Quantile(gaps, 0.5);
  json["gap_p99_ms"] = 1e3 * Quantile(gaps, 0.99);
  json["full_batch_steps"] = full_batch.seconds().size();
  json["full_batch_step_ms"] = 1e3 * Quantile(full_batch.seconds(), 0.5);
  json["steps"] = steps;
  json["step_bubble"] = bubble;
  json["device_idle"] =
      (after.idle_seconds - before.idle_seconds) / (prefill + decode_seconds);
  json["sequences_resident"] = peak_running;
  // A GPU's memory is taken whole at the start.
  json["peak_resident_bytes"] =
      gpu ? embedded->memory_plan().weights +
                embedded->memory_plan().workspace +
                embedded->memory_plan().kv_pool
          : peak_resident;
  json["weights_bytes"] = embedded->memory_plan().weights;
  json["workspace_bytes"] = embedded->memory_plan().workspace;
  json["kv_pool_bytes"] = embedded->memory_plan().kv_pool;
  json["read_gb_per_second"] = rates.read_bytes_per_second / 1e9;
  json["sgemm_gflops"] = rates.sgemm_flops_per_second / 1e9;
  json["bf16_gflops"] = rates.bf16_flops_per_second / 1e9;
  json["read_gb_per_second_before_after"] = {
      rates_before.read_bytes_per_second / 1e9,
      rates_after.read_bytes_per_second / 1e9};
  json["sgemm_gflops_before_after"] = {
      rates_before.sgemm_flops_per_second / 1e9,
      rates_after.sgemm_flops_per_second / 1e9};
  json["bf16_gflops_before_after"] = {rates_before.bf16_flops_per_second / 1e9,
                                      rates_after.bf16_flops_per_second / 1e9};
  json["prefill_seconds"] = prefill;
  json["decode_seconds"] = decode_seconds;
  json["floor_prefill_seconds"] = floor.prefill_seconds;
  json["floor_decode_seconds"] = floor.decode_seconds;
  json["fraction_of_floor"] = floor_seconds / total;
  json["prefill_fraction"] = floor.prefill_seconds / prefill;
  json["decode_fraction"] =
      decode_seconds > 0 ? floor.decode_seconds / decode_seconds : 0;
  if (flags.json) {
    std::printf("%s\n", json.dump().c_str());
    return absl::OkStatus();
  }
  const auto number = [&](const char* key) { return json[key].get<double>(); };
  std::printf("%s, tp %d on %s: %d x %d+%d tokens, %d KV slots a head\n",
              config.name.c_str(), flags.embedded.tp,
              gpu ? "GPUs" : absl::StrCat(threads, " threads").c_str(),
              flags.num_seqs, flags.prompt_len, flags.gen_len,
              resolved.slots[0].Capacity());
  if (gpu) {
    std::printf("machine     %.0f GB/s read, %.0f TFLOP/s bf16\n",
                number("read_gb_per_second"), number("bf16_gflops") / 1e3);
  } else {
    std::printf(
        "machine     %.1f GB/s read, %.0f GFLOP/s float32, %.0f bf16; before\n"
        "            the run %.1f, %.0f, %.0f, after it %.1f, %.0f, %.0f\n",
        number("read_gb_per_second"), number("sgemm_gflops"),
        number("bf16_gflops"), rates_before.read_bytes_per_second / 1e9,
        rates_before.sgemm_flops_per_second / 1e9,
        rates_before.bf16_flops_per_second / 1e9,
        rates_after.read_bytes_per_second / 1e9,
        rates_after.sgemm_flops_per_second / 1e9,
        rates_after.bf16_flops_per_second / 1e9);
  }
  // Two plans are in flight on a GPU, so results tell little of its steps; its
  // own clock does.
  const std::string beside =
      gpu ? absl::StrFormat("GPUs idle between them %.2f %%",
                            100 * number("device_idle"))
          : absl::StrFormat("%.1f %% outside the workers", 100 * bubble);
  std::printf(
      "total       %.1f tok/s in %.3f s\n"
      "decode      %.1f tok/s\n"
      "TTFT        %.2f ms median, %.2f longest\n"
      "TPOT        %.3f ms median, %.3f p99; gaps %.3f median, %.3f p99\n"
      "full batch  %.3f ms a step, the median of %.0f decode steps of all "
      "sequences\n"
      "steps       %.0f; %s\n"
      "memory      %.2f GB peak; %.2f weights, %.2f workspace, %.2f KV pool\n"
      "resident    %d sequences at most\n"
      "workers     %.3f s prefill, %.3f s decode\n"
      "floor       %.3f s prefill, %.3f s decode\n"
      "fraction    %.2f of the floor: prefill %.2f, decode %.2f\n",
      number("tokens_per_second"), total, number("decode_tokens_per_second"),
      number("ttft_p50_ms"), number("ttft_max_ms"), number("tpot_p50_ms"),
      number("tpot_p99_ms"), number("gap_p50_ms"), number("gap_p99_ms"),
      number("full_batch_step_ms"), number("full_batch_steps"), steps,
      beside.c_str(), number("peak_resident_bytes") / 1e9,
      number("weights_bytes") / 1e9, number("workspace_bytes") / 1e9,
      number("kv_pool_bytes") / 1e9, static_cast<int>(peak_running), prefill,
      decode_seconds, floor.prefill_seconds, floor.decode_seconds,
      number("fraction_of_floor"), number("prefill_fraction"),
      number("decode_fraction"));
  return absl::OkStatus();
}

}  // namespace

void AddBenchCommand(CLI::App* app, int* exit_code) {
  auto flags = std::make_shared<BenchFlags>();
  CLI::App* command = app->add_subcommand(
      "bench",
      "Measures throughput and latency, beside what the machine could "
      "do; random token prompts");
  AddEmbeddedFlags(command, &flags->embedded);
  AddPolicyFlags(command, &flags->policy);
  command->add_option("--prompt-len", flags->prompt_len, "Tokens of a prompt")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_option("--gen-len", flags->gen_len, "Tokens to generate")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_option("--num-seqs", flags->num_seqs, "Sequences")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command
      ->add_option("--max-sequences", flags->max_sequences,
                   "Sequences at once, at most")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command
      ->add_option("--stall-target-ms", flags->stall_target_ms,
                   "Between two steps a prompt takes about this long; a large "
                   "one fills the batch before it decodes")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_flag("--json", flags->json, "One JSON object");
  command->callback(
      [flags, exit_code] { *exit_code = ExitCodeOf(RunBench(*flags)); });
}

}  // namespace h2o
