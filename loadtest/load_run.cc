// The sender of requests, for open and closed loops.
#include "loadtest/load_run.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "base/cut_text.h"

namespace h2o {
namespace {

// How often a waiting sender looks whether it was stopped.
constexpr double kGlanceSeconds = 0.05;
// How often requests that do not end are cut off again.
constexpr double kCutSeconds = 0.5;
// Room for the pieces of an answer, made ahead of time; longer answers get more
// as they come.
constexpr int kMostReserved = 4096;
// Of an error, which servers word.
constexpr size_t kMostErrorBytes = 1000;

}  // namespace

void LoadProgress::Add(const LoadProgress& other) {
  for (int64_t LoadProgress::*count :
       {&LoadProgress::sent, &LoadProgress::ok, &LoadProgress::refused,
        &LoadProgress::failed, &LoadProgress::unfinished, &LoadProgress::tokens,
        &LoadProgress::waited}) {
    this->*count += other.*count;
  }
}

LoadRun::LoadRun(const LoadSpec* spec, LoadPart part,
                 std::vector<Target*> targets, Pace* pace,
                 std::function<void(RequestRecord)> on_record)
    : spec_(*spec),
      part_(part),
      targets_(std::move(targets)),
      pace_(pace),
      on_record_(std::move(on_record)) {}

int LoadRun::Clients() const {
  return (spec_.concurrency + part_.parts - 1 - part_.part) / part_.parts;
}

void LoadRun::Run(double start) {
  start_ = start;
  const bool closed = spec_.arrivals == ArrivalKind::kClosed;
  if (closed) {
    Monitor::Lock lock(monitor_);
    free_.assign(Clients(), 0.0);
  }
  ArrivalPlan plan(&spec_);
  if (!closed || Clients() > 0) {
    WaitUntil(start_);
    while (!stopped_ && !over_) {
      const std::optional<PlannedRequest> request = plan.Next();
      if (!request) break;
      if (request->index % part_.parts != part_.part) continue;
      closed ? SendClosed(*request) : SendOpen(*request);
    }
  }
  AwaitEnds();
}

bool LoadRun::WaitUntil(double time) const {
  while (!stopped_) {
    const double now = pace_->Now();
    if (now >= time) return true;
    pace_->SleepUntil(std::min(time, now + kGlanceSeconds));
  }
  return false;
}

void LoadRun::SendOpen(const PlannedRequest& request) {
  std::vector<int32_t> prompt = PromptOf(spec_, request);  // ahead of time
  if (!WaitUntil(start_ + request.at_seconds)) return;
  {
    Monitor::Lock lock(monitor_);
    const auto room = [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
      return progress_.in_flight() < spec_.max_in_flight;
    };
    if (!room()) ++progress_.waited;
    while (!stopped_ && !lock.AwaitFor(kGlanceSeconds, room)) {
    }
  }
  if (stopped_) return;
  Send(request, std::move(prompt), request.at_seconds);
}

void LoadRun::SendClosed(const PlannedRequest& request) {
  std::vector<int32_t> prompt = PromptOf(spec_, request);
  const double end = spec_.duration_seconds;
  double intended = 0;
  {
    Monitor::Lock lock(monitor_);
    const auto some = [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
      return !free_.empty();
    };
    while (!stopped_ && !lock.AwaitFor(kGlanceSeconds, some)) {
      if (end > 0 && pace_->Now() - start_ >= end) break;
    }
    over_ = free_.empty() || (end > 0 && free_.front() >= end);
    if (stopped_ || over_) return;
    intended = free_.front();
    free_.pop_front();
  }
  Send(request, std::move(prompt), intended);
}

void LoadRun::Send(const PlannedRequest& request, std::vector<int32_t> prompt,
                   double intended) {
  auto record = std::make_shared<RequestRecord>();
  record->index = request.index;
  record->generator = part_.part;
  record->target = request.target;
  record->tenant = request.tenant;
  record->prefix = request.prefix;
  record->prompt_tokens = request.prompt_tokens;
  record->wanted_tokens = request.output_tokens;
  record->intended = intended;
  record->pieces.reserve(std::min(request.output_tokens, kMostReserved));
  {
    Monitor::Lock lock(monitor_);
    ++progress_.sent;
  }
  LoadHandler handler;
  handler.on_tokens = [this, record](double now, int tokens) {
    record->pieces.push_back({now - start_, tokens});
    tokens_ += tokens;
  };
  handler.on_end = [this, record](double now, LoadOutcome outcome,
                                  const std::string& error) {
    Finish(record.get(), now, outcome, error);
  };
  record->sent = pace_->Now() - start_;
  targets_[request.target]->Start({.prompt = std::move(prompt),
                                   .output_tokens = request.output_tokens,
                                   .tenant = request.tenant},
                                  std::move(handler));
}

void LoadRun::Finish(RequestRecord* record, double now, LoadOutcome outcome,
                     const std::string& error) {
  record->end = now - start_;
  const bool cut = cutting_ && outcome == LoadOutcome::kFailed;
  record->outcome = cut ? LoadOutcome::kUnfinished : outcome;
  record->error =
      cut ? "cut off at the end of the run" : CutText(error, kMostErrorBytes);
  Monitor::Lock lock(monitor_);
  int64_t LoadProgress::*const counts[] = {
      &LoadProgress::ok, &LoadProgress::refused, &LoadProgress::failed,
      &LoadProgress::unfinished};
  ++(progress_.*counts[static_cast<int>(record->outcome)]);
  if (spec_.arrivals == ArrivalKind::kClosed) free_.push_back(record->end);
  on_record_(std::move(*record));
}

void LoadRun::AwaitEnds() {
  Monitor::Lock lock(monitor_);
  const auto none = [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
    return progress_.in_flight() == 0;
  };
  const double until = pace_->Now() + spec_.drain_seconds;
  while (!none() && !stopped_ && pace_->Now() < until) {
    lock.AwaitFor(kGlanceSeconds, none);
  }
  cutting_ = true;
  while (!none()) {
    lock.Release();
    for (Target* target : targets_) target->CancelAll();
    lock.Acquire();
    lock.AwaitFor(kCutSeconds, none);
  }
}

void LoadRun::Stop() { stopped_ = true; }

LoadProgress LoadRun::progress() const {
  Monitor::Lock lock(monitor_);
  LoadProgress progress = progress_;
  progress.tokens = tokens_;
  return progress;
}

}  // namespace h2o
