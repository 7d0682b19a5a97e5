// What clients ask for and what they get: the same structs whether a request
// comes over gRPC, from a line of a file or from a flag.  Doors only translate
// them; CheckRequest (check_request.h) says which requests are possible.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "api/tenant.h"
#include "base/finish_reason.h"
#include "base/kv_policy.h"
#include "base/logprobs.h"
#include "base/sampling.h"
#include "model/step.h"

namespace h2o {

struct Request {
  bool has_text = false;
  std::string text;             // the prompt, if has_text
  std::vector<int32_t> tokens;  // the prompt as token ids, if not has_text
  // Tokens to generate at most.  Default: 128, or what the model's positions
  // leave, if that is less.
  std::optional<int32_t> max_tokens;
  bool fills_positions = false;  // the default is what the positions leave
  bool ignore_eos = false;       // go on after the end-of-text token
  SamplingParams sampling;
  bool has_seed = false;  // otherwise the door draws sampling.seed
  std::optional<KvPolicyRequest> kv_policy;  // default: the server's
  // Tokens that an earlier answer to this request has already given; the new
  // answer goes on behind them.
  std::vector<int32_t> generated;
  std::vector<std::string> stop;  // generation ends before one of these texts
  bool include_stop = false;      // behind it: the text holds the stop string
  // They end generation as the model's own stop tokens do, which ignore_eos
  // does not touch.  Nothing ends it before min_tokens are generated.
  std::vector<int32_t> stop_token_ids;
  int32_t min_tokens = 0;
  // So many answers, which cost one prefill: choice i draws with seed + i.
  int32_t n = 1;
  std::vector<LogitBias> logit_bias;  // at most one of each token
  bool logprobs = false;              // report those of generated tokens,
  int32_t top_logprobs = 0;           // and of so many of the likeliest
  bool prompt_logprobs = false;       // the same of the prompt's tokens
  bool add_special_tokens = true;     // in front of a text, as the model wants
  int32_t priority = 0;  // among its tenant's requests; higher first
  // The request ends with DEADLINE_EXCEEDED so long after it was submitted.
  std::optional<double> timeout_seconds;

  TenantRow tenant;  // who asks, as the door found out; null: `default`

  bool report_prompt = false;  // the first event carries the prompt's tokens

  // Not for clients of a server.
  bool trace = false;           // report what each head keeps and evicts
  std::vector<int32_t> forced;  // teacher forcing, see SequenceSpec
  bool logits = false;          // report the logits of every position
};

struct Usage {
  int32_t prompt_tokens = 0;
  int32_t completion_tokens = 0;
  int32_t kv_slots_held = 0;   // the largest over layers and heads
  int32_t tokens_evicted = 0;  // the largest over layers and heads
  int64_t kv_bytes = 0;        // pages charged, over all ranks
  int64_t kv_bytes_full = 0;   // the same under the policy `full`
  // The share of all attention given that went to tokens still stored
  // (kv/kept_mass.h); none if nothing is scored.
  std::optional<double> attention_mass_kept;
  int32_t replays = 0;  // times it was run again after a lost group
  double queue_seconds = 0;
  double prefill_seconds = 0;
  double decode_seconds = 0;
};

// One message of a stream.  The last has `done`; then `finish` and `usage` are
// set, or `status` is an error.
struct StreamEvent {
  int32_t choice = 0;  // of Request::n; each has events of its own up to `done`
  std::vector<int32_t> tokens;
  std::string text;  // whole UTF-8 characters only
  std::vector<HeadTrace> trace;
  std::vector<LogitRows> logits;
  std::optional<uint64_t> seed;  // of the request's draws; in the first event
  // Of each of `tokens`, where the request asks for them.
  std::vector<Logprobs> logprobs;
  // In the first event, where the request asks for them: the prompt's tokens
  // and the logprobs of each; nothing comes before the first, so its are empty.
  std::vector<int32_t> prompt;
  std::vector<Logprobs> prompt_logprobs;
  // With kStop: the request's own stop string or stop token that ended it.
  std::string stop_string;
  std::optional<int32_t> stop_token;
  bool done = false;
  FinishReason finish = FinishReason::kNone;
  Usage usage;  // set with `done`, also when `status` is an error
  absl::Status status;
};
using EventCallback = std::function<void(StreamEvent)>;

}  // namespace h2o
