#include "clients/step_pipe.h"

#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace h2o {
namespace {

// ---- Fields.  Structured bindings name every one of them or do not compile.

template <class S, class T>
concept Is = std::is_same_v<std::remove_const_t<S>, T>;

auto Fields(Is<KvPolicy> auto& s) {
  auto& [name, slots] = s;
  return std::tie(name, slots);
}
auto Fields(Is<SequenceSpec> auto& s) {
  auto& [id, prompt, max_tokens, ignore_eos, sampling, policy, trace, forced,
         logits] = s;
  return std::tie(id, prompt, max_tokens, ignore_eos, sampling, policy, trace,
                  forced, logits);
}
auto Fields(Is<PrefillSlice> auto& s) {
  auto& [sequence_ids, layer_begin, layer_end] = s;
  return std::tie(sequence_ids, layer_begin, layer_end);
}
auto Fields(Is<StepPlan> auto& s) {
  auto& [step, retire, admit, prefill, decode] = s;
  return std::tie(step, retire, admit, prefill, decode);
}
auto Fields(Is<HeadTrace> auto& s) {
  auto& [sequence_id, layer, head, pos, evicted, kept] = s;
  return std::tie(sequence_id, layer, head, pos, evicted, kept);
}
auto Fields(Is<LogitRows> auto& s) {
  auto& [sequence_id, first_position, rows] = s;
  return std::tie(sequence_id, first_position, rows);
}
auto Fields(Is<StepResult> auto& s) {
  auto& [step, checksum, tokens, trace, logits, prefill_seconds, decode_seconds,
         slowest_layer_seconds, idle_seconds] = s;
  return std::tie(step, checksum, tokens, trace, logits, prefill_seconds,
                  decode_seconds, slowest_layer_seconds, idle_seconds);
}
auto Fields(Is<RankReady> auto& s) {
  auto& [num_pages, packed_tokens, memory, geometry, sums] = s;
  return std::tie(num_pages, packed_tokens, memory, geometry, sums);
}
auto Fields(Is<RankTimes> auto& s) {
  auto& [times] = s;
  return std::tie(times);
}

// Goes as its bytes.
template <class T>
constexpr bool kPlain = std::is_trivially_copyable_v<T>;

// ---- Frames

struct Header {
  uint64_t bytes = 0;  // behind the header
  uint64_t kind = 0;
};

constexpr uint64_t kPlanKind = 100;  // news: the index of the variant

class Writer {
 public:
  explicit Writer(uint64_t kind) : kind_(kind), frame_(sizeof(Header), '\0') {}

  template <class T>
  void Put(const T& value) {
    if constexpr (kPlain<T>) {
      Append(&value, sizeof(value));
    } else {
      std::apply([this](const auto&... field) { (Put(field), ...); },
                 Fields(value));
    }
  }
  template <class T>
  void Put(const std::vector<T>& values) {
    Put(uint64_t{values.size()});
    if constexpr (kPlain<T>) {
      Append(values.data(), values.size() * sizeof(T));
    } else {
      for (const T& value : values) Put(value);
    }
  }
  void Put(const RankFailure& failure) {
    Put(static_cast<int>(failure.status.code()));
    const absl::string_view text = failure.status.message();
    Put(std::vector<char>(text.begin(), text.end()));
  }

  absl::Status Send(int fd) {
    const Header header = {frame_.size() - sizeof(Header), kind_};
    if (header.bytes > uint64_t{kMaxFrameBytes}) {
      return absl::ResourceExhaustedError(
          absl::StrCat("a frame of ", header.bytes, " bytes; at most ",
                       kMaxFrameBytes, " may go to or from a rank"));
    }
    std::memcpy(frame_.data(), &header, sizeof(header));
    for (size_t done = 0; done < frame_.size();) {
      const ssize_t n =
          send(fd, frame_.data() + done, frame_.size() - done, MSG_NOSIGNAL);
      if (n >= 0) {
        done += n;
      } else if (errno != EINTR) {
        return absl::UnavailableError(
            absl::StrCat("the other end takes nothing: ", strerror(errno)));
      }
    }
    return absl::OkStatus();
  }

 private:
  void Append(const void* data, size_t bytes) {
    if (bytes > 0) frame_.append(static_cast<const char*>(data), bytes);
  }

