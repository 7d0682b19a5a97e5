// One call of POST /v1/completions or /v1/chat/completions: a body's requests
// in, one answer out, whole or as server-sent events.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "api/event_merger.h"
#include "api/request.h"
#include "base/clock.h"
#include "base/limited_log.h"
#include "coordinator/engine.h"
#include "http/http_server.h"
#include "model/tokenizer.h"
#include "openai/answer.h"
#include "openai/ask.h"

namespace h2o {

// What all calls share.
struct CompletionDoor {
  const Tokenizer* tokenizer = nullptr;  // null: no texts
  KvPolicyName default_policy = KvPolicyName::kFull;
  int overload_status = 503;
  bool log_requests = false;  // a line when one ends
  Engine* engine = nullptr;
  const Clock* clock = nullptr;
  // Requests that are refused, and streams that end before they are finished.
  LimitedLog* refused = nullptr;
  LimitedLog* ended = nullptr;
};

// All candidates of a body are submitted at once; an error of one ends all.
// While a piece of a stream is under way, the events behind it are merged
// (api/event_merger.h), so a slow reader costs no more than its tokens.  The
// head of a stream goes out with its first token, or when it has waited for
// kSilenceSeconds: until then an error has a status of its own.
//
// Threads  events come from the Engine's threads; what is written is made on
//          those of the HTTP server.
class CompletionCall : public std::enable_shared_from_this<CompletionCall> {
 public:
  // A stream that is silent for so long sends a comment.
  static constexpr double kSilenceSeconds = 10;

  // `headers`: of the answer.  `door` must outlive the call.
  CompletionCall(const CompletionDoor* door, OpenAiAsk ask,
                 std::string request_id, HttpHeaders headers,
                 std::shared_ptr<HttpReply> reply);

  // Called once.  The call lives until its reply and the Engine are done.
  void Start();

 private:
  void Submit(int prompt);
  void OnEvent(int candidate, StreamEvent event);
  // Ends all candidates that are not done.
  void CancelAll(const absl::Status& reason);

  // On the HTTP server's threads, one at a time:
  void Turn();
  void Silence();
  void Begin();
  std::string TakeChunks();  // of all events that have come
  void WriteEvents();
  void WriteWhole();
  void Fail(const absl::Status& why);
  void Log(const StreamEvent& last) const;
  // With what is left of the tenant's limits.
  HttpHeaders Headers() const;

  const CompletionDoor* const door_;
  const OpenAiAsk ask_;
  const std::string request_id_;
  const HttpHeaders headers_;
  const std::shared_ptr<HttpReply> reply_;
  OpenAiAnswer answer_;
  bool began_ = false;  // the head of the stream was sent
  bool over_ = false;   // all was sent

  std::mutex mutex_;                  // guards what follows
  std::vector<EventMerger> waiting_;  // of each candidate
  std::deque<int> ready_;             // candidates with events, once each
  std::vector<std::optional<uint64_t>> engine_ids_;  // of each prompt
  int open_;                            // candidates that are not done
  std::optional<absl::Status> failed_;  // the first error
  bool cancelled_ = false;
};

}  // namespace h2o
