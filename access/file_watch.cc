// Reads files again and again, and tells when they hold something else.
#include "access/file_watch.h"

#include <utility>

#include "access/small_file.h"

namespace h2o {

FileWatch::Contents FileWatch::Read(const std::vector<std::string>& paths) {
  Contents contents;
  for (const std::string& path : paths) {
    contents.push_back(ReadSmallFile(path));
  }
  return contents;
}

FileWatch::FileWatch(std::vector<std::string> paths, Contents seen,
                     OnChange on_change, double interval_seconds)
    : paths_(std::move(paths)),
      seen_(std::move(seen)),
      on_change_(std::move(on_change)),
      interval_seconds_(interval_seconds),
      thread_([this] { Run(); }) {}

FileWatch::~FileWatch() {
  {
    Monitor::Lock lock(monitor_);
    stop_ = true;
  }
  thread_.join();
}

void FileWatch::Run() {
  while (true) {
    {
      Monitor::Lock lock(monitor_);
      if (lock.AwaitFor(interval_seconds_, [this] { return stop_; })) return;
    }
    Contents now = Read(paths_);
    if (now == seen_) continue;
    seen_ = std::move(now);
    on_change_(seen_);
  }
}

}  // namespace h2o
