// Files that may be replaced while the program runs.  They are read again every
// second and compared by content: so symbolic links that are swapped
// (Kubernetes), renames and files of equal age are all noticed.
#pragma once

#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "base/monitor.h"

namespace h2o {

// Threads  one of its own reads and calls `on_change`.
class FileWatch {
 public:
  // What each file holds, or why it cannot be read.
  using Contents = std::vector<absl::StatusOr<std::string>>;
  using OnChange = std::function<void(const Contents&)>;

  static Contents Read(const std::vector<std::string>& paths);

  // `seen`: the contents that are known already.
  FileWatch(std::vector<std::string> paths, Contents seen, OnChange on_change,
            double interval_seconds = 1);
  // `on_change` does not run any more when it returns.
  ~FileWatch();

 private:
  void Run();

  const std::vector<std::string> paths_;
  Contents seen_;  // of the thread
  const OnChange on_change_;
  const double interval_seconds_;
  Monitor monitor_;
  bool stop_ = false;  // guarded by monitor_
  std::thread thread_;
};

}  // namespace h2o
