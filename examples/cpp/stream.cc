// Streams an answer from an h2oserve server, and cancels it when enough has
// come.
//
//   stream HOST:PORT PROMPT [TIMEOUT_SECONDS [LINES]]
//
// Shows how to stream, set a deadline, choose what the KV cache keeps, cancel,
// retry while the server is unavailable, and tell one error from another.
#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/support/channel_arguments.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>

#include "inference.grpc.pb.h"

namespace {

namespace v1 = h2oserve::v1;

// gRPC itself retries calls that failed with UNAVAILABLE: no group of workers
// is ready, or the server is not up yet.  It never does so once the first
// message has arrived, so no text can come twice.
constexpr char kServiceConfig[] = R"({"methodConfig": [{
  "name": [{"service": "h2oserve.v1.Inference"}],
  "retryPolicy": {"maxAttempts": 5, "initialBackoff": "0.5s",
                  "maxBackoff": "5s", "backoffMultiplier": 2,
                  "retryableStatusCodes": ["UNAVAILABLE"]}}]})";

v1::GenerateRequest MakeRequest(const std::string& prompt) {
  v1::GenerateRequest request;
  request.set_text(prompt);
  request.set_max_tokens(64);
  request.mutable_kv_policy()->set_name("h2o");
  request.mutable_kv_policy()->set_tokens(64);  // that each head may keep
  return request;
}

void PrintUsage(const v1::GenerateResponse& last) {
  const v1::Usage& usage = last.usage();
  std::fprintf(stderr,
               "\n%s: %d tokens in, %d out, %d evicted, %lld KiB of KV cache "
               "(full: %lld)\n",
               v1::FinishReason_Name(last.finish_reason()).c_str(),
               usage.prompt_tokens(), usage.completion_tokens(),
               usage.tokens_evicted(),
               static_cast<long long>(usage.kv_bytes() >> 10),
               static_cast<long long>(usage.kv_bytes_full() >> 10));
}

// Prints the answer as it comes.  `most_lines` = 0: all of it.
grpc::Status Stream(v1::Inference::Stub& stub,
                    const v1::GenerateRequest& request, int timeout_seconds,
                    int most_lines) {
  grpc::ClientContext context;  // of one call
  context.set_deadline(std::chrono::system_clock::now() +
                       std::chrono::seconds(timeout_seconds));
  const auto reader = stub.Generate(&context, request);
  v1::GenerateResponse message;
  int lines = 0;
  while (reader->Read(&message)) {
    std::fputs(message.text().c_str(), stdout);
    std::fflush(stdout);
    lines += std::count(message.text().begin(), message.text().end(), '\n');
    if (message.has_usage()) {  // the last message
      PrintUsage(message);
    } else if (most_lines > 0 && lines >= most_lines) {
      // Any thread may do this.  The server frees the request's KV cache within
      // two steps.
      context.TryCancel();
    }
  }
  return reader->Finish();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr,
                 "usage: stream HOST:PORT PROMPT [TIMEOUT_SECONDS [LINES]]\n");
    return 2;
  }
  const int timeout_seconds = argc > 3 ? std::atoi(argv[3]) : 60;
  const int most_lines = argc > 4 ? std::atoi(argv[4]) : 0;

  grpc::ChannelArguments arguments;
  arguments.SetServiceConfigJSON(kServiceConfig);
  // A server that does not answer at all, frozen or cut off, is noticed within
  // 20 seconds.
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 10'000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10'000);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  const auto stub = v1::Inference::NewStub(grpc::CreateCustomChannel(
      argv[1], grpc::InsecureChannelCredentials(), arguments));
  const grpc::Status status =
      Stream(*stub, MakeRequest(argv[2]), timeout_seconds, most_lines);
  if (status.ok()) return 0;
  if (status.error_code() == grpc::StatusCode::CANCELLED) {
    std::fputs("\ncancelled\n", stderr);
    return 0;
  }
  // INVALID_ARGUMENT (3): the request is wrong and the text says how.
  // RESOURCE_EXHAUSTED (8): the queue is full, try later.  DEADLINE_EXCEEDED
  // (4): what was printed is the answer so far.
  std::fprintf(stderr, "\nerror %d: %s\n", status.error_code(),
               status.error_message().c_str());
  return 1;
}