  const uint64_t kind_;
  std::string frame_;
};

// Reads `bytes`, of a frame of which `before` have come.
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

class Reader {
 public:
  static absl::StatusOr<Reader> Of(int fd) {
    Header header;
    H2O_RETURN_IF_ERROR(
        Receive(fd, 0, reinterpret_cast<char*>(&header), sizeof(header)));
    if (header.bytes > uint64_t{kMaxFrameBytes}) {
      return absl::DataLossError(absl::StrCat("a frame says that it has ",
                                              header.bytes, " bytes; at most ",
                                              kMaxFrameBytes, " can be"));
    }
    // No more memory than what has come is worth.
    constexpr uint64_t kPiece = 64 << 20;
    std::string body;
    while (body.size() < header.bytes) {
      const size_t begin = body.size();
      body.resize(begin + std::min(header.bytes - begin, kPiece));
      H2O_RETURN_IF_ERROR(Receive(fd, sizeof(header) + begin,
                                  body.data() + begin, body.size() - begin));
    }
    return Reader(header.kind, std::move(body));
  }

  uint64_t kind() const { return kind_; }

  template <class T>
  void Get(T& value) {
    if constexpr (kPlain<T>) {
      Take(&value, 1);
    } else {
      std::apply([this](auto&... field) { (Get(field), ...); }, Fields(value));
    }
  }
  template <class T>
  void Get(std::vector<T>& values) {
    // Each has at least one count, if it is not plain.
    constexpr size_t kLeast = kPlain<T> ? sizeof(T) : sizeof(uint64_t);
    uint64_t count = 0;
    Get(count);
    whole_ = whole_ && count <= (body_.size() - at_) / kLeast;
    if (!whole_) return;
    values.resize(count);
    if constexpr (kPlain<T>) {
      Take(values.data(), count);
    } else {
      for (T& value : values) Get(value);
    }
  }
  void Get(RankFailure& failure) {
    int code = 0;
    std::vector<char> text;
    Get(code);
    Get(text);
    failure.status = absl::Status(static_cast<absl::StatusCode>(code),
                                  absl::string_view(text.data(), text.size()));
  }

  // Of everything that was got.
  absl::Status Verdict() const {
    if (whole_ && at_ == body_.size()) return absl::OkStatus();
    return absl::DataLossError(
        absl::StrCat("a frame of kind ", kind_, " and ", body_.size(),
                     " bytes does not hold what it should"));
  }

 private:
  Reader(uint64_t kind, std::string body)
      : kind_(kind), body_(std::move(body)) {}

  template <class T>
  void Take(T* to, size_t count) {
    const size_t bytes = count * sizeof(T);
    whole_ = whole_ && bytes <= body_.size() - at_;
    if (!whole_ || bytes == 0) return;
    std::memcpy(to, body_.data() + at_, bytes);
    at_ += bytes;
  }

  uint64_t kind_;
  std::string body_;
  size_t at_ = 0;
  bool whole_ = true;
};

absl::Status WrongKind(uint64_t kind) {
  return absl::DataLossError(absl::StrCat("a frame of kind ", kind));
}

template <class T>
absl::StatusOr<RankNews> Parse(Reader& reader) {
  T value;
  reader.Get(value);
  H2O_RETURN_IF_ERROR(reader.Verdict());
  return RankNews(std::move(value));
}

}  // namespace

absl::Status WritePlan(int fd, const StepPlan& plan) {
  Writer writer(kPlanKind);
  writer.Put(plan);
  return writer.Send(fd);
}

absl::StatusOr<StepPlan> ReadPlan(int fd) {
  H2O_ASSIGN_OR_RETURN(Reader reader, Reader::Of(fd));
  if (reader.kind() != kPlanKind) return WrongKind(reader.kind());
  StepPlan plan;
  reader.Get(plan);
  H2O_RETURN_IF_ERROR(reader.Verdict());
  return plan;
}

absl::Status WriteNews(int fd, const RankNews& news) {
  Writer writer(news.index());
  std::visit([&](const auto& value) { writer.Put(value); }, news);
  return writer.Send(fd);
}

absl::StatusOr<RankNews> ReadNews(int fd) {
  H2O_ASSIGN_OR_RETURN(Reader reader, Reader::Of(fd));
  switch (reader.kind()) {
    case 0:
      return Parse<std::variant_alternative_t<0, RankNews>>(reader);
    case 1:
      return Parse<std::variant_alternative_t<1, RankNews>>(reader);
    case 2:
      return Parse<std::variant_alternative_t<2, RankNews>>(reader);
    case 3:
      return Parse<std::variant_alternative_t<3, RankNews>>(reader);
    case 4:
      return Parse<std::variant_alternative_t<4, RankNews>>(reader);
  }
  return WrongKind(reader.kind());
}

}  // namespace h2o
