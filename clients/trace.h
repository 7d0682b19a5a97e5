// Traces of the KV cache as JSON lines: which tokens every head kept after a
// prompt, and which one it evicted in each step.
#pragma once

#include <cstdio>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "model/step.h"

namespace h2o {

// {"seq":0,"layer":0,"head":0,"kept":[..]} after a prompt,
// {"seq":0,"layer":0,"head":0,"pos":200,"evicted":180} after a step, with null
// if no token was evicted.  Ends with a newline.
std::string TraceLine(int seq, const HeadTrace& trace);

class TraceFile {
 public:
  TraceFile() = default;  // writes nothing
  // Errors: PERMISSION_DENIED naming a path that cannot be written.
  static absl::StatusOr<TraceFile> Create(const std::string& path);
  TraceFile(TraceFile&& other) noexcept;
  TraceFile& operator=(TraceFile&& other) noexcept;
  ~TraceFile();

  bool is_open() const { return file_ != nullptr; }
  void Write(int seq, const std::vector<HeadTrace>& trace);
  // Errors: DATA_LOSS if anything could not be written (a full disk).
  absl::Status Close();

 private:
  std::FILE* file_ = nullptr;
  std::string path_;
};

}  // namespace h2o
