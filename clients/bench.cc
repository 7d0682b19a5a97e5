// h2oserve bench: runs a load of random prompts and reports throughput and
// latency beside the floor.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "base/sampling.h"
#include "base/status_macros.h"
#include "clients/bench_report.h"
#include "clients/commands.h"
#include "clients/embedded_flags.h"
#include "embedded/all_reduce_times.h"
#include "flags/flags.h"
#include "kernels/cpu/machine_rates.h"
#include "kernels/cuda/cuda_backend.h"
#include "kv/kv_geometry.h"

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
  bool with_options = false;
  bool json = false;
};

std::vector<Request> MakeRequests(
    const BenchFlags& flags, const ModelConfig& config,
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
    if (!flags.with_options) continue;
    request.sampling.repetition_penalty = 1.1f;
    request.sampling.frequency_penalty = 0.1f;
    request.logprobs = true;
    request.top_logprobs = 5;
  }
  return requests;
}

// Checked before requests of that size are made.
absl::Status CheckLengths(const BenchFlags& flags, const ModelConfig& config) {
  const int64_t positions = MaxStoredTokens(flags.prompt_len, flags.gen_len);
  if (positions <= config.max_positions) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("prompts of ", flags.prompt_len, " tokens and ",
                   flags.gen_len, " to generate need ", positions,
                   " positions; the model has ", config.max_positions));
}

// Of all ranks together.
absl::StatusOr<MachineRates> MeasureRates(const EmbeddedOptions& options) {
  if (!options.shard.device.cuda)
    return MeasureMachineRates(options.shard.num_threads);
  H2O_ASSIGN_OR_RETURN(MachineRates rates,
                       MeasureGpuRates(options.shard.device.ordinal));
  rates.read_bytes_per_second *= options.shard.size;
  rates.bf16_flops_per_second *= options.shard.size;
  rates.fp8_flops_per_second *= options.shard.size;
  return rates;
}

int ActivationBytes(const EmbeddedOptions& options) {
  return options.shard.device.cuda ? 2 : 4;
}

// The bytes of 1, 2, 4, ... rows of hidden states, up to those of the longest
// prompt.
absl::StatusOr<std::vector<AllReduceTime>> MeasureSums(
    const EmbeddedOptions& options) {
  if (options.shard.size == 1) return std::vector<AllReduceTime>();
  H2O_ASSIGN_OR_RETURN(const ModelConfig config, ConfigOf(options.shard.model));
  H2O_RETURN_IF_ERROR(ValidateTensorParallel(config, options.shard.size));
  AllReduceOptions sums;
  sums.kind = options.shard.device.cuda ? RankKind::kGpus : RankKind::kThreads;
  sums.ranks = options.shard.size;
  sums.first_gpu = options.shard.device.ordinal;
  sums.seconds = 0.03;
  sums.batch = options.shard.device.cuda ? 50 : 10;
  const int64_t row_bytes =
      int64_t{config.hidden_size} * ActivationBytes(options);
  for (int64_t rows = 1; rows < config.max_positions; rows *= 2) {
    sums.bytes.push_back(rows * row_bytes);
  }
  sums.bytes.push_back(config.max_positions * row_bytes);
  return MeasureAllReduces(sums);
}

// Runs short requests first, so that pages are touched and kernels are chosen.
// On a GPU as many as the run has, because steps are recorded for each batch
// size.
absl::Status WarmUp(std::vector<Request> requests, bool gpu,
                    Embedded* embedded) {
  if (!gpu) requests.resize(1);
  for (Request& r : requests) r.max_tokens = std::min(*r.max_tokens, 8);
  return embedded->Run(std::move(requests), [](int, const StreamEvent&) {});
}

// The difference of two readings of the counters.
Engine::Counters Between(const Engine::Counters& before,
                         Engine::Counters after) {
  after.steps -= before.steps;
  after.prefill_seconds -= before.prefill_seconds;
  after.decode_seconds -= before.decode_seconds;
  after.idle_seconds -= before.idle_seconds;
  after.step_seconds -= before.step_seconds;
  after.interval_seconds -= before.interval_seconds;
  return after;
}

