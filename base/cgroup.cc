// Reads the limits of this process's control group, in cgroups 1 and 2.
#include "base/cgroup.h"

#include <algorithm>
#include <fstream>
#include <istream>
#include <optional>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace h2o {
namespace {

// How a version names its files.
struct MemoryFiles {
  const char *limit, *usage, *inactive, *active;
};
constexpr MemoryFiles kMemory2 = {"memory.max", "memory.current",
                                  "inactive_file", "active_file"};
constexpr MemoryFiles kMemory1 = {"memory.limit_in_bytes",
                                  "memory.usage_in_bytes",
                                  "total_inactive_file", "total_active_file"};

std::vector<std::string> WordsOf(const std::string& path) {
  std::ifstream file(path);
  std::vector<std::string> words;
  for (std::string word; file >> word;) words.push_back(word);
  return words;
}

// The file's number at `place`; none for "max", and where there is none.
std::optional<int64_t> NumberIn(const std::string& path, size_t place = 0) {
  const std::vector<std::string> words = WordsOf(path);
  int64_t number = 0;
  if (place >= words.size() || !absl::SimpleAtoi(words[place], &number)) {
    return std::nullopt;
  }
  return number;
}

// The value behind `key` in a file of keys and values.
int64_t ValueOf(const std::vector<std::string>& words, std::string_view key) {
  const auto at = std::find(words.begin(), words.end(), key);
  int64_t value = 0;
  if (at == words.end() || at + 1 == words.end() ||
      !absl::SimpleAtoi(*(at + 1), &value)) {
    return 0;
  }
  return value;
}

// One group: its folder, and what is charged to processes in it.
struct Group {
  std::string folder;
  int64_t charged = 0;
};

void LimitMemory(const Group& of, const MemoryFiles& files,
                 CgroupLimits* limits) {
  const std::string& group = of.folder;
  const auto limit = NumberIn(absl::StrCat(group, "/", files.limit));
  const auto usage = NumberIn(absl::StrCat(group, "/", files.usage));
  if (!limit || !usage) return;
  const auto stat = WordsOf(absl::StrCat(group, "/memory.stat"));
  const int64_t cached =
      ValueOf(stat, files.inactive) + ValueOf(stat, files.active);
  const int64_t used = std::max<int64_t>(*usage - cached, 0) + of.charged;
  limits->memory_left =
      std::min(limits->memory_left, std::max<int64_t>(*limit - used, 0));
}

void LimitCores(std::optional<int64_t> quota, std::optional<int64_t> period,
                CgroupLimits* limits) {
  if (!quota || !period || *quota <= 0 || *period <= 0) return;
  limits->cores = std::min(limits->cores, static_cast<double>(*quota) /
                                              static_cast<double>(*period));
}

void LimitByVersion2(const Group& group, CgroupLimits* limits) {
  LimitMemory(group, kMemory2, limits);
  const std::string cpu = absl::StrCat(group.folder, "/cpu.max");
  LimitCores(NumberIn(cpu, 0), NumberIn(cpu, 1), limits);
}

// A group of another controller has none of these files and limits nothing.
void LimitByVersion1(const Group& group, CgroupLimits* limits) {
  LimitMemory(group, kMemory1, limits);
  LimitCores(NumberIn(absl::StrCat(group.folder, "/cpu.cfs_quota_us")),
             NumberIn(absl::StrCat(group.folder, "/cpu.cfs_period_us")),
             limits);
}

// A process's group in one hierarchy, as /proc/PID/cgroup has it: "0::/path" in
// version 2, "4:cpu,cpuacct:/path" in version 1.
struct Membership {
  std::string controllers;  // empty: version 2
  std::string path;
};
std::vector<Membership> MembershipsOf(std::istream& text) {
  std::vector<Membership> all;
  for (std::string line; std::getline(text, line);) {
    const std::vector<std::string> parts =
        absl::StrSplit(line, absl::MaxSplits(':', 2));
    if (parts.size() == 3 && parts[2].starts_with('/')) {
      all.push_back({parts[1], parts[2] == "/" ? "" : parts[2]});
    }
  }
  return all;
}

// Bytes of the charges whose processes are in the group or below it.
int64_t ChargedIn(const Membership& group,
                  const std::vector<MemoryCharge>& charges) {
  int64_t bytes = 0;
  for (const MemoryCharge& charge : charges) {
    std::istringstream text(charge.cgroups);
    for (const Membership& of : MembershipsOf(text)) {
      if (of.controllers == group.controllers &&
          absl::StartsWith(of.path + "/", group.path + "/")) {
        bytes += charge.bytes;
      }
    }
  }
  return bytes;
}

// Applies the limits of `group` below `mount` and of all its parents, up to the
// mount itself.  In a container the mount is the container's own group, whatever
// the path says.
void LimitByGroupAndParents(const std::string& mount, Membership group,
                            const std::vector<MemoryCharge>& charges,
                            CgroupLimits* limits) {
  const auto limit =
      group.controllers.empty() ? LimitByVersion2 : LimitByVersion1;
  while (true) {
    limit({mount + group.path, ChargedIn(group, charges)}, limits);
    if (group.path.empty()) return;
    group.path.resize(group.path.rfind('/'));
  }
}

}  // namespace

CgroupLimits ReadCgroupLimits(const std::vector<MemoryCharge>& charges,
                              const std::string& groups,
                              const std::string& root) {
  CgroupLimits limits;
  std::ifstream file(groups);
  for (const Membership& group : MembershipsOf(file)) {
    LimitByGroupAndParents(group.controllers.empty()
                               ? root
                               : absl::StrCat(root, "/", group.controllers),
                           group, charges, &limits);
  }
  return limits;
}

}  // namespace h2o
