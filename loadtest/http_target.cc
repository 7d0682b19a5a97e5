// Sends requests over HTTP, each from a thread with a connection of its own.
#include "loadtest/http_target.h"

#include <list>
#include <nlohmann/json.hpp>
#include <optional>
#include <system_error>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "base/monitor.h"
#include "base/status_macros.h"
#include "loadtest/completion_stream.h"
#include "openai/api_error.h"

namespace h2o {
namespace {

using Json = nlohmann::json;

struct Job {
  HttpRequest request;
  LoadHandler handler;
};

class HttpTarget final : public Target {
 public:
  HttpTarget(const HttpTargetOptions& options, const Pace* pace)
      : options_(options),
        more_fields_(Json::parse(options.more_fields)),
        pace_(pace) {}

  ~HttpTarget() override {
    {
      Monitor::Lock lock(monitor_);
      closing_ = true;
    }
    for (Worker& worker : workers_) worker.thread.join();
  }
  HttpTarget(const HttpTarget&) = delete;

  void Start(LoadRequest request, LoadHandler handler) override {
    absl::Status status = Add(request, handler);
    if (status.ok()) return;
    handler.on_end(pace_->Now(), LoadOutcome::kFailed, status.ToString());
  }

  void CancelAll() override {
    Monitor::Lock lock(monitor_);
    for (Worker& worker : workers_) {
      if (worker.client) worker.client->Abort();
    }
  }

 private:
  struct Worker {
    std::thread thread;
    std::shared_ptr<HttpClient> client;  // null: none runs a request
  };

  absl::Status Add(const LoadRequest& asked, const LoadHandler& handler) {
    H2O_ASSIGN_OR_RETURN(HttpRequest request, RequestOf(asked));
    Monitor::Lock lock(monitor_);
    if (free_ <= static_cast<int>(jobs_.size())) {
      H2O_RETURN_IF_ERROR(AddWorker());
    }
    jobs_.push_back({std::move(request), handler});
    return absl::OkStatus();
  }

  absl::Status AddWorker() ABSL_EXCLUSIVE_LOCKS_REQUIRED(monitor_) {
    Worker& worker = workers_.emplace_back();
    try {
      worker.thread = std::thread([this, &worker] { Work(&worker); });
    } catch (const std::system_error& fault) {
      workers_.pop_back();
      return absl::ResourceExhaustedError(
          absl::StrCat("no thread for a request beside ", workers_.size(),
                       " others: ", fault.what()));
    }
    ++free_;
    return absl::OkStatus();
  }

  absl::StatusOr<HttpRequest> RequestOf(const LoadRequest& asked) const {
    H2O_ASSIGN_OR_RETURN(const size_t key,
                         KeyOfTenant(asked.tenant, options_.keys.size()));
    Json body = {{"prompt", asked.prompt},
                 {"max_tokens", asked.output_tokens},
                 {"temperature", 0},
                 {"ignore_eos", true},
                 {"stream", true},
                 {"stream_options",
                  {{"include_usage", true}, {"continuous_usage_stats", true}}}};
    if (!options_.model.empty()) body["model"] = options_.model;
    body.update(more_fields_);
    HttpRequest request{
        .method = "POST", .path = "/v1/completions", .body = body.dump()};
    AddKey(options_.keys[key], &request);
    return request;
  }

  void Work(Worker* worker) {
    std::shared_ptr<HttpClient> client;
    while (std::optional<Job> job = NextJob()) {
      if (!client) {
        auto made = HttpClient::Create(
            options_.url,
            {.tls = options_.tls, .silence_seconds = options_.silence_seconds});
        if (!made.ok()) {
          Free(worker);
          job->handler.on_end(pace_->Now(), LoadOutcome::kFailed,
                              made.status().ToString());
          continue;
        }
        client = *std::move(made);
      }
      {
        Monitor::Lock lock(monitor_);
        worker->client = client;
      }
      const absl::Status status = Ask(client.get(), worker, *job);
      if (!status.ok()) client.reset();  // one that was aborted asks no more
    }
  }

  // None: the target closes.
  std::optional<Job> NextJob() {
    Monitor::Lock lock(monitor_);
    lock.Await([this]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
      return closing_ || !jobs_.empty();
    });
    if (jobs_.empty()) return std::nullopt;
    Job job = std::move(jobs_.front());
    jobs_.pop_front();
    --free_;
    return job;
  }

  // Before the end is told: who hears of it may send the next request.
  void Free(Worker* worker) {
    Monitor::Lock lock(monitor_);
    worker->client.reset();
    ++free_;
  }

  absl::Status Ask(HttpClient* client, Worker* worker, const Job& job) {
    CompletionStream stream;
    bool has_token = false;
    const auto answer = client->Ask(job.request, [&](std::string_view bytes) {
      const double now = pace_->Now();
      const int tokens = stream.Take(bytes);
      if (tokens > 0) job.handler.on_tokens(now, tokens);
      has_token |= tokens > 0;
      return stream.status().ok();
    });
    const double now = pace_->Now();
    Free(worker);
    const auto end = [&](LoadOutcome outcome, const std::string& error) {
      job.handler.on_end(now, outcome, error);
    };
    if (!stream.status().ok()) {
      const bool full = absl::IsResourceExhausted(stream.status());
      end(full ? LoadOutcome::kRefused : LoadOutcome::kFailed,
          std::string(stream.status().message()));
    } else if (!answer.ok()) {
      end(LoadOutcome::kFailed, answer.status().ToString());
    } else if (answer->status != 200) {
      end(OutcomeOf(answer->status, answer->body),
          absl::StrCat("status ", answer->status, ": ",
                       ErrorMessageOf(answer->body)));
    } else if (!stream.ended()) {
      end(LoadOutcome::kFailed, "the stream ended without [DONE]");
    } else if (!has_token) {
      end(LoadOutcome::kFailed, "the answer has no tokens");
    } else {
      end(LoadOutcome::kOk, "");
    }
    return answer.status();
  }

  const HttpTargetOptions options_;
  const Json more_fields_;
  const Pace* const pace_;

  Monitor monitor_;
  std::list<Job> jobs_ ABSL_GUARDED_BY(monitor_);
  std::list<Worker> workers_;               // grown under the monitor
  int free_ ABSL_GUARDED_BY(monitor_) = 0;  // workers without a request
  bool closing_ ABSL_GUARDED_BY(monitor_) = false;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Target>> NewHttpTarget(
    const HttpTargetOptions& options, const Pace* pace) {
  // Here, so that a bad certificate is an error of the flags.
  H2O_RETURN_IF_ERROR(
      HttpClient::Create(options.url, {.tls = options.tls}).status());
  return std::make_unique<HttpTarget>(options, pace);
}

}  // namespace h2o
