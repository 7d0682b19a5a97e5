// The limits of memory and CPU time that this process's control groups set: of
// a Kubernetes pod, a Slurm job, a systemd service.  Both versions of cgroups
// (https://docs.kernel.org/admin-guide/cgroup-v2.html, .../cgroup-v1/).
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

namespace h2o {

// Memory that a process has claimed and not touched, so that no group counts it
// yet.
struct MemoryCharge {
  std::string cgroups;  // the text of the process's /proc/PID/cgroup
  int64_t bytes = 0;
};

struct CgroupLimits {
  // Bytes that may still be allocated; the file cache counts as free.
  int64_t memory_left = std::numeric_limits<int64_t>::max();
  // Processor time in a second, in seconds.
  double cores = std::numeric_limits<double>::infinity();
};

// The tightest limits of this process's group and of its parent groups.  A
// limit that cannot be read is ignored.  A charge counts in the groups in which
// its process is.  `groups` is the file that names our groups; `root` is where
// the cgroup file system is mounted.
CgroupLimits ReadCgroupLimits(const std::vector<MemoryCharge>& charges = {},
                              const std::string& groups = "/proc/self/cgroup",
                              const std::string& root = "/sys/fs/cgroup");

}  // namespace h2o
