// The command `logits`: the logits or likelihoods of given tokens.
#include <CLI/CLI.hpp>
#include <cmath>
#include <cstdio>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "api/result.h"
#include "base/status_macros.h"
#include "clients/commands.h"
#include "clients/embedded_flags.h"
#include "clients/input.h"
#include "clients/npy_file.h"
#include "clients/output.h"
#include "clients/progress_bar.h"
#include "clients/trace.h"
#include "embedded/teacher_forced.h"
#include "flags/flags.h"

namespace h2o {
namespace {

struct LogitsFlags {
  EmbeddedFlags embedded;
  PolicyFlags policy;
  std::string tokens;
  std::string input;
  int prefill = 0;  // 0: not given
  std::string out;
  std::string trace;
  bool nll = false;
};

// The tokens of one input, and the policy of its cache.
struct Given {
  std::vector<int32_t> tokens;
  std::optional<KvPolicyRequest> policy;
  std::string place;   // FILE:LINE, or empty
  std::string others;  // of the line, see Prompt
};

absl::Status NotUsable(const Given& given, int64_t position) {
  return At(given.place, absl::InternalError(absl::StrCat(
                             "the model's logits at position ", position,
                             " are not finite (NaN or infinity)")));
}

// Calls fn(i, position, row) for every row of logits, positions ascending.
// Errors: those of the requests; INTERNAL naming the first position whose
// logits are not finite.  Decode steps find such rows by themselves; of a
// prompt's rows only the last one is looked at by the ranks.
template <typename Fn>
absl::Status RunForced(const std::vector<Given>& inputs, Embedded* embedded,
                       std::vector<Request> requests, TraceFile* trace,
                       const Fn& fn) {
  const int64_t vocabulary = embedded->config().vocab_size;
  absl::Status unusable;
  H2O_RETURN_IF_ERROR(
      embedded->Run(std::move(requests), [&](int i, const StreamEvent& event) {
        trace->Write(i, event.trace);
        ForEachLogitRow(event, vocabulary,
                        [&](int64_t position, absl::Span<const float> row) {
                          if (!IsUsable(row)) {
                            unusable.Update(NotUsable(inputs[i], position));
                          }
                          fn(i, position, row);
                        });
      }));
  return unusable;
}

// A line's options other than the policy are refused: no token is sampled.
absl::StatusOr<Given> GivenBy(const Request& line, const Embedded& embedded) {
  const SamplingParams& sampling = line.sampling;
  if (line.max_tokens || line.ignore_eos || !line.stop.empty() ||
      sampling.temperature != 0 || sampling.top_k != 0 || sampling.top_p != 0 ||
      line.has_seed) {
    return absl::InvalidArgumentError(
        "of tokens that are given only prompt or tokens, kv_policy and "
        "kv_budget can be told");
  }
  Given given = {line.tokens, line.kv_policy};
  if (line.has_text) {
    if (embedded.tokenizer() == nullptr) {
      return absl::InvalidArgumentError(
          "a text prompt, but the model has no tokenizer; give token ids");
    }
    H2O_ASSIGN_OR_RETURN(given.tokens, embedded.tokenizer()->Encode(line.text));
  }
  return given;
}

absl::StatusOr<std::vector<Given>> ReadGiven(
    const LogitsFlags& flags, const Embedded& embedded,
    const std::optional<KvPolicyRequest>& policy) {
  std::vector<Given> all;
  if (flags.input.empty()) {
    H2O_ASSIGN_OR_RETURN(std::vector<int32_t> tokens,
                         ParseTokenList(flags.tokens));
    all.push_back({std::move(tokens), policy});
    return all;
  }
  Request defaults;
  defaults.kv_policy = policy;
  H2O_ASSIGN_OR_RETURN(std::vector<Prompt> lines,
                       ReadInputLines(flags.input, defaults));
  for (Prompt& line : lines) {
    absl::StatusOr<Given> given = GivenBy(line.request, embedded);
    if (!given.ok()) return At(line.place, given.status());
    given->place = std::move(line.place);
    given->others = std::move(line.others);
    all.push_back(*std::move(given));
  }
  return all;
}

bool Evicts(const std::optional<KvPolicyRequest>& policy) {
  return policy && policy->name != KvPolicyName::kFull;
}

// How the tokens of an input are split, and the policy of its cache.
struct Split {
  int prefill = 0;  // tokens; 0: all
  std::optional<KvPolicyRequest> policy;
};

// In a prefill every token attends all that are before it, whatever the policy
// keeps behind it.  So the likelihoods of a policy are decoded token by token
// unless --prefill says otherwise.  A share is then one of all tokens, because
// the one token that is prefilled is no prompt.
Split SplitOf(const Given& given, const LogitsFlags& flags) {
  Split split = {flags.prefill, given.policy};
  if (!flags.nll || flags.prefill > 0 || !Evicts(given.policy)) return split;
  split.prefill = 1;
  KvPolicyRequest& policy = *split.policy;
  const bool shared = !policy.budget_tokens && !policy.heavy && !policy.recent;
  const absl::StatusOr<KvPolicy> resolved =
      ResolveKvPolicy(policy, static_cast<int32_t>(given.tokens.size()), 1, 0);
  if (!shared || !resolved.ok()) return split;
  policy.budget_percent.reset();
  policy.budget_tokens = resolved->slots[0].Capacity();
  return split;
}

// Tells on stderr what the policy of one input comes to.
void TellPolicy(const Given& given, const LogitsFlags& flags) {
  if (!Evicts(given.policy)) return;
  if (!flags.nll && flags.prefill == 0) {
    std::fprintf(stderr,
                 "all %zu tokens go through prefill, where every token attends "
                 "all before it: these are the full cache's logits; --prefill "
                 "1 decodes under the policy\n",
                 given.tokens.size());
    return;
  }
  const int32_t prompt = flags.prefill > 0
                             ? flags.prefill
                             : static_cast<int32_t>(given.tokens.size());
  std::fprintf(stderr, "%s\n", PolicyText(*given.policy, prompt).c_str());
}

absl::StatusOr<Request> RequestFor(const Given& given, const LogitsFlags& flags,
                                   const Embedded& embedded) {
  const Split split = SplitOf(given, flags);
  H2O_ASSIGN_OR_RETURN(
      Request request,
      TeacherForced(given.tokens, split.prefill, split.policy));
  request.trace = !flags.trace.empty();
  H2O_RETURN_IF_ERROR(embedded.engine().Check(request));
  return request;
}

absl::Status CheckFlags(const LogitsFlags& flags) {
  if (flags.nll == !flags.out.empty()) {
    return absl::InvalidArgumentError(
        "give either --out FILE.npy (with --tokens) or --nll");
  }
  if (!flags.nll && flags.tokens.empty()) {
    return absl::InvalidArgumentError("--out goes with --tokens, not --input");
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<Request>> RequestsFor(
    const std::vector<Given>& inputs, const LogitsFlags& flags,
    const Embedded& embedded) {
  std::vector<Request> requests;
  for (const Given& given : inputs) {
    absl::StatusOr<Request> request = RequestFor(given, flags, embedded);
    if (!request.ok()) return At(given.place, request.status());
    requests.push_back(*std::move(request));
  }
  return requests;
}

// --out: float32 [tokens, vocabulary] as an .npy file.
absl::Status WriteLogits(const std::string& path,
                         const std::vector<Given>& inputs, Embedded* embedded,
                         std::vector<Request> requests, TraceFile* trace) {
  H2O_ASSIGN_OR_RETURN(
      NpyFile out,
      NpyFile::Create(path, static_cast<int64_t>(inputs[0].tokens.size()),
                      embedded->config().vocab_size));
  H2O_RETURN_IF_ERROR(RunForced(
      inputs, embedded, std::move(requests), trace,
      [&](int, int64_t, absl::Span<const float> row) { out.Append(row); }));
  return out.Close();
}

// --nll: a JSON line for each input.
absl::Status PrintNll(const std::vector<Given>& inputs, Embedded* embedded,
                      std::vector<Request> requests, TraceFile* trace) {
  std::vector<std::vector<double>> nll(inputs.size());
  size_t total = 0, done = 0;
  for (const Given& given : inputs) total += given.tokens.size();
  ProgressBar bar("logits");
  const auto on_row = [&](int i, int64_t position,
                          absl::Span<const float> row) {
    bar.Set(static_cast<double>(++done) / total);
    const std::vector<int32_t>& tokens = inputs[i].tokens;
    if (position + 1 < static_cast<int64_t>(tokens.size())) {
      nll[i].push_back(LogSumExp(row) - row[tokens[position + 1]]);
    }
  };
  H2O_RETURN_IF_ERROR(
      RunForced(inputs, embedded, std::move(requests), trace, on_row));
  for (size_t i = 0; i < nll.size(); ++i) {
    for (size_t t = 0; t < nll[i].size(); ++t) {
      // A token of probability 0.  JSON has no infinity.
      if (!std::isfinite(nll[i][t])) return NotUsable(inputs[i], t);
    }
    nlohmann::ordered_json line;
    line["index"] = i;
    line["nll"] = nll[i];
    std::printf("%s\n", WithOthers(line.dump(), inputs[i].others).c_str());
  }
  return absl::OkStatus();
}

absl::Status RunLogits(const LogitsFlags& flags) {
  H2O_ASSIGN_OR_RETURN(const std::optional<KvPolicyRequest> policy,
                       flags.policy.Request());
  H2O_RETURN_IF_ERROR(CheckFlags(flags));
  H2O_ASSIGN_OR_RETURN(EmbeddedOptions options, flags.embedded.Options());
  options.engine.max_sequences = 16;  // logits are large
  options.engine.max_queue = std::numeric_limits<int>::max();
  H2O_ASSIGN_OR_RETURN(const std::unique_ptr<Embedded> embedded,
                       LoadEmbedded(options));
  H2O_ASSIGN_OR_RETURN(const std::vector<Given> inputs,
                       ReadGiven(flags, *embedded, policy));
  H2O_ASSIGN_OR_RETURN(std::vector<Request> requests,
                       RequestsFor(inputs, flags, *embedded));
  if (inputs.size() == 1) TellPolicy(inputs[0], flags);
  TraceFile trace;
  if (!flags.trace.empty()) {
    H2O_ASSIGN_OR_RETURN(trace, TraceFile::Create(flags.trace));
  }
  if (flags.nll) {
    H2O_RETURN_IF_ERROR(
        PrintNll(inputs, embedded.get(), std::move(requests), &trace));
  } else {
    H2O_RETURN_IF_ERROR(WriteLogits(flags.out, inputs, embedded.get(),
                                    std::move(requests), &trace));
  }
  return trace.Close();
}

}  // namespace

void AddLogitsCommand(CLI::App* app, int* exit_code) {
  auto flags = std::make_shared<LogitsFlags>();
  CLI::App* command = app->add_subcommand(
      "logits", "Computes the logits of given tokens, or their log-likelihood");
  AddEmbeddedFlags(command, &flags->embedded);
  AddPolicyFlags(command, &flags->policy);
  auto* tokens =
      command->add_option("--tokens", flags->tokens, "Token ids: \"2 11 12\"");
  auto* input = command->add_option("--input", flags->input,
                                    "With --nll: file of JSON lines, each "
                                    "{\"tokens\": [..]} or {\"prompt\": ..}");
  tokens->excludes(input);
  command
      ->add_option("--prefill", flags->prefill,
                   "Number of tokens that go through prefill; the rest is "
                   "decoded through the KV cache. Default: all; with --nll "
                   "and a policy that evicts 1, and a share of --kv-budget is "
                   "one of all tokens")
      ->check(AtLeastOne());
  command->add_option("--out", flags->out,
                      ".npy file for the logits, float32 [tokens, vocabulary]");
  command->add_flag("--nll", flags->nll,
                    "Print a JSON line for each input: -log p of each token "
                    "but the first, given those before it");
  command->add_option(
      "--trace", flags->trace,
      "File for what every head keeps and evicts, as JSON lines");
  command->callback([flags, tokens, input, exit_code] {
    if (tokens->count() + input->count() == 0) {
      *exit_code = ExitCodeOf(absl::InvalidArgumentError(
          "no tokens; give --tokens \"2 11 12\" or --input FILE.jsonl"));
      return;
    }
    *exit_code = ExitCodeOf(RunLogits(*flags));
  });
}

}  // namespace h2o
