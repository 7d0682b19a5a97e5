// Writes and reads the frames of forked ranks.
#include "embedded/step_pipe.h"

#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/byte_codec.h"
#include "base/status_macros.h"
#include "model/step_codec.h"

namespace h2o {

auto Fields(Is<AllReduceTime> auto& s) {
  auto& [bytes, operations, median, p10, p90] = s;
  return std::tie(bytes, operations, median, p10, p90);
}

namespace {

// ---- Frames

// News in the order of RankNews.
enum class Kind : uint64_t {
  kProgress,
  kInfo,
  kResult,
  kFailure,
  kTimes,
  kPlan
};

struct Header {
  uint64_t bytes = 0;  // of the body
  Kind kind = Kind::kPlan;
};

struct Frame {
  Kind kind = Kind::kPlan;
  std::string body;
};

absl::Status Send(int fd, Kind kind, std::string_view body) {
  if (body.size() > uint64_t{kMaxFrameBytes}) {
    return absl::ResourceExhaustedError(
        absl::StrCat("a frame of ", body.size(), " bytes; at most ",
                     kMaxFrameBytes, " may go to or from a rank"));
  }
  Header header = {body.size(), kind};
  // In one call: a reader that wakes up finds a small frame whole.
  iovec parts[] = {{&header, sizeof(header)},
                   {const_cast<char*>(body.data()), body.size()}};
  msghdr message = {};
  message.msg_iov = parts;
  message.msg_iovlen = std::size(parts);
  while (parts[0].iov_len + parts[1].iov_len > 0) {
    ssize_t n = sendmsg(fd, &message, MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      return absl::UnavailableError(
          absl::StrCat("the other end takes nothing: ", strerror(errno)));
    }
    for (iovec& part : parts) {
      const size_t sent = std::min<size_t>(n, part.iov_len);
      part.iov_base = static_cast<char*>(part.iov_base) + sent;
      part.iov_len -= sent;
      n -= sent;
    }
  }
  return absl::OkStatus();
}

// Receives `bytes` of a frame of which `before` have come.
absl::Status Receive(int fd, size_t before, char* to, size_t bytes) {
  for (size_t done = 0; done < bytes;) {
    const ssize_t n = recv(fd, to + done, bytes - done, 0);
    if (n > 0) {
      done += n;
    } else if (n == 0 && before + done == 0) {
      return absl::UnavailableError("the other end is closed");
    } else if (n == 0) {
      return absl::UnavailableError(
          absl::StrCat("the other end was closed in the midst of a frame, "
                       "after ",
                       before + done, " bytes"));
    } else if (errno != EINTR) {
      return absl::UnavailableError(
          absl::StrCat("the other end is lost: ", strerror(errno)));
    }
  }
  return absl::OkStatus();
}

absl::Status ReceiveFrame(int fd, Frame* frame) {
  Header header;
  H2O_RETURN_IF_ERROR(
      Receive(fd, 0, reinterpret_cast<char*>(&header), sizeof(header)));
  if (header.bytes > uint64_t{kMaxFrameBytes}) {
    return absl::DataLossError(absl::StrCat("a frame says that it has ",
                                            header.bytes, " bytes; at most ",
                                            kMaxFrameBytes, " can be"));
  }
  // Memory is taken piece by piece, as the bytes come.
  constexpr uint64_t kPiece = 64 << 20;
  frame->kind = header.kind;
  std::string& body = frame->body;
  while (body.size() < header.bytes) {
    const size_t begin = body.size();
    body.resize(begin + std::min(header.bytes - begin, kPiece));
    H2O_RETURN_IF_ERROR(Receive(fd, sizeof(header) + begin, body.data() + begin,
                                body.size() - begin));
  }
  return absl::OkStatus();
}

absl::Status WrongKind(Kind kind) {
  return absl::DataLossError(
      absl::StrCat("a frame of kind ", static_cast<uint64_t>(kind)));
}

// ---- Bodies

template <class... Values>
std::string BytesOf(const Values&... values) {
  ByteWriter writer;
  (writer.Put(values), ...);
  return writer.Take();
}

template <class... Values>
absl::Status ReadBytes(std::string_view bytes, Values&... values) {
  ByteReader reader(bytes);
  (reader.Get(values), ...);
  if (reader.Whole()) return absl::OkStatus();
  return absl::DataLossError(
      absl::StrCat("a frame of ", bytes.size(), " bytes is damaged"));
}

std::string BodyOf(const RankInfo& info) { return Encode(info); }
std::string BodyOf(const StepResult& result) { return Encode(result); }
std::string BodyOf(const RankTimes& times) { return BytesOf(times.times); }
std::string BodyOf(const RankProgress& progress) {
  return BytesOf(progress.fraction);
}
std::string BodyOf(const RankFailure& failure) {
  return BytesOf(failure.status.code(), std::string(failure.status.message()));
}

absl::StatusOr<RankNews> ProgressOf(std::string_view body) {
  RankProgress progress;
  H2O_RETURN_IF_ERROR(ReadBytes(body, progress.fraction));
  return progress;
}

absl::StatusOr<RankNews> FailureOf(std::string_view body) {
  absl::StatusCode code = absl::StatusCode::kUnknown;
  std::string text;
  H2O_RETURN_IF_ERROR(ReadBytes(body, code, text));
  return RankFailure{absl::Status(code, text)};
}

absl::StatusOr<RankNews> TimesOf(std::string_view body) {
  RankTimes times;
  H2O_RETURN_IF_ERROR(ReadBytes(body, times.times));
  return times;
}

}  // namespace

absl::Status WritePlan(int fd, std::string_view plan) {
  return Send(fd, Kind::kPlan, plan);
}

absl::StatusOr<StepPlan> ReadPlan(int fd, const ModelConfig& config) {
  Frame frame;
  H2O_RETURN_IF_ERROR(ReceiveFrame(fd, &frame));
  if (frame.kind != Kind::kPlan) return WrongKind(frame.kind);
  return DecodePlan(frame.body, config);
}

absl::Status WriteNews(int fd, const RankNews& news) {
  const std::string body =
      std::visit([](const auto& value) { return BodyOf(value); }, news);
  return Send(fd, static_cast<Kind>(news.index()), body);
}

absl::StatusOr<RankNews> ReadNews(int fd, const ModelConfig& config) {
  Frame frame;
  H2O_RETURN_IF_ERROR(ReceiveFrame(fd, &frame));
  switch (frame.kind) {
    case Kind::kProgress:
      return ProgressOf(frame.body);
    case Kind::kInfo:
      return DecodeRankInfo(frame.body, config);
    case Kind::kResult:
      return DecodeResult(frame.body, config);
    case Kind::kFailure:
      return FailureOf(frame.body);
    case Kind::kTimes:
      return TimesOf(frame.body);
    case Kind::kPlan:
      break;
  }
  return WrongKind(frame.kind);
}

}  // namespace h2o