absl::StatusOr<BenchRun> TimeRun(std::vector<Request> requests, bool gpu,
                                 Embedded* embedded) {
  const Engine::Counters before = embedded->engine().counters();
  const SteadyClock clock;
  BenchRun run(static_cast<int>(requests.size()));
  run.gaps.reserve(requests.size() * *requests[0].max_tokens);
  int running = 0;
  run.start = clock.Now();
  const auto on_event = [&](int i, const StreamEvent& event) {
    const double now = clock.Now();
    Arrivals& a = run.arrivals[i];
    if (a.tokens == 0) {
      a.first = now;
      run.peak_running = std::max(run.peak_running, ++running);
    } else {
      run.gaps.push_back(now - a.last);
    }
    run.full_batch.OnToken(now, a.tokens == 0, event.done);
    a.last = now;
    a.tokens += static_cast<int>(event.tokens.size());
    if (event.done) --running;
  };
  H2O_RETURN_IF_ERROR(embedded->Run(std::move(requests), on_event));
  run.seconds = clock.Now() - run.start;
  run.spent = Between(before, embedded->engine().counters());
  // All memory of a GPU is taken at the start.
  const MemoryPlan plan = embedded->group_info().memory();
  run.peak_bytes =
      gpu ? plan.weights + plan.workspace + plan.kv_pool : PeakResidentBytes();
  return run;
}

absl::StatusOr<BenchMachine> MachineOf(const EmbeddedOptions& options,
                                       const ModelConfig& config,
                                       const BenchCeilings& ceilings) {
  H2O_ASSIGN_OR_RETURN(const DType dtype,
                       ProductDType(WithFormats(options.shard.model, config,
                                                options.shard.device.cuda)));
  const MachineRates rates = ceilings.Mean();
  const bool bf16 =
      options.shard.device.cuda ||
      (dtype == DType::kBFloat16 && rates.bf16_flops_per_second > 0);
  const double flops =
      bf16 ? rates.bf16_flops_per_second : rates.sgemm_flops_per_second;
  const bool fp8 =
      options.shard.device.cuda && options.shard.model.fp8_activations;
  return BenchMachine{rates.read_bytes_per_second, flops,
                      fp8 ? rates.fp8_flops_per_second : flops,
                      ActivationBytes(options), ceilings.all_reduces};
}

absl::StatusOr<EmbeddedOptions> OptionsOf(const BenchFlags& flags) {
  H2O_ASSIGN_OR_RETURN(EmbeddedOptions options, flags.embedded.Options());
  options.engine.max_sequences = flags.max_sequences;
  options.engine.max_queue = std::max(flags.num_seqs, 1);
  options.engine.stall_target_seconds = flags.stall_target_ms / 1000;
  return options;
}

BenchLoad LoadOf(const BenchFlags& flags, int64_t slots, const BenchRun& run,
                 const Embedded& embedded) {
  const MemoryPlan plan = embedded.group_info().memory();
  return {flags.prompt_len,
          flags.gen_len,
          flags.num_seqs,
          slots,
          std::max(run.peak_running, 1),
          embedded.group_info().packed_tokens(),
          static_cast<double>(plan.weights - plan.looked_up)};
}

// Must run before the group is made: on GPUs it forks ranks, and it needs
// memory of the device.
absl::StatusOr<BenchCeilings> MeasureAhead(const EmbeddedOptions& options) {
  BenchCeilings ceilings;
  H2O_ASSIGN_OR_RETURN(ceilings.all_reduces, MeasureSums(options));
  if (options.shard.device.cuda) {
    H2O_ASSIGN_OR_RETURN(ceilings.before, MeasureRates(options));
    ceilings.after = ceilings.before;
  }
  return ceilings;
}

// The rates of a GPU are stable.  Those of a CPU change within minutes, so they
// are measured before and after the run.
absl::StatusOr<BenchRun> RunBetweenRates(const EmbeddedOptions& options,
                                         std::vector<Request> requests,
                                         Embedded* embedded,
                                         BenchCeilings* ceilings) {
  if (options.shard.device.cuda)
    return TimeRun(std::move(requests), true, embedded);
  H2O_ASSIGN_OR_RETURN(ceilings->before, MeasureRates(options));
  H2O_ASSIGN_OR_RETURN(BenchRun run,
                       TimeRun(std::move(requests), false, embedded));
  H2O_ASSIGN_OR_RETURN(ceilings->after, MeasureRates(options));
  return run;
}

