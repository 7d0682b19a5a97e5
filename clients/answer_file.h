// The file of --output: one JSON line for each prompt, in input order.  Lines
// are written as answers come, so that an interrupted run can go on: with
// --resume, prompts that have an answer in the file are not asked again.
//
// Threads  not thread-safe.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "parallel/unique_fd.h"

namespace h2o {

class AnswerFile {
 public:
  // Begins a new file or, with `resume`, goes on with what is there.  A failed
  // answer counts as none; so does a last line that was cut off.
  // Errors: PERMISSION_DENIED naming a path that cannot be written,
  // INVALID_ARGUMENT if the file is not one of answers to so many prompts.
  static absl::StatusOr<AnswerFile> Open(const std::string& path, bool resume,
                                         size_t num_prompts);

  // Whether prompt i has an answer of an earlier run.
  bool Has(size_t i) const { return !lines_.empty() && !lines_[i].empty(); }

  // Writes the line of prompt i, without its end.
  void Append(size_t i, const std::string& line);

  // Forces the file to disk; a resumed one is put into input order before.
  // Errors: DATA_LOSS naming the first fault (a full disk).
  absl::Status Close();

 private:
  absl::Status ReadEarlier(size_t num_prompts);
  absl::Status WriteInOrder() const;

  std::string path_;
  UniqueFd fd_;
  int fault_ = 0;                   // errno of the first write that failed
  std::vector<std::string> lines_;  // by prompt, if resumed; else empty
};

}  // namespace h2o
