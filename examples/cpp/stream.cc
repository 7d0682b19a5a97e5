// Streams an answer from an h2oserve server, and cancels it when enough has
// come:  stream HOST:PORT PROMPT [TIMEOUT_SECONDS [LINES]]
#include <h2oserve/client.h>

#include <algorithm>
#include <cstdlib>
#include <iostream>

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  h2o::ClientOptions options;
  options.server = argv[1];
  const h2o::Expected<h2o::Client> client = h2o::Client::Connect(options);
  if (!client) {
    std::cerr << client.error().ToString() << "\n";
    return 2;
  }
  h2o::GenerateRequest request;
  request.prompt = argv[2];
  request.max_tokens = 64;
  request.timeout_seconds = argc > 3 ? std::atof(argv[3]) : 60;
  request.kv.policy = "h2o";
  request.kv.budget_tokens = 64;  // that each head may keep
  const long most_lines = argc > 4 ? std::atol(argv[4]) : 0;  // 0: all

  h2o::TokenStream stream = client->Stream(request);
  long lines = 0;
  while (const std::optional<h2o::Piece> piece = stream.Next()) {
    std::cout << piece->text << std::flush;
    lines += std::count(piece->text.begin(), piece->text.end(), '\n');
    if (piece->usage) {  // the last piece
      std::cerr << "\n"
                << piece->usage->prompt_tokens << " tokens in, "
                << piece->usage->completion_tokens << " out, "
                << piece->usage->tokens_evicted << " evicted\n";
    } else if (most_lines > 0 && lines >= most_lines) {
      stream.Cancel();  // the server frees the KV cache within two steps
    }
  }
  if (!stream.error()) return 0;
  // What was printed is the answer so far.
  std::cerr << "\n" << stream.error()->ToString() << "\n";
  return stream.error()->code == h2o::ErrorCode::kCancelled ? 0 : 1;
}
