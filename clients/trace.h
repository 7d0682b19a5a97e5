// Traces of the KV cache as JSON lines: which tokens every head kept after a
// prompt, and which one it evicted in each step.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/new_file.h"
#include "model/step.h"

namespace h2o {

// {"seq":0,"layer":0,"head":0,"kept":[..]} after a prompt,
// {"seq":0,"layer":0,"head":0,"pos":200,"evicted":180} after a step, with null
// if no token was evicted.  Ends with a newline.
std::string TraceLine(int seq, const HeadTrace& trace);

// The file appears when it is complete.
class TraceFile {
 public:
  TraceFile() = default;  // writes nothing
  // Errors: NewFile::Create's.
  static absl::StatusOr<TraceFile> Create(const std::string& path);

  bool is_open() const { return file_.is_open(); }
  void Write(int seq, const std::vector<HeadTrace>& trace);
  // Errors: NewFile::Commit's.
  absl::Status Close();

 private:
  NewFile file_;
};

}  // namespace h2o
