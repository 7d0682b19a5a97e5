// Recognises the first bytes of a connection.
#include "coordinator/greetings.h"

#include <errno.h>
#include <sys/socket.h>

#include <algorithm>
#include <iterator>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"

namespace h2o {
namespace {

using std::string_view_literals::operator""sv;

constexpr std::string_view kPreface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"sv;
// Of any version of TLS: a handshake's record.
constexpr std::string_view kTlsRecord = "\x16\x03"sv;

}  // namespace

void Greetings::Add(UniqueFd fd, double now) {
  const int number = fd.get();
  places_[number] = ++last_;
  waiting_[last_] = {.fd = std::move(fd),
                     .since = now,
                     .greeted = options_.kind == Kind::kAny};
  Look(number, /*left=*/false);  // what came before it was watched
}

void Greetings::Remove(int fd) {
  const auto place = places_.find(fd);
  if (place == places_.end()) return;
  waiting_.erase(place->second);
  places_.erase(place);
}

void Greetings::Look(int fd, bool left) {
  const auto place = places_.find(fd);
  if (place == places_.end()) return;
  Waiting& waiting = waiting_[place->second];
  if (!waiting.greeted) Recognise(&waiting);
  waiting.left = waiting.left || (left && waiting.refusal.empty());
}

void Greetings::Recognise(Waiting* waiting) const {
  const bool tls = options_.kind == Kind::kTls;
  const std::string_view expected = tls ? kTlsRecord : kPreface;
  char bytes[kPreface.size()];
  const ssize_t n =
      recv(waiting->fd.get(), bytes, expected.size(), MSG_PEEK | MSG_DONTWAIT);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (n <= 0) {
    waiting->left = true;
  } else if (!expected.starts_with({bytes, static_cast<size_t>(n)})) {
    waiting->refusal = tls ? "it does not speak TLS"
                           : "it does not speak HTTP/2 without TLS, as gRPC";
  } else {
    waiting->greeted = static_cast<size_t>(n) == expected.size();
  }
}

bool Greetings::TakeTurn() {
  if (options_.kind != Kind::kTls) return true;
  if (turns_ < 1) return false;
  turns_ -= 1;
  return true;
}

std::vector<Greetings::Due> Greetings::TakeDue(double now) {
  turns_ = std::min(options_.handshakes_per_second,
                    turns_ + (now - filled_) * options_.handshakes_per_second);
  filled_ = now;
  std::vector<Due> due;
  for (auto it = waiting_.begin(); it != waiting_.end();) {
    Waiting& waiting = it->second;
    if (waiting.refusal.empty() && !waiting.left &&
        now - waiting.since > options_.seconds) {
      waiting.refusal = absl::StrCat(
          "it said nothing that could be served "
          "within ",
          options_.seconds, " s");
    }
    if (waiting.left || !waiting.refusal.empty() ||
        (waiting.greeted && TakeTurn())) {
      due.push_back(
          {std::move(waiting.fd), std::move(waiting.refusal), waiting.left});
      places_.erase(due.back().fd.get());
      it = waiting_.erase(it);
    } else {
      ++it;
    }
  }
  return due;
}

}  // namespace h2o
