// Tells people what one answer took.
#include "clients/output.h"

#include <algorithm>

#include "absl/strings/str_format.h"

namespace h2o {

std::string UsageLine(const Result& result) {
  const Usage& usage = result.usage;
  return absl::StrFormat(
      "%d + %d tokens; KV: %d slots a head held, %d tokens evicted, %.0f KiB "
      "of the full cache's %.0f (%.0f %%)",
      usage.prompt_tokens, usage.completion_tokens, usage.kv_slots_held,
      usage.tokens_evicted, usage.kv_bytes / 1024.0,
      usage.kv_bytes_full / 1024.0,
      100.0 * usage.kv_bytes / std::max<int64_t>(1, usage.kv_bytes_full));
}

}  // namespace h2o
