// Writes traces of the KV cache as JSON lines.
#include "clients/trace.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"

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
  H2O_ASSIGN_OR_RETURN(trace.file_, NewFile::Create(path));
  return trace;
}

void TraceFile::Write(int seq, const std::vector<HeadTrace>& trace) {
  if (!is_open()) return;
  for (const HeadTrace& t : trace) file_.Append(TraceLine(seq, t));
}

absl::Status TraceFile::Close() {
  return is_open() ? file_.Commit() : absl::OkStatus();
}

}  // namespace h2o
