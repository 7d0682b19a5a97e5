// The workers of a batch, and which answers of a server are its last word.
#include "clients/batch_run.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/entropy.h"
#include "base/status_macros.h"
#include "clients/cpp/retry.h"
#include "clients/response_headers.h"
#include "openai/api_error.h"

namespace h2o {
namespace {

// How long Finished waits.
constexpr auto kGlance = std::chrono::milliseconds(50);
// Attempts of a request that the server fails to run.
constexpr int kMostFaults = 3;

bool MayBeAskedAgain(const HttpResponse& response) {
  return HeaderOf(response, "x-should-retry") != "false";
}

// A request without an answer is one that failed, unless all is over.
absl::StatusOr<BatchAnswer> FaultOf(const absl::Status& fault) {
  if (absl::IsCancelled(fault) || absl::IsDataLoss(fault)) return fault;
  return BatchAnswer{.fault = fault};
}

// Why an answer is not the last word; OK: it is.
// Errors: PERMISSION_DENIED, which ends the run.
absl::StatusOr<absl::Status> LaterOf(const HttpResponse& response, int faults) {
  const std::string said = absl::StrCat("status ", response.status, ": ",
                                        ErrorMessageOf(response.body));
  switch (response.status) {
    case 401:
    case 403:
      return absl::PermissionDeniedError(said);
    case 429:
    case 503:
      if (!MayBeAskedAgain(response)) return absl::OkStatus();
      return absl::ResourceExhaustedError(said);
    case 408:
    case 500:
    case 502:
    case 504:
      if (!MayBeAskedAgain(response) || faults >= kMostFaults) {
        return absl::OkStatus();
      }
      return absl::UnavailableError(said);
    default:
      return absl::OkStatus();
  }
}

}  // namespace

BatchRun::BatchRun(BatchOptions options, BatchInput input, BatchOutput output)
    : options_(std::move(options)),
      total_(input.num_lines()),
      input_(std::move(input)),
      output_(std::move(output)),
      last_answer_(clock_.Now()) {}

BatchRun::~BatchRun() { Stop(absl::CancelledError("given up")); }

absl::Status BatchRun::Start() {
  const int64_t workers =
      std::min<int64_t>(options_.concurrency, std::max<int64_t>(1, total_));
  for (int64_t i = 0; i < workers; ++i) {
    H2O_ASSIGN_OR_RETURN(
        clients_.emplace_back(),
        HttpClient::Create(options_.server.url,
                           {.tls = options_.server.tls,
                            .silence_seconds = options_.silence_seconds}));
  }
  working_ = static_cast<int>(workers);
  for (const auto& client : clients_) {
    threads_.emplace_back([this, client = client.get()] { Work(client); });
  }
  return absl::OkStatus();
}

bool BatchRun::Finished() {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, kGlance, [this] { return working_ == 0; });
}

void BatchRun::Stop(const absl::Status& why) {
  {
    std::lock_guard lock(mutex_);
    if (verdict_.ok() && working_ > 0) verdict_ = why;
    stopping_ = true;
  }
  changed_.notify_all();
  for (const auto& client : clients_) client->Abort();
  JoinAll();
}

void BatchRun::JoinAll() {
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
}

absl::Status BatchRun::Close() {
  JoinAll();
  const absl::Status closed = output_.Close();
  H2O_RETURN_IF_ERROR(verdict_);
  H2O_RETURN_IF_ERROR(closed);
  if (failed_ == 0) return absl::OkStatus();
  return absl::UnknownError(
      absl::StrCat(failed_.load(), " of ", total_,
                   " requests failed, as the output says; the first, \"",
                   first_failed_, "\": ", first_fault_));
}

void BatchRun::Work(HttpClient* client) {
  absl::Status status;
  while (status.ok()) {
    absl::StatusOr<std::optional<BatchLine>> line = Next();
    status = line.status();
    if (!status.ok() || !*line) break;
    absl::StatusOr<BatchAnswer> answer = Ask(client, **line);
    status = answer.ok() ? Write((*line)->custom_id, *answer) : answer.status();
  }
  std::lock_guard lock(mutex_);
  if (verdict_.ok()) verdict_ = status;
  if (!status.ok()) stopping_ = true;
  --working_;
  changed_.notify_all();
}

absl::StatusOr<std::optional<BatchLine>> BatchRun::Next() {
  std::lock_guard lock(mutex_);
  while (!stopping_) {
    H2O_ASSIGN_OR_RETURN(std::optional<BatchLine> line, input_.Next());
    if (!line || !output_.Has(line->custom_id)) return line;
    ++skipped_;
  }
  return std::nullopt;
}

absl::Status BatchRun::Write(const std::string& custom_id,
                             const BatchAnswer& answer) {
  std::lock_guard lock(mutex_);
  const bool good = answer.status >= 200 && answer.status < 300;
  if (!good && failed_ == 0) {
    first_failed_ = custom_id;
    first_fault_ = answer.status > 0 ? absl::StrCat(answer.status, " ",
                                                    ErrorMessageOf(answer.body))
                                     : std::string(answer.fault.message());
  }
  ++(good ? answered_ : failed_);
  return output_.Append(custom_id, answer);
}

HttpRequest BatchRun::RequestOf(const BatchLine& line) const {
  HttpRequest request{.method = "POST", .path = line.url, .body = line.body};
  AddKey(options_.server.api_key, &request);
  return request;
}

absl::StatusOr<BatchAnswer> BatchRun::Ask(HttpClient* client,
                                          const BatchLine& line) {
  const HttpRequest request = RequestOf(line);
  Retry retry(RetryOptions(), RandomBits64());
  for (int faults = 1;; ++faults) {
    const absl::StatusOr<HttpResponse> response = client->Ask(request);
    absl::Status again;  // why it is asked again; OK: it is not
    std::optional<double> told;
    if (!response.ok()) {
      if (!absl::IsUnavailable(response.status())) {
        return FaultOf(response.status());
      }
      again = response.status();
    } else {
      told = RetryAfterOf(*response);
      H2O_ASSIGN_OR_RETURN(again, LaterOf(*response, faults));
    }
    if (again.ok()) {
      last_answer_ = clock_.Now();
      return BatchAnswer{.status = response->status,
                         .request_id = HeaderOf(*response, "x-request-id"),
                         .body = response->body};
    }
    const std::optional<double> wait =
        retry.After(again, clock_.Now(), last_answer_, told);
    if (!wait) return again;
    if (!Pause(*wait)) return absl::CancelledError("");
  }
}

bool BatchRun::Pause(double seconds) {
  std::unique_lock lock(mutex_);
  return !changed_.wait_for(lock, std::chrono::duration<double>(seconds),
                            [this] { return stopping_; });
}

}  // namespace h2o
