// Makes a directory beside its place and renames it when it is complete.
#include "base/new_directory.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/entropy.h"

namespace h2o {
namespace {

namespace fs = std::filesystem;

// Absolute, without a slash at its end.
fs::path PlaceOf(const std::string& path) {
  std::error_code ignored;
  const fs::path absolute = fs::absolute(path, ignored);
  fs::path place = fs::weakly_canonical(absolute, ignored);
  if (place.empty()) place = absolute;
  return place.has_filename() ? place : place.parent_path();
}

// Forces the names in a directory to disk, where it can be.
void SyncDirectory(const fs::path& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return;
  fsync(fd);
  close(fd);
}

}  // namespace

absl::StatusOr<NewDirectory> NewDirectory::Create(const std::string& path) {
  NewDirectory made;
  made.place_ = PlaceOf(path).string();
  std::error_code error;
  if (fs::exists(made.place_, error)) {
    if (!fs::is_directory(made.place_, error)) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, " is there and no directory"));
    }
    if (!fs::is_empty(made.place_, error)) {
      return absl::InvalidArgumentError(absl::StrCat(
          path, " is there and not empty; name a directory that is new"));
    }
  }
  const std::string beside =
      absl::StrCat(made.place_, ".", absl::Hex(RandomBits64()), ".part");
  fs::create_directories(fs::path(beside).parent_path(), error);
  if (!error) fs::create_directory(beside, error);
  if (error) {
    return absl::PermissionDeniedError(
        absl::StrCat("cannot make ", path, ": ", error.message()));
  }
  made.beside_ = beside;
  return made;
}

NewDirectory::NewDirectory(NewDirectory&& other) noexcept
    : place_(std::move(other.place_)),
      beside_(std::exchange(other.beside_, {})) {}

NewDirectory::~NewDirectory() {
  std::error_code ignored;
  if (!beside_.empty()) fs::remove_all(beside_, ignored);
}

absl::Status NewDirectory::Commit() {
  SyncDirectory(beside_);
  // Takes the place of an empty directory, too.
  if (std::rename(beside_.c_str(), place_.c_str()) != 0) {
    return absl::DataLossError(
        absl::StrCat("cannot make ", place_, ": ", std::strerror(errno)));
  }
  beside_.clear();
  SyncDirectory(fs::path(place_).parent_path());
  return absl::OkStatus();
}

}  // namespace h2o
