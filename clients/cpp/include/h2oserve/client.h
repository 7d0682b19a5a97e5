// A client of h2oserve in C++17.  docs/clients-cpp.md of the repository has a
// page of examples.
//
//   h2o::ClientOptions options;
//   options.server = "127.0.0.1:50051";
//   const h2o::Expected<h2o::Client> client = h2o::Client::Connect(options);
//
// Units    times are in seconds, sizes in bytes, lengths and budgets in tokens.
// Threads  a Client may be used by any number of threads at once; other types
//          have one owner unless their comment says more.
// Errors   nothing throws.  What can fail returns an Expected, or an Error
//          beside its result.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace h2o {
// The version of the binary interface; programs write h2o::Client.
inline namespace client_v0 {

// ---- Errors

// The numbers are gRPC's.
enum class ErrorCode {
  kCancelled = 1,         // by this client
  kUnknown = 2,           // what answered may be no h2oserve
  kInvalidArgument = 3,   // the request can never be taken; the text says why
  kDeadlineExceeded = 4,  // the request's timeout has passed
  kNotFound = 5,          // no such group
  kAlreadyExists = 6,
  kPermissionDenied = 7,   // the key may not do this
  kResourceExhausted = 8,  // the server, or the key's share of it, is full
  kFailedPrecondition = 9,
  kAborted = 10,
  kOutOfRange = 11,
  kUnimplemented = 12,  // the server is too old, or has no tokenizer
  kInternal = 13,       // of the server
  kUnavailable = 14,    // no server, or no workers
  kDataLoss = 15,
  kUnauthenticated = 16,  // no key, a wrong one, or no certificate
};

struct Error {
  ErrorCode code = ErrorCode::kUnknown;
  std::string message;
  // After so many seconds the server wants to be asked again; none: it has not
  // said so.
  std::optional<double> retry_after_seconds;

  // "UNAVAILABLE: no group of workers is ready"
  [[gnu::visibility("default")]] std::string ToString() const;
  // Prints it to stderr and aborts.
  [[noreturn, gnu::visibility("default")]] void EndProgram() const;
};

// A value, or why there is none.  The interface is part of C++23's
// std::expected.
template <typename T>
class [[nodiscard]] Expected {
 public:
  Expected(T value) : held_(std::move(value)) {}
  Expected(Error error) : held_(std::move(error)) {}

  bool has_value() const { return held_.index() == 0; }
  explicit operator bool() const { return has_value(); }

  // The program ends if there is no value.
  T& operator*() & { return *Value(this); }
  const T& operator*() const& { return *Value(this); }
  T&& operator*() && { return std::move(*Value(this)); }
  T* operator->() { return Value(this); }
  const T* operator->() const { return Value(this); }

  // REQUIRES: !has_value().
  const Error& error() const { return *std::get_if<1>(&held_); }

 private:
  template <typename Self>
  static auto Value(Self* self) {
    if (!self->has_value()) self->error().EndProgram();
    return std::get_if<0>(&self->held_);
  }

  std::variant<T, Error> held_;
};

// ---- Requests

// How much of the KV cache a request may keep (docs/h2o.md).
struct KvRequest {
  std::string policy;  // full, h2o, recent or sink; empty: the server's default
  // At most one of the two; neither: 20 % of the prompt.
  std::optional<int32_t> budget_tokens;  // a head keeps
  std::optional<double> budget_percent;  // of the prompt's tokens
  std::optional<int32_t> heavy;          // of the budget; h2o only
  std::optional<int32_t> recent;         // of the budget; h2o only
};

struct GenerateRequest {
  // A text in UTF-8, or tokens.
  std::variant<std::string, std::vector<int32_t>> prompt;
  bool add_special_tokens =
      true;  // in front of a text, where the model has any

  // Sampling.  Logits are changed in the order of these fields.
  std::map<int32_t, float> logit_bias;  // added to a token's logit
  float repetition_penalty = 0;         // 0 or 1: off
  float frequency_penalty = 0;
  float presence_penalty = 0;
  float temperature = 0;  // 0: greedy, always the likeliest token
  float min_p = 0;        // 0: off
  int32_t top_k = 0;      // 0: off
  float top_p = 0;        // 0 or 1: off
  // Same seed, same tokens.  None: the server draws one and tells it.
  std::optional<uint64_t> seed;

  // The end.
  std::optional<int32_t> max_tokens;  // none: the server's default, 128
  int32_t min_tokens = 0;             // before them no stop token counts
  std::vector<std::string> stop;      // the text ends before one of these
  std::vector<int32_t> stop_token_ids;
  bool include_stop = false;  // keep the stop text in the text
  bool ignore_eos = false;    // the model's stop tokens do not count

  // What else is told of tokens: of the generated ones, of so many of the
  // likeliest beside each (at most 20), and of the prompt's.
  bool logprobs = false;
  int32_t top_logprobs = 0;
  bool prompt_logprobs = false;

  KvRequest kv;
  int32_t priority = 0;    // among one tenant's requests; higher first
  std::string request_id;  // for the server's log; empty: it makes one

  // Tokens that an earlier answer to this request has given: the new answer
  // goes on behind them.  With a temperature its seed is needed as well.
  // `max_tokens` counts them.
  std::vector<int32_t> generated;

  // For the whole answer, with all attempts.  Then kDeadlineExceeded.  None:
  // as ClientOptions says.
  std::optional<double> timeout_seconds;
};

// ---- Answers

struct LikelyToken {
  int32_t token = 0;
  float logprob = 0;  // of the raw logits
};

struct TokenLogprobs {
  LikelyToken chosen;
  std::vector<LikelyToken> top;  // the likeliest first
};

enum class FinishedBy {
  kNothing,  // it goes on
  kStop,     // a stop token or a stop text
  kLength,   // max_tokens
};

struct GenerateUsage {
  int32_t prompt_tokens = 0;
  int32_t completion_tokens = 0;  // with GenerateRequest::generated
  int32_t kv_slots_held = 0;      // the largest over layers and heads
  int32_t tokens_evicted = 0;     // the largest over layers and heads
  int64_t kv_bytes = 0;           // charged, over all ranks
  int64_t kv_bytes_full = 0;      // the same under the policy `full`
  // The share of all attention that went to tokens which are still stored;
  // none: nothing is scored.
  std::optional<double> attention_mass_kept;
  double queue_seconds = 0;
  double prefill_seconds = 0;
  double decode_seconds = 0;
  int32_t replays = 0;  // times the server ran it again after a lost group
};

// A part of an answer: the tokens that came together.
struct Piece {
  std::vector<int32_t> tokens;
  std::string text;                     // whole characters of UTF-8 only
  std::vector<TokenLogprobs> logprobs;  // one for each token, if asked for
  // In the first piece, if asked for; those of the first token are empty.
  std::vector<TokenLogprobs> prompt_logprobs;
  std::string request_id;
  std::optional<uint64_t> seed;  // of the draws; in the first piece
  int32_t resumes = 0;  // times a lost server was asked to go on before it
  // In the last piece.
  FinishedBy finished_by = FinishedBy::kNothing;
  std::string stop_reason;  // the stop text, or the number of the stop token
  std::optional<GenerateUsage> usage;
};

// A whole answer: its pieces put together.
struct Completion {
  std::vector<int32_t> tokens;
  std::string text;
  std::vector<TokenLogprobs> logprobs;
  std::vector<TokenLogprobs> prompt_logprobs;
  std::string request_id;
  uint64_t seed = 0;
  FinishedBy finished_by = FinishedBy::kNothing;
  std::string stop_reason;
  GenerateUsage usage;
  int32_t resumes = 0;  // times a lost server was asked to go on
};

struct ModelInfo {
  std::string name;
  std::string version;  // of the server
  int32_t num_layers = 0;
  int32_t num_heads = 0;
  int32_t num_kv_heads = 0;
  int32_t head_dim = 0;
  int32_t vocab_size = 0;
  int32_t max_positions = 0;  // of prompt and answer together
  int32_t tensor_parallel_size = 0;
  int32_t num_groups = 0;
  int64_t kv_pool_bytes = 0;  // over all ranks of one group
  std::string default_kv_policy;
};

// Whether a request would be taken now.
struct AdmissionForecast {
  bool fits_now = false;
  double retry_after_seconds = 0;  // estimated; 0 with fits_now
  int64_t pages = 0;               // over all ranks
  int64_t kv_bytes = 0;            // the same in bytes
  std::string reason;              // why not now
};

// ---- The client

// When a request that failed is made again.  Pauses double from the first to
// the longest one, with some chance in them so that clients do not come back
// together; they are never shorter than the server asks for, up to 30 s.
struct RetryOptions {
  bool enabled = true;
  double first_pause_seconds = 0.25;
  double longest_pause_seconds = 4;
  // kUnavailable: the server starts, or has lost its workers.  So many attempts
  // more, within so many seconds.
  int unavailable_attempts = 5;
  double unavailable_seconds = 15;
  // kResourceExhausted: as long as the server answers other requests of this
  // client, and so many seconds more.
  double busy_seconds = 60;
};

struct ClientOptions {
  std::string server;   // HOST:PORT of gRPC
  std::string api_key;  // empty: none

  // Files in PEM.  `ca` turns TLS on: the server's certificate must be of one
  // of these authorities.  The other two are for servers that want one of the
  // client, and come together.
  struct Tls {
    std::string ca;
    std::string certificate, key;
  };
  Tls tls;

  double timeout_seconds = 0;        // of Generate, Stream and Start; 0: none
  double call_timeout_seconds = 10;  // of all other calls
  RetryOptions retry;
  // Called before each pause, from any thread: for logs.
  std::function<void(const Error&, double pause_seconds)> on_retry;
};

// An answer that comes piece by piece, to who asks for them.  While nobody
// asks, the server is held back.  Destroying it cancels the request.
class [[gnu::visibility("default")]] TokenStream {
 public:
  TokenStream(TokenStream &&) noexcept;
  TokenStream& operator=(TokenStream&&) noexcept;
  ~TokenStream();

  // Waits for the next piece.  None: the answer has ended.
  std::optional<Piece> Next();
  // Once Next() gave none: why the answer is not whole; none: it is.
  const std::optional<Error>& error() const;
  // Any thread.  Next() soon gives none, and error() is kCancelled.
  void Cancel();

 private:
  friend class Client;
  class Impl;
  explicit TokenStream(std::shared_ptr<Impl> impl);
  std::shared_ptr<Impl> impl_;
};

// A request that runs by itself (Client::Start).  Destroying it changes
// nothing.
class [[gnu::visibility("default")]] RunningRequest {
 public:
  RunningRequest(RunningRequest &&) noexcept;
  RunningRequest& operator=(RunningRequest&&) noexcept;
  ~RunningRequest();

  void Cancel();  // any thread; its end still comes

 private:
  friend class Client;
  class Impl;
  explicit RunningRequest(std::shared_ptr<Impl> impl);
  std::shared_ptr<Impl> impl_;
};

// A server, seen from here.  Copies share one connection, which is made when it
// is first needed and made again when it is lost.
//
// Generate, Stream and Start ask again as RetryOptions says while no token has
// come.  If the server is lost later, they ask it, or what has taken its place,
// to go on behind the tokens that have come: none is missing and none comes
// twice.
class [[gnu::visibility("default")]] Client {
 public:
  // Reads the certificates; does not connect yet.
  // Errors: kInvalidArgument naming the option and what would be right.
  static Expected<Client> Connect(const ClientOptions& options);

  // Waits for the whole answer.
  Expected<Completion> Generate(const GenerateRequest& request) const;

  // Returns at once.
  TokenStream Stream(const GenerateRequest& request) const;

  // Returns at once; the answer goes to the two functions.  They are called
  // from threads of the library, one call at a time, and must not wait long:
  // other requests wait for the same threads.  `on_end` comes once, last; its
  // error is none if the answer is whole.  REQUIRES: neither is null.
  RunningRequest Start(const GenerateRequest& request,
                       std::function<void(Piece)> on_piece,
                       std::function<void(std::optional<Error>)> on_end) const;

  // The next four are asked again while the server is unavailable.
  Expected<ModelInfo> GetModelInfo() const;
  // Would this request be taken now, at what cost?  Nothing is queued.
  Expected<AdmissionForecast> CheckAdmission(const GenerateRequest& request)
      const;
  Expected<std::vector<int32_t>> Tokenize(const std::string& text,
                                          bool add_special_tokens = true) const;
  Expected<std::string> Detokenize(const std::vector<int32_t>& tokens) const;

  // Whether the server takes requests: some group of workers is ready, and it
  // does not drain.  Takes no key.
  Expected<bool> IsReady() const;

  // For keys with `admin`, where the server has keys.
  Expected<std::string> GetStatus() const;  // JSON, as GET /v1/status
  // The group takes no more requests, and its workers leave when those that
  // run have ended or moved.  Returns at once.
  std::optional<Error> Drain(int32_t group) const;

 private:
  class Impl;
  explicit Client(std::shared_ptr<const Impl> impl);
  std::shared_ptr<const Impl> impl_;
};

}  // namespace client_v0
}  // namespace h2o
