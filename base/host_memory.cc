// Keeps this rank's claims on the host's memory, and reads those of others.
#include "base/host_memory.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <map>
#include <sstream>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/entropy.h"

namespace h2o {
namespace {

constexpr std::string_view kPrefix = "h2oserve-memory-";

// What a rank needs beside what it claims: threads, messages, libraries.
constexpr int64_t kReserveBytes = 64 << 20;

// A rank that stopped in its turn must not hold up the host.
constexpr auto kLongestTurn = std::chrono::seconds(60);

std::string TextOf(const std::filesystem::path& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

// The number behind `key` in a file like /proc/meminfo, from KiB; -1: none.
int64_t BytesOf(const std::string& path, const std::string& key) {
  std::ifstream file(path);
  std::string word;
  int64_t kib = 0;
  while (file >> word) {
    if (word == key && file >> kib) return kib * 1024;
    file.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
  }
  return -1;
}

// Anonymous memory that the process has touched; 0 if it cannot be told.
int64_t TouchedBytes(const std::string& pid) {
  return std::max<int64_t>(
      BytesOf(absl::StrCat("/proc/", pid, "/status"), "RssAnon:"), 0);
}

std::string PidNamespace() {
  std::error_code error;
  return std::filesystem::read_symlink("/proc/self/ns/pid", error).string();
}

}  // namespace

int64_t FreeHostBytes(const std::vector<MemoryCharge>& charges) {
  int64_t left = BytesOf("/proc/meminfo", "MemAvailable:");
  if (left < 0) return 0;
  for (const MemoryCharge& charge : charges) left -= charge.bytes;
  left = std::min(left, ReadCgroupLimits(charges).memory_left);
  return std::max<int64_t>(left, 1);  // 0 is: unknown
}

// One file of claims.
struct HostMemory::Claims {
  std::string group, pid, pid_namespace;
  int64_t fixed_bytes = 0, pool_bytes = 0, touched_before = 0;
  std::string cgroups;  // text of its /proc/self/cgroup
};

HostMemory::HostMemory(const std::string& group, std::string folder,
                       System system)
    : folder_(std::move(folder)),
      path_(absl::StrCat(folder_, "/", std::string(kPrefix), getpid(), "-",
                         absl::Hex(RandomBits64()))),
      group_(group),
      system_(std::move(system)),
      touched_before_(TouchedBytes("self")) {
  // Under its name only once it is locked, or others would take it for that of
  // a process that is gone.
  const std::string unnamed =
      absl::StrCat(folder_, "/.", path_.substr(folder_.size() + 1));
  fd_ = open(unnamed.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  if (fd_ < 0) return;
  flock(fd_, LOCK_SH);
  Write();
  rename(unnamed.c_str(), path_.c_str());
}

HostMemory::~HostMemory() {
  if (fd_ < 0) return;
  unlink(path_.c_str());
  close(fd_);
}

void HostMemory::Claim(int64_t bytes) {
  (in_pool_ ? pool_bytes_ : fixed_bytes_) += bytes;
  Write();
}

void HostMemory::Write() const {
  if (fd_ < 0) return;
  const std::string text = absl::StrCat(
      group_, " ", getpid(), " ", PidNamespace(), " ", fixed_bytes_, " ",
      pool_bytes_, " ", touched_before_, "\n", TextOf("/proc/self/cgroup"));
  // Numbers only grow, so the text does as well; a reader that meets a torn one
  // sees an older number.
  [[maybe_unused]] const ssize_t n = pwrite(fd_, text.data(), text.size(), 0);
}

std::vector<HostMemory::Claims> HostMemory::ReadAll() const {
  std::vector<Claims> all;
  std::error_code error;
  for (const auto& entry :
       std::filesystem::directory_iterator(folder_, error)) {
    if (!entry.path().filename().string().starts_with(kPrefix)) continue;
    const int fd = open(entry.path().c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) continue;
    // Only the file of a process that is gone can be locked.
    const bool gone = flock(fd, LOCK_EX | LOCK_NB) == 0;
    if (gone) unlink(entry.path().c_str());
    close(fd);
    if (gone) continue;
    std::istringstream text(TextOf(entry.path()));
    Claims claims;
    if (text >> claims.group >> claims.pid >> claims.pid_namespace >>
        claims.fixed_bytes >> claims.pool_bytes >> claims.touched_before) {
      claims.cgroups.assign(std::istreambuf_iterator<char>(text), {});
      all.push_back(std::move(claims));
    }
  }
  return all;
}

int64_t HostMemory::FreeBytes() const {
  // Ranks that are threads of one process have a file each.
  struct Process {
    int64_t claimed = 0, touched_before = 0;
    std::string cgroups;
  };
  std::map<std::pair<std::string, std::string>, Process> processes;
  for (const Claims& claims : ReadAll()) {
    const auto [at, is_new] =
        processes.try_emplace({claims.pid_namespace, claims.pid});
    Process& process = at->second;
    process.claimed += claims.fixed_bytes + claims.pool_bytes;
    process.touched_before =
        is_new ? claims.touched_before
               : std::min(process.touched_before, claims.touched_before);
    process.cgroups = claims.cgroups;
  }
  std::vector<MemoryCharge> charges;
  const std::string mine = PidNamespace();
  for (const auto& [key, process] : processes) {
    const auto& [pid_namespace, pid] = key;
    const int64_t touched =
        pid_namespace == mine
            ? std::max<int64_t>(TouchedBytes(pid) - process.touched_before, 0)
            : 0;
    charges.push_back(
        {process.cgroups, std::max<int64_t>(process.claimed - touched, 0)});
  }
  return system_(charges);
}

int64_t HostMemory::PoolBytes(double share, int ranks) const {
  int64_t free = FreeBytes();
  // What peers' pools have taken belongs to what is shared out; what peers
  // will still load does not.
  int64_t peers_pools = 0;
  int64_t to_come = int64_t{ranks - 1} * fixed_bytes_;
  for (const Claims& claims : ReadAll()) {
    if (claims.group != group_) continue;
    peers_pools += claims.pool_bytes;
    to_come -= std::min(claims.fixed_bytes, fixed_bytes_);
  }
  to_come += fixed_bytes_;  // this rank's own file
  free -= std::max<int64_t>(to_come, 0);
  free -= std::min(ranks * kReserveBytes, free / 8);
  const auto bytes = static_cast<int64_t>(
      static_cast<double>(free + peers_pools) * share / ranks);
  return std::max<int64_t>(std::min(bytes, free), 0);
}

HostMemory::Turn::Turn(const std::string& folder)
    : fd_(open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)) {
  const auto deadline = std::chrono::steady_clock::now() + kLongestTurn;
  while (fd_ >= 0 && flock(fd_, LOCK_EX | LOCK_NB) != 0 &&
         std::chrono::steady_clock::now() < deadline) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
}

HostMemory::Turn::~Turn() {
  if (fd_ >= 0) close(fd_);
}

}  // namespace h2o
