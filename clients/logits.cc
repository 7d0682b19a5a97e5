#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "clients/commands.h"
#include "clients/embedded_flags.h"
#include "clients/input.h"
#include "clients/npy_file.h"
#include "clients/progress_bar.h"
#include "clients/trace.h"
#include "flags/flags.h"

namespace h2o {
namespace {

struct LogitsFlags {
  EmbeddedFlags embedded;
  PolicyFlags policy;
  std::string tokens;
  std::string input;
  int prefill = 0;  // 0: all tokens
  std::string out;
  std::string trace;
  bool nll = false;
};

// The first `prefill` tokens as a prompt, the rest through the cache.
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

// -log softmax(row)[token].
double NegativeLogLikelihood(absl::Span<const float> row, int32_t token) {
  const double greatest = *std::max_element(row.begin(), row.end());
  double sum = 0;
  for (float x : row) sum += std::exp(x - greatest);
  return greatest + std::log(sum) - row[token];
}

// Calls fn(i, position, row) for every row of logits, positions ascending.
template <typename Fn>
absl::Status RunForced(Embedded* embedded, std::vector<Request> requests,
                       TraceFile* trace, const Fn& fn) {
  const int64_t vocabulary = embedded->config().vocab_size;
  return embedded->Run(std::move(requests), [&](int i, StreamEvent event) {
    trace->Write(i, event.trace);
    for (const LogitRows& part : event.logits) {
      const int64_t rows = static_cast<int64_t>(part.rows.size()) / vocabulary;
      for (int64_t r = 0; r < rows; ++r) {
        fn(i, part.first_position + r,
           absl::MakeConstSpan(part.rows).subspan(r * vocabulary, vocabulary));
      }
    }
  });
}

absl::StatusOr<std::vector<std::vector<int32_t>>> ReadTokens(
    const LogitsFlags& flags, const Embedded& embedded) {
  std::vector<std::vector<int32_t>> all;
  if (flags.input.empty()) {
    H2O_ASSIGN_OR_RETURN(std::vector<int32_t> tokens,
                         ParseTokenList(flags.tokens));
    all.push_back(std::move(tokens));
    return all;
  }
  H2O_ASSIGN_OR_RETURN(const std::vector<Request> lines,
                       ReadInputLines(flags.input, Request{}));
  for (const Request& line : lines) {
    if (!line.has_text) {
      all.push_back(line.tokens);
      continue;
    }
    if (embedded.tokenizer() == nullptr) {
      return absl::InvalidArgumentError(
          "a text prompt, but the model has no tokenizer; give token ids");
    }
    H2O_ASSIGN_OR_RETURN(std::vector<int32_t> tokens,
                         embedded.tokenizer()->Encode(line.text));
    all.push_back(std::move(tokens));
  }
  return all;
}

absl::Status RunLogits(const LogitsFlags& flags) {
  H2O_ASSIGN_OR_RETURN(const std::optional<KvPolicyRequest> policy,
                       flags.policy.Request());
  if (flags.nll == !flags.out.empty()) {
    return absl::InvalidArgumentError(
        "give either --out FILE.npy (with --tokens) or --nll");
  }
  if (!flags.nll && flags.tokens.empty()) {
    return absl::InvalidArgumentError("--out goes with --tokens, not --input");
  }
  H2O_ASSIGN_OR_RETURN(EmbeddedOptions options, flags.embedded.Options());
  options.engine.max_sequences = 16;  // logits are large
  H2O_ASSIGN_OR_RETURN(const std::unique_ptr<Embedded> embedded,
                       Embedded::Create(options));
  H2O_ASSIGN_OR_RETURN(const auto tokens, ReadTokens(flags, *embedded));
  std::vector<Request> requests;
  for (const std::vector<int32_t>& one : tokens) {
    H2O_ASSIGN_OR_RETURN(Request request,
                         TeacherForced(one, flags.prefill, policy));
    request.trace = !flags.trace.empty();
    H2O_RETURN_IF_ERROR(embedded->engine().Check(request));
    requests.push_back(std::move(request));
  }
  TraceFile trace;
  if (!flags.trace.empty()) {
    H2O_ASSIGN_OR_RETURN(trace, TraceFile::Create(flags.trace));
  }

  if (!flags.nll) {
    const int64_t vocabulary = embedded->config().vocab_size;
    H2O_ASSIGN_OR_RETURN(
        NpyFile out,
        NpyFile::Create(flags.out, static_cast<int64_t>(tokens[0].size()),
                        vocabulary));
    H2O_RETURN_IF_ERROR(RunForced(
        embedded.get(), std::move(requests), &trace,
        [&](int, int64_t, absl::Span<const float> row) { out.Append(row); }));
    H2O_RETURN_IF_ERROR(out.Close());
    return trace.Close();
  }

  std::vector<std::vector<double>> nll(tokens.size());
  size_t total = 0, done = 0;
  for (const auto& one : tokens) total += one.size();
  ProgressBar bar("logits");
  const auto on_row = [&](int i, int64_t position,
                          absl::Span<const float> row) {
    bar.Set(static_cast<double>(++done) / total);
    if (position + 1 < static_cast<int64_t>(tokens[i].size())) {
      nll[i].push_back(NegativeLogLikelihood(row, tokens[i][position + 1]));
    }
  };
  H2O_RETURN_IF_ERROR(
      RunForced(embedded.get(), std::move(requests), &trace, on_row));
  for (size_t i = 0; i < nll.size(); ++i) {
    nlohmann::ordered_json line;
    line["index"] = i;
    line["nll"] = nll[i];
    std::printf("%s\n", line.dump().c_str());
  }
  return trace.Close();
}

}  // namespace

void AddLogitsCommand(CLI::App* app, int* exit_code) {
  auto flags = std::make_shared<LogitsFlags>();
  CLI::App* command = app->add_subcommand(
      "logits", "Writes the logits of given tokens, or how likely they are");
  AddEmbeddedFlags(command, &flags->embedded);
  AddPolicyFlags(command, &flags->policy);
  auto* tokens = command->add_option("--tokens", flags->tokens,
                                     "Token ids, as in \"2 11 12\"");
  auto* input = command->add_option(
      "--input", flags->input,
      "With --nll: a file of JSON lines, each {\"tokens\": [..]} or "
      "{\"prompt\": ..}");
  tokens->excludes(input);
  command
      ->add_option("--prefill", flags->prefill,
                   "The first so many tokens go through prefill, the rest "
                   "is decoded through the KV cache; default: all")
      ->check(CLI::PositiveNumber);
  command->add_option("--out", flags->out,
                      "Writes float32 [tokens, vocabulary] to this .npy file");
  command->add_flag("--nll", flags->nll,
                    "Prints, a line an input, -log p of each token but the "
                    "first, given those before it");
  command->add_option("--trace", flags->trace,
                      "Writes what every head keeps and evicts, as JSON lines");
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
