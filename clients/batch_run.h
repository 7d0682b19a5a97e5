// A run of `batch`: takes the lines of the input that have no answer, asks a
// server, and writes what it says.
//
//   BatchInput -> workers, each with a connection of its own -> BatchOutput
//
// Threads  one, and one for each worker.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "clients/batch_file.h"
#include "clients/server_flags.h"
#include "http/http_client.h"

namespace h2o {

struct BatchOptions {
  HttpServerPlace server;
  int concurrency = 64;          // requests at once
  double silence_seconds = 600;  // that the server may say nothing
};

class BatchRun {
 public:
  BatchRun(BatchOptions options, BatchInput input, BatchOutput output);
  ~BatchRun();  // stops
  BatchRun(const BatchRun&) = delete;
  BatchRun& operator=(const BatchRun&) = delete;

  // Errors: INVALID_ARGUMENT if OpenSSL cannot use the certificates.
  absl::Status Start();

  // Whether all workers have ended; waits a moment for that.
  bool Finished();

  // Ends requests that run, and asks no other ones.  `why` is the verdict,
  // unless there is one.
  void Stop(const absl::Status& why);

  // Forces the output to disk.  The verdict: OK if all lines have got good
  // answers.
  // Errors: UNAVAILABLE and RESOURCE_EXHAUSTED if the server was gone or busy
  // for too long, PERMISSION_DENIED if it lets nobody in, DATA_LOSS if it does
  // not speak HTTP or the output cannot be written; UNKNOWN if requests failed.
  // REQUIRES: Finished() or Stop.
  absl::Status Close();

  int64_t total() const { return total_; }
  int64_t skipped() const { return skipped_; }  // answered by an earlier run
  int64_t answered() const { return answered_; }
  int64_t failed() const { return failed_; }

 private:
  void Work(HttpClient* client);
  // The next line that has no answer; none: the end, or a stop.
  absl::StatusOr<std::optional<BatchLine>> Next();
  absl::Status Write(const std::string& custom_id, const BatchAnswer& answer);
  HttpRequest RequestOf(const BatchLine& line) const;
  // The answer of a line, after as many attempts as it takes.
  // Errors: what ends the whole run.
  absl::StatusOr<BatchAnswer> Ask(HttpClient* client, const BatchLine& line);
  // False: the run stops meanwhile.
  bool Pause(double seconds);
  void JoinAll();

  const BatchOptions options_;
  const int64_t total_;
  const SteadyClock clock_;

  std::mutex mutex_;
  std::condition_variable changed_;
  // Guarded by mutex_, up to the next blank line.
  BatchInput input_;
  BatchOutput output_;
  int working_ = 0;  // workers that have not ended
  bool stopping_ = false;
  absl::Status verdict_;  // what ended the run early
  std::string first_failed_, first_fault_;

  std::atomic<int64_t> skipped_ = 0, answered_ = 0, failed_ = 0;
  std::atomic<double> last_answer_;
  std::vector<std::unique_ptr<HttpClient>> clients_;
  std::vector<std::thread> threads_;
};

}  // namespace h2o
