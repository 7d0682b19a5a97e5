// Keeps the keys of a file that may be replaced at any time.
#include "access/keys.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status_macros.h"

namespace h2o {

absl::StatusOr<std::unique_ptr<Keys>> Keys::Load(const std::string& path,
                                                 double look_again_seconds) {
  FileWatch::Contents contents = FileWatch::Read({path});
  H2O_RETURN_IF_ERROR(contents[0].status());
  absl::StatusOr<KeyTable> table = ParseKeyTable(*contents[0]);
  if (!table.ok()) {
    return absl::Status(table.status().code(),
                        absl::StrCat(path, ": ", table.status().message()));
  }
  std::unique_ptr<Keys> keys(new Keys(path));
  keys->Use(*std::move(table));
  keys->watch_ = std::make_unique<FileWatch>(
      std::vector<std::string>{path}, std::move(contents),
      [keys = keys.get()](const FileWatch::Contents& now) {
        keys->Replace(now[0]);
      },
      look_again_seconds);
  return keys;
}

TenantRow Keys::Find(std::string_view key) const {
  std::unique_lock lock(mutex_);
  const std::shared_ptr<const KeyTable> table = table_;
  lock.unlock();
  return table->Find(key);
}

void Keys::Replace(const absl::StatusOr<std::string>& text) {
  absl::StatusOr<KeyTable> table =
      text.ok() ? ParseKeyTable(*text) : text.status();
  if (!table.ok()) {
    H2O_LOG(LogLevel::kError)
        << "key file " << path_ << ": " << table.status().message()
        << "; the old keys stay in force";
    return;
  }
  H2O_LOG() << "key file " << path_ << " has changed: " << table->rows.size()
            << " keys";
  Use(*std::move(table));
}

void Keys::Use(KeyTable table) {
  auto next = std::make_shared<const KeyTable>(std::move(table));
  std::lock_guard lock(mutex_);
  table_ = std::move(next);
}

}  // namespace h2o
