// What the prompts of `generate` and `call` get for an answer, and its way to
// standard output or to --output: in input order, as text or as JSON lines.
//
// Threads  Add and Close may be called by any thread; one thread prints.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "api/result.h"
#include "clients/answer_file.h"
#include "clients/input.h"
#include "clients/progress_bar.h"

namespace CLI {
class App;
}

namespace h2o {

// --json, --output, --resume
struct OutputFlags {
  bool json = false;
  std::string output;  // empty: standard output
  bool resume = false;
};
void AddOutputFlags(CLI::App* app, OutputFlags* flags);

class Answers {
 public:
  // Errors: AnswerFile::Open's.
  static absl::StatusOr<std::unique_ptr<Answers>> Create(
      const OutputFlags& flags, const std::vector<Prompt>& prompts,
      const std::string& label);

  // Whether prompt i has an answer of an earlier run and need not be asked.
  bool Has(size_t i) const { return file_ && file_->Has(i); }

  // What has come of prompt i.
  void Add(size_t i, const StreamEvent& event);
  // Nothing more comes of prompt i.
  void Close(size_t i, const absl::Status& status);
  // Nothing comes of the prompts that are not closed.
  void CloseRest(const absl::Status& status);

  // Prints what can be printed.  The text of the first unfinished answer is
  // streamed; the others wait for their turn.
  void Print();
  // Whether all is printed.
  bool Finished() const { return next_ == results_.size(); }
  // Waits for more to print.
  void WaitForMore(double seconds);

  // The first failure, and how many there were.  Errors: also those of the
  // output.  REQUIRES: Finished().
  absl::Status Verdict();

 private:
  Answers(const OutputFlags& flags, const std::vector<Prompt>& prompts,
          const std::string& label);
  void Finish(const Result& result);

  const bool json_;
  const std::vector<Prompt>& prompts_;
  std::optional<AnswerFile> file_;  // none: standard output

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Result> results_;  // guarded by mutex_, as the next two are
  std::vector<bool> closed_;
  size_t num_closed_ = 0;

  // Of the printing thread, but changed under mutex_.
  size_t next_ = 0;     // the first prompt that is not printed
  size_t printed_ = 0;  // bytes of its text that are
  int failures_ = 0;
  size_t first_failed_ = 0;
  absl::Status first_failure_;
  const bool bar_shown_;
  ProgressBar bar_;
};

}  // namespace h2o
