// The files of `batch`, in the format of OpenAI's batches: one JSON object a
// line.  Neither is held in memory, but for the ids of the lines that are
// answered.
//
// Threads  not thread-safe.
#pragma once

#include <cstdint>
#include <fstream>
#include <optional>
#include <string>
#include <string_view>

#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "parallel/unique_fd.h"

namespace h2o {

// {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {..}}
struct BatchLine {
  std::string custom_id;
  std::string url;
  std::string body;  // JSON
};
// Errors: INVALID_ARGUMENT saying what is wrong.
absl::StatusOr<BatchLine> ParseBatchLine(std::string_view text);

class BatchInput {
 public:
  // Checks all lines, so that nothing is asked of a file that is wrong.  Blank
  // lines are none.
  // Errors: NOT_FOUND without the file, INVALID_ARGUMENT naming FILE:LINE.
  static absl::StatusOr<BatchInput> Open(const std::string& path);

  int64_t num_lines() const { return num_lines_; }
  // The next line; none: the end.  Errors: INVALID_ARGUMENT naming FILE:LINE,
  // if the file has changed.
  absl::StatusOr<std::optional<BatchLine>> Next();

 private:
  std::string path_;
  std::ifstream file_;
  int64_t num_lines_ = 0;
  int64_t number_ = 0;  // of the line that was read last
};

// What came of a line: an answer over HTTP, whatever its status, or a fault
// without one.
struct BatchAnswer {
  int status = 0;  // of HTTP; 0: there is none
  std::string request_id;
  std::string body;  // JSON
  absl::Status fault;
};

class BatchOutput {
 public:
  // Goes on behind the lines that are there.  A last line that was cut off is
  // taken away.
  // Errors: PERMISSION_DENIED naming a path that cannot be written,
  // INVALID_ARGUMENT naming FILE:LINE of what is no answer.
  static absl::StatusOr<BatchOutput> Open(const std::string& path);

  // Whether an earlier run has answered it.
  bool Has(const std::string& custom_id) const {
    return answered_.contains(custom_id);
  }

  // Errors: DATA_LOSS naming the fault (a full disk).
  absl::Status Append(const std::string& custom_id, const BatchAnswer& answer);
  // Forces the file to disk.  Errors: likewise.
  absl::Status Close();

 private:
  absl::Status ReadEarlier();
  absl::Status Fault(const char* what) const;

  std::string path_;
  UniqueFd fd_;
  absl::flat_hash_set<std::string> answered_;
};

}  // namespace h2o
