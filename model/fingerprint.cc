// Hashes the tensors of a checkpoint, many chunks at a time, and keeps the sums
// of its files.
#include "model/fingerprint.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <memory>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "base/status_macros.h"
#include "base/thread_pool.h"
#include "parallel/unique_fd.h"

namespace h2o {
namespace {

// Threads share a tensor in chunks, and read a chunk piece by piece.
constexpr int64_t kChunkBytes = 16 << 20;
constexpr int64_t kPieceBytes = 256 << 10;
constexpr auto kLockTick = std::chrono::milliseconds(20);

bool Stopped(const FingerprintOptions& options) {
  return options.stop != nullptr && *options.stop;
}

absl::Status StoppedError() {
  return absl::CancelledError("the fingerprint is no longer needed");
}

// ---- The sum of a file

struct Chunk {
  size_t tensor;
  int64_t begin, bytes;  // in the file
};

// The XXH3 of `chunk`; nullopt if it cannot be read.
std::optional<uint64_t> HashChunk(int fd, const Chunk& chunk,
                                  std::vector<std::byte>* piece) {
  const std::unique_ptr<XXH3_state_t, decltype(&XXH3_freeState)> state(
      XXH3_createState(), XXH3_freeState);
  XXH3_64bits_reset(state.get());
  piece->resize(kPieceBytes);
  for (int64_t done = 0; done < chunk.bytes;) {
    const ssize_t n =
        pread(fd, piece->data(), std::min(kPieceBytes, chunk.bytes - done),
              chunk.begin + done);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return std::nullopt;
    XXH3_64bits_update(state.get(), piece->data(), n);
    done += n;
  }
  return XXH3_64bits_digest(state.get());
}

uint64_t HashTensor(const std::string& name, const HeaderEntry& entry,
                    absl::Span<const uint64_t> chunks) {
  std::string text = absl::StrCat(name, "\n", entry.dtype);
  for (int64_t size : entry.shape) absl::StrAppend(&text, ",", size);
  for (uint64_t chunk : chunks) absl::StrAppend(&text, "\n", chunk);
  return XXH3_64bits(text.data(), text.size());
}

absl::StatusOr<uint64_t> SumOf(const SafetensorsFile& file,
                               std::string_view prefix,
                               const FingerprintOptions& options) {
  const UniqueFd in(open(file.path().c_str(), O_RDONLY | O_CLOEXEC));
  const auto unreadable = [&] {
    return absl::DataLossError(
        absl::StrCat(file.path(), " cannot be read again; has it changed?"));
  };
  if (!in.valid() || StampOf(in.get()) != file.stamp()) return unreadable();
  std::vector<Chunk> chunks;
  std::vector<size_t> first_chunks;  // of each tensor
  for (const auto& [name, entry] : file.entries()) {
    const size_t tensor = first_chunks.size();
    first_chunks.push_back(chunks.size());
    for (int64_t at = entry.begin_bytes; at < entry.end_bytes;
         at += kChunkBytes) {
      chunks.push_back({tensor, file.data_offset() + at,
                        std::min(kChunkBytes, entry.end_bytes - at)});
    }
  }
  first_chunks.push_back(chunks.size());

  std::vector<uint64_t> hashes(chunks.size());
  std::atomic<bool> failed = false;
  ThreadPool pool(static_cast<int>(std::clamp<int64_t>(
      static_cast<int64_t>(chunks.size()), 1, options.num_threads)));
  std::vector<std::vector<std::byte>> pieces(pool.num_threads());
  pool.ParallelFor(static_cast<int64_t>(chunks.size()), 1,
                   [&](int64_t begin, int64_t end, int thread) {
                     for (int64_t i = begin; i < end; ++i) {
                       if (failed || Stopped(options)) return;
                       const auto hash =
                           HashChunk(in.get(), chunks[i], &pieces[thread]);
                       if (!hash) failed = true;
                       hashes[i] = hash.value_or(0);
                     }
                   });
  if (Stopped(options)) return StoppedError();
  if (failed || StampOf(in.get()) != file.stamp()) return unreadable();

  uint64_t sum = 0;
  size_t tensor = 0;
  for (const auto& [name, entry] : file.entries()) {
    const size_t begin = first_chunks[tensor], end = first_chunks[tensor + 1];
    sum += HashTensor(std::string(WithoutPrefix(name, prefix)), entry,
                      absl::MakeConstSpan(hashes).subspan(begin, end - begin));
    ++tensor;
  }
  return sum;
}

// ---- The cache

// A cached sum is one line: what the file was, then the sum.
std::string KeyOf(const SafetensorsFile& file) {
  const FileStamp& stamp = file.stamp();
  return absl::StrCat("h2oserve-fingerprint-1 ", stamp.device, " ", stamp.inode,
                      " ", stamp.bytes, " ", stamp.modified_ns, " ",
                      stamp.changed_ns, " ");
}

// Waits until no other process holds the lock.
absl::Status Lock(int fd, const FingerprintOptions& options) {
  while (flock(fd, LOCK_EX | LOCK_NB) != 0) {
    // Where files cannot be locked, nobody waits.
    if (errno != EWOULDBLOCK && errno != EINTR) return absl::OkStatus();
    if (Stopped(options)) return StoppedError();
    std::this_thread::sleep_for(kLockTick);
  }
  return absl::OkStatus();
}

std::optional<uint64_t> ReadCached(int fd, const std::string& key) {
  std::string line(512, '\0');
  const ssize_t n = pread(fd, line.data(), line.size(), 0);
  line.resize(std::max<ssize_t>(n, 0));
  uint64_t sum = 0;
  if (!line.starts_with(key) || !line.ends_with("\n")) return std::nullopt;
  const absl::string_view digits(line.data() + key.size(),
                                 line.size() - key.size() - 1);
  if (!absl::SimpleAtoi(digits, &sum)) return std::nullopt;
  return sum;
}

// A line without its end counts for nothing.
void WriteCached(int fd, const std::string& key, uint64_t sum) {
  const std::string line = absl::StrCat(key, sum, "\n");
  if (ftruncate(fd, 0) != 0 || pwrite(fd, line.data(), line.size(), 0) !=
                                   static_cast<ssize_t>(line.size())) {
    static_cast<void>(!ftruncate(fd, 0));
  }
}

absl::StatusOr<uint64_t> CachedSumOf(const SafetensorsFile& file,
                                     std::string_view prefix,
                                     const FingerprintOptions& options) {
  namespace fs = std::filesystem;
  if (options.cache_directory.empty()) return SumOf(file, prefix, options);
  std::error_code ignored;
  const fs::path folder = fs::path(options.cache_directory) / "fingerprints";
  fs::create_directories(folder, ignored);
  const std::string name = absl::StrCat(
      fs::absolute(file.path(), ignored).string(), "\n", std::string(prefix));
  const fs::path path =
      folder / absl::StrCat(absl::Hex(XXH3_64bits(name.data(), name.size()),
                                      absl::kZeroPad16));
  const UniqueFd cache(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644));
  // A folder that cannot be written only costs the reading.
  if (!cache.valid()) return SumOf(file, prefix, options);
  H2O_RETURN_IF_ERROR(Lock(cache.get(), options));
  const std::string key = KeyOf(file);
  if (const auto sum = ReadCached(cache.get(), key)) return *sum;
  H2O_ASSIGN_OR_RETURN(const uint64_t sum, SumOf(file, prefix, options));
  WriteCached(cache.get(), key, sum);
  return sum;
}

}  // namespace

absl::StatusOr<std::string> Fingerprint(const Checkpoint& checkpoint,
                                        const FingerprintOptions& options) {
  uint64_t sum = 0;
  for (const auto& file : checkpoint.files()) {
    H2O_ASSIGN_OR_RETURN(const uint64_t of_file,
                         CachedSumOf(*file, checkpoint.prefix(), options));
    sum += of_file;
  }
  return absl::StrCat(absl::Hex(sum, absl::kZeroPad16));
}

}  // namespace h2o
