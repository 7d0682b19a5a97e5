// Words the log's line about a request that has ended.
#include "coordinator/end_line.h"

#include "absl/strings/str_cat.h"

namespace h2o {

std::string Shown(const absl::Status& status) {
  return status.ToString(absl::StatusToStringMode::kWithNoExtraData);
}

std::string EndLine(const StreamEvent& last) {
  const Usage& usage = last.usage;
  return absl::StrCat(
      last.status.ok() ? "done" : absl::StatusCodeToString(last.status.code()),
      ": ", usage.prompt_tokens, " + ", usage.completion_tokens,
      " tokens; queue ", usage.queue_seconds, " s, prefill ",
      usage.prefill_seconds, " s, decode ", usage.decode_seconds, " s");
}

}  // namespace h2o
