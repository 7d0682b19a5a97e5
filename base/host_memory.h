// The memory of this host, shared by ranks that take theirs before they touch
// it.
//
// Linux gives out memory when it is touched, so what a rank has allocated and
// not used still looks free to the next one.  Every rank therefore keeps a file
// of its claims in a folder that all processes of the host see.  What is free
// is what the system says (/proc/meminfo, control groups), less what others,
// and this process, have claimed and not touched.  The lock of the file tells
// whether its process lives.
//
// Processes of another PID namespace count as if they had touched nothing.  If
// the folder cannot be written, only the system's numbers count.
//
// Threads  not thread-safe; each rank has its own.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/cgroup.h"

namespace h2o {

// Where the ranks of a host keep their claims.
inline constexpr char kClaimsFolder[] = "/dev/shm";

// Bytes that this process could still take by the system's numbers and its
// control groups, less `charges`; 0 if unknown.
int64_t FreeHostBytes(const std::vector<MemoryCharge>& charges);

class HostMemory {
 public:
  // What the system could still give, less what is charged.
  using System = std::function<int64_t(const std::vector<MemoryCharge>&)>;

  // `group` is the same for ranks that share out one amount of memory, and for
  // no others.
  explicit HostMemory(const std::string& group,
                      std::string folder = kClaimsFolder,
                      System system = FreeHostBytes);
  ~HostMemory();
  HostMemory(const HostMemory&) = delete;
  HostMemory& operator=(const HostMemory&) = delete;

  // Adds to what this rank has taken.  From StartPool on claims are of its KV
  // pool.
  void Claim(int64_t bytes);
  void StartPool() { in_pool_ = true; }

  // What this process could still take; 0 if unknown.
  int64_t FreeBytes() const;

  // Of the pools of this group's ranks, this one's share: `share` of what is
  // free, divided by `ranks`.  Ranks that have their pool already, and those
  // that have not even loaded their weights, are thought of.
  int64_t PoolBytes(double share, int ranks) const;

  // Held by the one rank of the host that measures and claims.
  class Turn {
   public:
    explicit Turn(const std::string& folder = kClaimsFolder);
    ~Turn();
    Turn(const Turn&) = delete;
    Turn& operator=(const Turn&) = delete;

   private:
    int fd_;
  };

 private:
  struct Claims;
  void Write() const;
  std::vector<Claims> ReadAll() const;

  const std::string folder_, path_;
  const std::string group_;
  const System system_;
  const int64_t touched_before_;  // by this process, when this was made
  int fd_ = -1;
  bool in_pool_ = false;
  int64_t fixed_bytes_ = 0, pool_bytes_ = 0;
};

}  // namespace h2o
