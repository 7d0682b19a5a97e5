// What the control groups of this process allow it: the limits of a pod of
// Kubernetes, of a Slurm job, of a systemd service.  Both versions of cgroups
// (https://docs.kernel.org/admin-guide/cgroup-v2.html, .../cgroup-v1/).
#pragma once

#include <cstdint>
#include <limits>
#include <string>

namespace h2o {

struct CgroupLimits {
  // Bytes that may still be taken; what only caches files counts as free.
  int64_t memory_left = std::numeric_limits<int64_t>::max();
  // Processor time in a second, in seconds.
  double cores = std::numeric_limits<double>::infinity();
};

// The least of this process's group and of those it lies in.  What cannot be
// read limits nothing.  `groups` tells which they are, `root` is where the file
// system of groups is mounted.
CgroupLimits ReadCgroupLimits(const std::string& groups = "/proc/self/cgroup",
                              const std::string& root = "/sys/fs/cgroup");

}  // namespace h2o
