// What an Engine has done: the numbers behind logs, status and metrics.
//
// Threads  not thread-safe; the Engine's lock, or a copy.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "api/refusal.h"
#include "api/request.h"
#include "base/histogram.h"

namespace h2o {

// How a request that was taken has ended.
enum class Outcome : uint8_t { kStop, kLength, kCancelled, kDeadline, kError };
inline constexpr int kOutcomes = 5;
const char* Name(Outcome outcome);

struct EngineCounters {
  int64_t queued = 0, running = 0, finished = 0, refused = 0;
  int64_t replays = 0;      // requests that went back into the queue
  int64_t quarantined = 0;  // requests that lost two groups
  int64_t slabs_held = 0, slabs_total = 0;  // over living groups and ranks
  int64_t peak_slabs_held = 0;              // of one group
  int64_t headroom_sequences = 0;  // that would start now, were they like the
                                   // last ones
  int64_t steps = 0;               // results received
  bool head_fits = false;  // the queue's head waits although a group holds it
  double slowest_layer_seconds = 0;  // of any prefill so far

  // Of requests.  A prompt counts with its answer's first token.
  std::array<int64_t, kOutcomes> ended_by = {};
  std::array<int64_t, kRefusals> refused_for = {};
  int64_t prompt_tokens = 0, generated_tokens = 0, evicted_tokens = 0;
  // Seconds; buckets as vLLM has them.
  Histogram queue_seconds = Histogram(RequestBuckets());
  Histogram first_token_seconds = Histogram(FirstTokenBuckets());
  Histogram token_seconds = Histogram(TokenBuckets());  // the mean of a request
  Histogram request_seconds = Histogram(RequestBuckets());
  Histogram prefill_seconds_of = Histogram(RequestBuckets());
  Histogram decode_seconds_of = Histogram(RequestBuckets());
  Histogram token_gap_seconds = Histogram(TokenBuckets());  // every gap
  Histogram prompt_length_of = Histogram(LengthBuckets());
  Histogram answer_length_of = Histogram(LengthBuckets());
  Histogram mass_kept = Histogram(ShareBuckets());  // attention; of scored ones

  // Sums over all steps, as the ranks measured them: work on prompts, work on
  // decode steps, and devices that waited for the host between steps.
  double prefill_seconds = 0, decode_seconds = 0, idle_seconds = 0;
  // Between results that follow each other without a pause, and the time that
  // the ranks worked meanwhile: the difference is what the coordinator costs.
  int64_t intervals = 0;
  double interval_seconds = 0, step_seconds = 0;

  // An answer's first token came `seconds` after its request.
  void CountFirstToken(double seconds, int64_t prompt_token_count);
  // A request that was taken ended with `last`, `seconds` after it came.
  void CountEnd(const StreamEvent& last, double seconds);
  void CountRefusal(Refusal reason) {
    ++refused;
    ++refused_for[static_cast<size_t>(reason)];
  }
  // A request was not taken; one without time left counts as expired.
  void CountNotTaken(const absl::Status& why);

  static std::vector<double> RequestBuckets();
  static std::vector<double> FirstTokenBuckets();
  static std::vector<double> TokenBuckets();
  static std::vector<double> ShareBuckets();
  static std::vector<double> LengthBuckets();
};

}  // namespace h2o
