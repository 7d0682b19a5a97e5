// Asks a server the prompts of `call`, over gRPC or HTTP.
#pragma once

#include <functional>
#include <optional>

#include "absl/status/status.h"
#include "clients/answers.h"
#include "clients/cpp/retry.h"

namespace h2o {

struct CallerOptions {
  std::optional<double> timeout_seconds;  // of each prompt, with all attempts
  RetryOptions retry;
  // Before each pause between attempts; called by any thread.
  std::function<void(const absl::Status& why, double pause_seconds)> on_retry;
};

// Each prompt that has no answer yet is asked, and its Answers closed.
class Caller {
 public:
  virtual ~Caller() = default;  // waits for calls that run
  Caller() = default;
  Caller(const Caller&) = delete;

  // Called once, first.  `answers` must outlive this.
  void ReportTo(Answers* answers) { answers_ = answers; }
  // Begins as many calls as may run at once; called again and again.
  virtual void StartMore() = 0;
  // Cancels calls that run, and makes no other ones.
  virtual void Cancel() = 0;

 protected:
  Answers* answers() const { return answers_; }

 private:
  Answers* answers_ = nullptr;
};

}  // namespace h2o
