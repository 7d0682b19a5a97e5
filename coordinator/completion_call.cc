// Submits, streams and answers the candidates of one body.
#include "coordinator/completion_call.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "coordinator/end_line.h"
#include "openai/api_error.h"

namespace h2o {
namespace {

constexpr int64_t kMinuteMs = 60'000;

int64_t UnixSeconds() {
  return std::chrono::duration_cast<std::chrono::seconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

bool WasAborted(const absl::Status& status) {
  return absl::IsCancelled(status) || absl::IsDeadlineExceeded(status);
}

}  // namespace

CompletionCall::CompletionCall(const CompletionDoor* door, OpenAiAsk ask,
                               std::string request_id, HttpHeaders headers,
                               std::shared_ptr<HttpReply> reply)
    : door_(door),
      ask_(std::move(ask)),
      request_id_(std::move(request_id)),
      headers_(std::move(headers)),
      reply_(std::move(reply)),
      answer_(&ask_,
              {.request_id = request_id_,
               .created = UnixSeconds(),
               .default_policy = door->default_policy},
              door->tokenizer),
      waiting_(ask_.candidates()),
      engine_ids_(ask_.prompts.size()),
      open_(ask_.candidates()) {}

void CompletionCall::Start() {
  const std::shared_ptr<CompletionCall> self = shared_from_this();
  reply_->OnTurn([self] { self->Turn(); });
  reply_->OnGone(
      [self] { self->CancelAll(absl::CancelledError("the client left")); });
  if (ask_.stream) {
    reply_->OnSilence(kSilenceSeconds, [self] { self->Silence(); });
  }
  for (int i = 0; i < static_cast<int>(ask_.prompts.size()); ++i) Submit(i);
}

void CompletionCall::Submit(int prompt) {
  {
    std::lock_guard lock(mutex_);
    if (failed_ || cancelled_) return;
  }
  const absl::StatusOr<uint64_t> id = door_->engine->Submit(
      ask_.prompts[prompt], [self = shared_from_this(),
                             first = prompt * ask_.best_of](StreamEvent event) {
        const int candidate = first + event.choice;
        self->OnEvent(candidate, std::move(event));
      });
  std::unique_lock lock(mutex_);
  if (id.ok()) engine_ids_[prompt] = *id;
  if (!id.ok() && !failed_) failed_ = id.status();
  const bool failed = failed_.has_value();
  const bool is_late = id.ok() && cancelled_;
  lock.unlock();
  if (failed) reply_->Wake();
  if (is_late) door_->engine->Cancel(*id, absl::CancelledError("it has ended"));
}

void CompletionCall::OnEvent(int candidate, StreamEvent event) {
  if (door_->log_requests && event.done) Log(event);
  bool due = ask_.stream;
  {
    std::lock_guard lock(mutex_);
    if (event.done) --open_;
    if (!event.status.ok() && !WasAborted(event.status)) {
      if (!failed_) failed_ = event.status;
    } else {
      if (waiting_[candidate].empty()) ready_.push_back(candidate);
      waiting_[candidate].Add(std::move(event));
    }
    due = due || failed_ || open_ == 0;
  }
  if (due) reply_->Wake();
}

void CompletionCall::CancelAll(const absl::Status& reason) {
  std::vector<std::optional<uint64_t>> ids;
  {
    std::lock_guard lock(mutex_);
    if (std::exchange(cancelled_, true)) return;
    ids = engine_ids_;
  }
  for (const std::optional<uint64_t>& id : ids) {
    if (id) door_->engine->Cancel(*id, reason);
  }
}

void CompletionCall::Log(const StreamEvent& last) const {
  h2o::Log(LogLevel::kInfo, request_id_, EndLine(last));
}

// ---- What is written

HttpHeaders CompletionCall::Headers() const {
  HttpHeaders headers = headers_;
  const TenantRow& row = ask_.prompts.front().tenant;
  const Tenant& tenant = TenantOrDefault(row);
  if (tenant.tokens_per_minute == 0 && tenant.max_waiting == 0) return headers;
  const TenantStatus status = door_->engine->StatusOf(row);
  const auto add = [&](const char* name, int64_t value) {
    headers.emplace_back(absl::StrCat("x-ratelimit-", name),
                         absl::StrCat(value));
  };
  if (tenant.max_waiting > 0) {
    add("limit-requests", tenant.max_waiting);
    add("remaining-requests",
        std::max<int64_t>(0, tenant.max_waiting - status.waiting));
  }
  if (tenant.tokens_per_minute == 0) return headers;
  add("limit-tokens", tenant.tokens_per_minute);
  add("remaining-tokens", status.allowance);
  const int64_t used = tenant.tokens_per_minute - status.allowance;
  headers.emplace_back(
      "x-ratelimit-reset-tokens",
      absl::StrCat(used * kMinuteMs / tenant.tokens_per_minute, "ms"));
  return headers;
}

void CompletionCall::Turn() {
  if (over_) return;
  std::unique_lock lock(mutex_);
  const std::optional<absl::Status> failed = failed_;
  const bool is_whole = open_ == 0;
  lock.unlock();
  if (failed) return Fail(*failed);
  if (ask_.stream) return WriteEvents();
  if (is_whole) WriteWhole();
}

void CompletionCall::Silence() {
  if (over_) return;
  Begin();
  reply_->Write(std::string(kKeepAlive));
}

void CompletionCall::Begin() {
  if (std::exchange(began_, true)) return;
  HttpResponse head = {.content_type = "text/event-stream; charset=utf-8",
                       .headers = Headers()};
  head.headers.emplace_back("Cache-Control", "no-cache");
  head.headers.emplace_back("X-Accel-Buffering", "no");
  reply_->Begin(std::move(head));
}

std::string CompletionCall::TakeChunks() {
  std::vector<std::pair<int, StreamEvent>> events;
  {
    std::lock_guard lock(mutex_);
    for (const int candidate : ready_) {
      while (!waiting_[candidate].empty()) {
        events.emplace_back(candidate, waiting_[candidate].Take());
      }
    }
    ready_.clear();
    over_ = open_ == 0;
  }
  std::string chunks;
  for (const auto& [candidate, event] : events) {
    chunks += answer_.Chunks(candidate, event);
  }
  return chunks;
}

void CompletionCall::WriteEvents() {
  std::string piece = TakeChunks();
  if (piece.empty()) return;
  Begin();
  if (over_) piece += answer_.End();
  reply_->Write(std::move(piece));
  if (over_) reply_->End();
}

void CompletionCall::WriteWhole() {
  over_ = true;
  std::vector<StreamEvent> events;
  {
    std::lock_guard lock(mutex_);
    for (EventMerger& waiting : waiting_) {
      StreamEvent event = waiting.Take();
      if (!waiting.empty()) {  // it was aborted behind these tokens
        StreamEvent last = waiting.Take();
        event.done = true;
        event.usage = last.usage;
        event.status = last.status;
      }
      events.push_back(std::move(event));
    }
  }
  reply_->Send({.body = answer_.Whole(events), .headers = Headers()});
}

void CompletionCall::Fail(const absl::Status& why) {
  CancelAll(absl::CancelledError("another choice of the request failed"));
  const ApiError error = ErrorOf(why, door_->overload_status);
  LimitedLog* const log = began_ ? door_->ended : door_->refused;
  log->Add(LogLevel::kWarning, request_id_,
           absl::StrCat(began_ ? "ended: " : "refused: ", Shown(why)));
  if (began_) {
    reply_->Write(TakeChunks() + OpenAiAnswer::BrokenEnd(error));
    over_ = true;
    return reply_->End();
  }
  over_ = true;
  HttpResponse response = {.status = error.status,
                           .body = ErrorJson(error),
                           .headers = Headers(),
                           .closes = error.closes};
  for (auto& header : HeadersOf(error)) {
    response.headers.push_back(std::move(header));
  }
  reply_->Send(std::move(response));
}

}  // namespace h2o
