// What counts when: ends, first tokens, refusals.
#include "coordinator/engine_counters.h"

#include "base/check.h"

namespace h2o {
namespace {

Outcome OutcomeOf(const StreamEvent& last) {
  if (absl::IsCancelled(last.status)) return Outcome::kCancelled;
  if (absl::IsDeadlineExceeded(last.status)) return Outcome::kDeadline;
  if (!last.status.ok()) return Outcome::kError;
  return last.finish == FinishReason::kStop ? Outcome::kStop : Outcome::kLength;
}

}  // namespace

const char* Name(Outcome outcome) {
  constexpr const char* kNames[kOutcomes] = {"stop", "length", "cancelled",
                                             "deadline", "error"};
  return kNames[static_cast<size_t>(outcome)];
}

std::vector<double> EngineCounters::RequestBuckets() {
  return {.3, .5, .8, 1,  1.5, 2,   2.5, 5,   10,   15,  20,
          30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680};
}
std::vector<double> EngineCounters::FirstTokenBuckets() {
  return {.001, .005, .01, .02, .04, .06, .08, .1, .25, .5,  .75,
          1,    2.5,  5,   7.5, 10,  20,  40,  80, 160, 640, 2560};
}
std::vector<double> EngineCounters::TokenBuckets() {
  return {.01, .025, .05, .075, .1,  .15, .2, .3, .4, .5,
          .75, 1,    2.5, 5,    7.5, 10,  20, 40, 80};
}

std::vector<double> EngineCounters::ShareBuckets() {
  return {.1, .2, .3, .4, .5, .6, .7, .8, .9, .95, .99, 1};
}

std::vector<double> EngineCounters::LengthBuckets() {
  return {1,   2,    5,    10,   20,    50,    100,   200,
          500, 1000, 2000, 5000, 10000, 20000, 50000, 100000};
}

void EngineCounters::CountFirstToken(double seconds,
                                     int64_t prompt_token_count) {
  first_token_seconds.Observe(seconds);
  prompt_tokens += prompt_token_count;
}

void EngineCounters::CountNotTaken(const absl::Status& why) {
  if (absl::IsDeadlineExceeded(why)) {
    ++finished;
    ++ended_by[static_cast<size_t>(Outcome::kDeadline)];
    return;
  }
  CountRefusal(RefusalOf(why).value_or(Refusal::kBadRequest));
}

void EngineCounters::CountEnd(const StreamEvent& last, double seconds) {
  H2O_CHECK(last.done);
  ++finished;
  ++ended_by[static_cast<size_t>(OutcomeOf(last))];
  const Usage& usage = last.usage;
  request_seconds.Observe(seconds);
  queue_seconds.Observe(usage.queue_seconds);
  if (usage.completion_tokens == 0) return;
  evicted_tokens += usage.tokens_evicted;
  if (usage.attention_mass_kept) mass_kept.Observe(*usage.attention_mass_kept);
  prompt_length_of.Observe(usage.prompt_tokens);
  answer_length_of.Observe(usage.completion_tokens);
  prefill_seconds_of.Observe(usage.prefill_seconds);
  decode_seconds_of.Observe(usage.decode_seconds);
  if (usage.completion_tokens > 1) {
    token_seconds.Observe(usage.decode_seconds / (usage.completion_tokens - 1));
  }
}

}  // namespace h2o
