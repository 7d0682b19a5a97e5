// Encodes text prompts on a few threads of its own, so that a long text delays
// neither the caller nor the engine's loops.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "api/request.h"
#include "base/monitor.h"
#include "model/tokenizer.h"

namespace h2o {

// Threads  any thread may call the methods.
class TextEncoder {
 public:
  static constexpr size_t kMaxWaitingBytes = 64 << 20;

  // Receives the request with its prompt as tokens, or why its text has none.
  // Called by the encoder's threads, several at once.
  using Encoded = std::function<void(absl::StatusOr<Request>)>;

  // `tokenizer` must outlive the encoder.
  TextEncoder(const Tokenizer* tokenizer, int num_threads);
  // Texts that wait are given back with UNAVAILABLE.
  ~TextEncoder();

  // Queues the text of `request`.  Texts begin to be encoded in this order.
  // Errors, and then nothing is queued: RESOURCE_EXHAUSTED if this text and
  // those that wait have more bytes than kMaxWaitingBytes.
  absl::Status Add(uint64_t id, Request request, Encoded on_encoded);

  // Drops the texts with this id that still wait; their `on_encoded` is not
  // called.
  void Remove(uint64_t id);

 private:
  struct Job {
    uint64_t id;
    Request request;
    Encoded on_encoded;
  };
  void Run();

  const Tokenizer* const tokenizer_;
  Monitor monitor_;
  std::deque<Job> waiting_ ABSL_GUARDED_BY(monitor_);
  size_t waiting_bytes_ ABSL_GUARDED_BY(monitor_) = 0;
  bool stopping_ ABSL_GUARDED_BY(monitor_) = false;
  std::vector<std::thread> threads_;
};

}  // namespace h2o
