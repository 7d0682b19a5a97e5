// Gathers the answers of a batch and prints them in input order.
#include "clients/answers.h"

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "clients/output.h"

namespace h2o {

void AddOutputFlags(CLI::App* app, OutputFlags* flags) {
  app->add_flag("--json", flags->json,
                "Print one JSON object for each prompt, in input order; that "
                "of a failed one has its error");
  CLI::Option* output =
      app->add_option("--output", flags->output,
                      "File for the JSON objects, instead of standard output")
          ->type_name("FILE.jsonl");
  app->add_flag("--resume", flags->resume,
                "Go on with --output: prompts that have an answer there are "
                "not asked again")
      ->needs(output);
}

absl::StatusOr<std::unique_ptr<Answers>> Answers::Create(
    const OutputFlags& flags, const std::vector<Prompt>& prompts,
    const std::string& label) {
  std::unique_ptr<Answers> answers(new Answers(flags, prompts, label));
  if (flags.output.empty()) return answers;
  H2O_ASSIGN_OR_RETURN(
      answers->file_,
      AnswerFile::Open(flags.output, flags.resume, prompts.size()));
  for (size_t i = 0; i < prompts.size(); ++i) {
    if (answers->Has(i)) answers->Close(i, absl::OkStatus());
  }
  return answers;
}

Answers::Answers(const OutputFlags& flags, const std::vector<Prompt>& prompts,
                 const std::string& label)
    : json_(flags.json || !flags.output.empty()),
      prompts_(prompts),
      results_(prompts.size()),
      closed_(prompts.size()),
      bar_shown_(prompts.size() > 1 && json_ &&
                 (!flags.output.empty() || isatty(STDOUT_FILENO) == 0)),
      bar_(label) {
  for (size_t i = 0; i < prompts.size(); ++i) {
    results_[i].index = static_cast<int>(i);
    results_[i].others = prompts[i].others;
  }
}

void Answers::Add(size_t i, const StreamEvent& event) {
  std::lock_guard lock(mutex_);
  Result& result = results_[i];
  result.Add(event);
  // Greedy answers draw nothing.
  if (prompts_[i].request.sampling.temperature == 0) result.seed.reset();
  changed_.notify_all();
}

void Answers::Close(size_t i, const absl::Status& status) {
  std::lock_guard lock(mutex_);
  Result& result = results_[i];
  result.status = status;
  if (!status.ok()) {
    result.usage.completion_tokens = static_cast<int32_t>(result.tokens.size());
  }
  closed_[i] = true;
  ++num_closed_;
  changed_.notify_all();
}

void Answers::CloseRest(const absl::Status& status) {
  for (size_t i = 0; i < closed_.size(); ++i) {
    const bool open = [&] {
      std::lock_guard lock(mutex_);
      return !closed_[i];
    }();
    if (open) Close(i, status);
  }
}

void Answers::Print() {
  std::lock_guard lock(mutex_);
  while (next_ < results_.size()) {
    const Result& result = results_[next_];
    if (!json_) {
      std::fwrite(result.text.data() + printed_, 1,
                  result.text.size() - printed_, stdout);
      printed_ = result.text.size();
    }
    if (!closed_[next_]) break;
    Finish(result);
    printed_ = 0;
    ++next_;
  }
  std::fflush(stdout);
  if (bar_shown_) {
    bar_.Set(static_cast<double>(num_closed_) /
             static_cast<double>(results_.size()));
  }
}

void Answers::Finish(const Result& result) {
  if (Has(next_) && result.finish == FinishReason::kNone &&
      result.status.ok()) {
    return;  // the answer of an earlier run
  }
  if (file_) {
    file_->Append(next_, ResultJson(result));
  } else {
    std::puts(json_ ? ResultJson(result).c_str() : "");
    std::fflush(stdout);  // before what goes to stderr
  }
  if (result.status.ok()) {
    const std::optional<KvPolicyRequest>& policy =
        prompts_[next_].request.kv_policy;
    if (!json_) std::fprintf(stderr, "%s\n", UsageLine(result, policy).c_str());
  } else if (failures_++ == 0) {
    first_failure_ = result.status;
    first_failed_ = next_;
  }
}

void Answers::WaitForMore(double seconds) {
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, std::chrono::duration<double>(seconds));
}

absl::Status Answers::Verdict() {
  if (file_) H2O_RETURN_IF_ERROR(file_->Close());
  if (failures_ == 0 || results_.size() == 1) return first_failure_;
  return absl::Status(first_failure_.code(),
                      absl::StrCat(failures_, " of ", results_.size(),
                                   " prompts failed; prompt ", first_failed_,
                                   ": ", first_failure_.message()));
}

}  // namespace h2o
