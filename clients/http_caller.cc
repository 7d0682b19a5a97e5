// The threads that ask prompts over HTTP, and the attempts of one prompt.
#include "clients/http_caller.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <utility>

#include "base/clock.h"
#include "base/entropy.h"
#include "base/status_macros.h"
#include "clients/openai_stream.h"
#include "clients/response_headers.h"
#include "openai/api_error.h"

namespace h2o {
namespace {

constexpr size_t kMostCalls = 64;

// The request of the next attempt at one prompt.
struct Asked {
  size_t index = 0;
  Request request;
  bool began = false;              // something has come
  bool gained = false;             // this attempt has given tokens
  bool finished = false;           // with a finish reason
  std::optional<double> deadline;  // by the clock
  std::optional<double> told;      // when the server wants the next attempt
};

// Changes the request so that an answer to it goes on behind `event`.
void GoOnBehind(const StreamEvent& event, Asked* asked) {
  Request& request = asked->request;
  request.generated.insert(request.generated.end(), event.tokens.begin(),
                           event.tokens.end());
  asked->gained |= !event.tokens.empty();
  if (std::exchange(asked->began, true)) return;
  request.prompt_logprobs = false;
  request.has_seed = true;
  if (event.seed) request.sampling.seed = *event.seed;
}

class HttpCaller final : public Caller {
 public:
  HttpCaller(const HttpServerPlace& server, const std::vector<Prompt>& prompts,
             CallerOptions options)
      : server_(server),
        prompts_(prompts),
        options_(std::move(options)),
        last_answer_(clock_.Now()) {}

  ~HttpCaller() override {
    Cancel();
    for (std::thread& thread : threads_) thread.join();
  }

  absl::Status Connect() {
    for (size_t i = 0; i < std::min(kMostCalls, prompts_.size()); ++i) {
      H2O_ASSIGN_OR_RETURN(
          clients_.emplace_back(),
          HttpClient::Create(server_.url, {.tls = server_.tls}));
    }
    return absl::OkStatus();
  }

  void StartMore() override {
    for (size_t i = threads_.size(); i < clients_.size(); ++i) {
      threads_.emplace_back([this, client = clients_[i].get()] {
        while (std::optional<size_t> next = Next()) {
          answers()->Close(*next, Ask(client, *next));
        }
      });
    }
  }

  void Cancel() override {
    {
      std::lock_guard lock(mutex_);
      cancelled_ = true;
    }
    changed_.notify_all();
    for (const auto& client : clients_) client->Abort();
  }

 private:
  // The next prompt to ask; none: there is no other.
  std::optional<size_t> Next() {
    std::unique_lock lock(mutex_);
    while (next_ < prompts_.size()) {
      const size_t i = next_++;
      if (answers()->Has(i)) continue;
      if (!cancelled_) return i;
      answers()->Close(i,
                       absl::CancelledError("cancelled before it was asked"));
    }
    return std::nullopt;
  }

  absl::Status Ask(HttpClient* client, size_t i) {
    Asked asked = {.index = i, .request = prompts_[i].request};
    if (options_.timeout_seconds) {
      asked.deadline = clock_.Now() + *options_.timeout_seconds;
    }
    Retry retry(options_.retry, RandomBits64());
    while (true) {
      asked.gained = false;
      asked.told.reset();
      absl::Status status = Attempt(client, &asked);
      if (status.ok()) {
        last_answer_ = clock_.Now();
        return status;
      }
      const std::optional<double> pause = PauseAfter(status, asked, &retry);
      if (!pause) return status;
      if (options_.on_retry) options_.on_retry(status, *pause);
      if (!Pause(*pause)) {
        return absl::CancelledError("cancelled before it was asked again");
      }
    }
  }

  absl::Status Attempt(HttpClient* client, Asked* asked) {
    H2O_ASSIGN_OR_RETURN(const HttpRequest request, MessageOf(*asked));
    OpenAiStream stream(asked->request.top_logprobs,
                        [&](const StreamEvent& event) {
                          GoOnBehind(event, asked);
                          answers()->Add(asked->index, event);
                        });
    absl::Status said;
    const absl::StatusOr<HttpResponse> response = client->Ask(
        request,
        [&](std::string_view piece) {
          said.Update(stream.Add(piece));
          return said.ok();
        },
        asked->deadline ? *asked->deadline - clock_.Now()
                        : HttpClient::kNoLimit);
    asked->finished = stream.is_finished();
    H2O_RETURN_IF_ERROR(said);
    H2O_RETURN_IF_ERROR(response.status());
    if (response->status != 200) {
      asked->told = RetryAfterOf(*response);
      return StatusOfError(response->status, response->body);
    }
    if (stream.is_complete()) return absl::OkStatus();
    return absl::InternalError("the stream ended without a finish reason");
  }

  absl::StatusOr<HttpRequest> MessageOf(const Asked& asked) const {
    HttpRequest request{.method = "POST", .path = "/v1/completions"};
    H2O_ASSIGN_OR_RETURN(request.body, OpenAiBody(asked.request));
    AddKey(server_.api_key, &request);
    return request;
  }

  // None: the failure stands.
  std::optional<double> PauseAfter(const absl::Status& status,
                                   const Asked& asked, Retry* retry) const {
    if (asked.finished) return std::nullopt;
    if (asked.gained) {
      if (!absl::IsUnavailable(status)) return std::nullopt;
      retry->Restart();
    }
    const std::optional<double> pause =
        retry->After(status, clock_.Now(), last_answer_, asked.told);
    const bool is_late =
        pause && asked.deadline && clock_.Now() + *pause > *asked.deadline;
    return is_late ? std::nullopt : pause;
  }

  // False: it is cancelled meanwhile.
  bool Pause(double seconds) {
    std::unique_lock lock(mutex_);
    return !changed_.wait_for(lock, std::chrono::duration<double>(seconds),
                              [this] { return cancelled_; });
  }

  const HttpServerPlace server_;
  const std::vector<Prompt>& prompts_;
  const CallerOptions options_;
  const SteadyClock clock_;
  std::atomic<double> last_answer_;  // by the clock
  std::vector<std::unique_ptr<HttpClient>> clients_;
  std::vector<std::thread> threads_;

  std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  size_t next_ = 0;  // the first prompt that is not asked
  bool cancelled_ = false;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Caller>> NewHttpCaller(
    const HttpServerPlace& server, const std::vector<Prompt>& prompts,
    CallerOptions options) {
  for (const Prompt& prompt : prompts) {
    H2O_RETURN_IF_ERROR(OpenAiBody(prompt.request).status());
  }
  auto caller =
      std::make_unique<HttpCaller>(server, prompts, std::move(options));
  H2O_RETURN_IF_ERROR(caller->Connect());
  return caller;
}

}  // namespace h2o
