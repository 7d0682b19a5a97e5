// Writes traces of the KV cache as JSON lines.
#include "clients/trace.h"

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace h2o {

std::string TraceLine(int seq, const HeadTrace& trace) {
  std::string line = absl::StrCat("{\"seq\":", seq, ",\"layer\":", trace.layer,
                                  ",\"head\":", trace.head);
  if (trace.pos < 0) {
    absl::StrAppend(&line, ",\"kept\":[", absl::StrJoin(trace.kept, ","),
                    "]}\n");
  } else if (trace.evicted < 0) {
    absl::StrAppend(&line, ",\"pos\":", trace.pos, ",\"evicted\":null}\n");
  } else {
    absl::StrAppend(&line, ",\"pos\":", trace.pos,
                    ",\"evicted\":", trace.evicted, "}\n");
  }
  return line;
}

absl::StatusOr<TraceFile> TraceFile::Create(const std::string& path) {
  TraceFile trace;
  trace.path_ = path;
  trace.file_ = std::fopen(path.c_str(), "we");
  if (trace.file_ == nullptr) {
    return absl::PermissionDeniedError(absl::StrCat(
        "cannot write the trace to ", path, ": ", std::strerror(errno)));
  }
  return trace;
}

TraceFile::TraceFile(TraceFile&& other) noexcept { *this = std::move(other); }

TraceFile& TraceFile::operator=(TraceFile&& other) noexcept {
  std::swap(file_, other.file_);
  std::swap(path_, other.path_);
  return *this;
}

TraceFile::~TraceFile() {
  if (file_ != nullptr) std::fclose(file_);
}

void TraceFile::Write(int seq, const std::vector<HeadTrace>& trace) {
  if (file_ == nullptr) return;
  for (const HeadTrace& t : trace) {
    const std::string line = TraceLine(seq, t);
    std::fwrite(line.data(), 1, line.size(), file_);
  }
}

absl::Status TraceFile::Close() {
  if (file_ == nullptr) return absl::OkStatus();
  const bool failed = std::ferror(file_) != 0;
  std::FILE* file = std::exchange(file_, nullptr);
  if (std::fclose(file) != 0 || failed) {
    return absl::DataLossError(absl::StrCat(
        "the trace ", path_, " is incomplete: ", std::strerror(errno)));
  }
  return absl::OkStatus();
}

}  // namespace h2o