absl::Status RunBench(const BenchFlags& flags) {
  H2O_ASSIGN_OR_RETURN(const std::optional<KvPolicyRequest> policy,
                       flags.policy.Request());
  H2O_ASSIGN_OR_RETURN(const KvPolicy resolved,
                       ResolveKvPolicy(policy.value_or(KvPolicyRequest{}),
                                       flags.prompt_len, flags.gen_len, 0));
  H2O_ASSIGN_OR_RETURN(const EmbeddedOptions options, OptionsOf(flags));
  H2O_ASSIGN_OR_RETURN(BenchCeilings ceilings, MeasureAhead(options));
  H2O_ASSIGN_OR_RETURN(const std::unique_ptr<Embedded> embedded,
                       LoadEmbedded(options));
  const ModelConfig& config = embedded->config();
  H2O_RETURN_IF_ERROR(CheckLengths(flags, config));
  std::vector<Request> requests = MakeRequests(flags, config, policy);
  H2O_RETURN_IF_ERROR(embedded->engine().Check(requests[0]));
  H2O_RETURN_IF_ERROR(
      WarmUp(requests, options.shard.device.cuda, embedded.get()));
  H2O_ASSIGN_OR_RETURN(
      BenchRun run,
      RunBetweenRates(options, std::move(requests), embedded.get(), &ceilings));
  H2O_ASSIGN_OR_RETURN(const BenchMachine machine,
                       MachineOf(options, config, ceilings));
  const BenchLoad load =
      LoadOf(flags, resolved.slots[0].Capacity(), run, *embedded);
  const KvGeometry& geometry = embedded->group_info().geometry();
  Print({config.name, options.shard.size, options.shard.num_threads,
         options.shard.device.cuda, embedded->load_seconds(),
         embedded->group_info().memory(), embedded->group_info().sums(), load,
         std::move(run), std::move(ceilings),
         ComputeFloor(config, geometry, load, machine),
         AllReduceFloor(config, load, machine)},
        flags.json);
  return absl::OkStatus();
}

}  // namespace

void AddBenchCommand(CLI::App* app, int* exit_code) {
  auto flags = std::make_shared<BenchFlags>();
  CLI::App* command =
      app->add_subcommand("bench",
                          "Measures throughput and latency with random "
                          "prompts, beside what the machine would allow");
  AddEmbeddedFlags(command, &flags->embedded);
  AddPolicyFlags(command, &flags->policy);
  command
      ->add_option("--prompt-len", flags->prompt_len, "Tokens of each prompt")
      ->check(AtLeastOne())
      ->capture_default_str();
  command
      ->add_option("--gen-len", flags->gen_len,
                   "Tokens that each sequence generates")
      ->check(AtLeastOne())
      ->capture_default_str();
  command->add_option("--num-seqs", flags->num_seqs, "Number of sequences")
      ->check(CLI::Range(1, 1'000'000))
      ->capture_default_str();
  command
      ->add_option("--max-sequences", flags->max_sequences,
                   "Most sequences that run at once")
      ->check(AtLeastOne())
      ->capture_default_str();
  command
      ->add_option("--stall-target-ms", flags->stall_target_ms,
                   "How long a new prompt may hold up decoding at a time; a "
                   "large value fills the batch before it decodes")
      ->check(Within(0.001, 1e9, "a number of milliseconds over 0"))
      ->capture_default_str();
  command->add_flag("--with-options", flags->with_options,
                    "All sequences use penalties and report the logprobs of "
                    "the 5 likeliest tokens, to see what that costs");
  command->add_flag("--json", flags->json, "Print one JSON object");
  command->callback(
      [flags, exit_code] { *exit_code = ExitCodeOf(RunBench(*flags)); });
}

}  // namespace h2o
