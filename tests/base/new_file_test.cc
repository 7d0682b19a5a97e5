// Files appear complete or not at all.
#include "base/new_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include "tests/model/temp_directory.h"

namespace h2o {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class NewFiles : public ::testing::Test {
 protected:
  std::string Path(const char* name) const { return folder_ / name; }
  size_t NumFiles() const {
    return std::distance(fs::directory_iterator(folder_), {});
  }

  const TempDirectory directory_;
  const fs::path folder_ = directory_.path();
};

std::string Read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

TEST_F(NewFiles, AppearWhenTheyAreComplete) {
  std::ofstream(Path("a")) << "old";
  NewFile file = NewFile::Create(Path("a")).value();
  const std::string large(3 << 20, 'x');
  file.Append("new");
  file.Append(large);
  EXPECT_EQ(Read(Path("a")), "old");
  ASSERT_TRUE(file.Commit().ok());
  EXPECT_FALSE(file.is_open());
  EXPECT_EQ(Read(Path("a")), "new" + large);
  EXPECT_EQ(NumFiles(), 1u);
}

TEST_F(NewFiles, WithoutACommitNothingIsLeft) {
  std::ofstream(Path("a")) << "old";
  {
    NewFile file = NewFile::Create(Path("a")).value();
    NewFile other = NewFile::Create(Path("b")).value();
    file.Append("new");
    other = std::move(file);
  }
  EXPECT_EQ(Read(Path("a")), "old");
  EXPECT_EQ(NumFiles(), 1u);
}

TEST_F(NewFiles, NothingIsLeftWhenTheProgramIsKilled) {
  const pid_t child = fork();
  if (child == 0) {
    absl::StatusOr<NewFile> file = NewFile::Create(Path("a"));
    file->Append(std::string(3 << 20, 'x'));
    raise(SIGKILL);
  }
  waitpid(child, nullptr, 0);
  // A file system without O_TMPFILE has the name that it had meanwhile.
  for (const auto& left : fs::directory_iterator(folder_)) {
    EXPECT_THAT(left.path().string(), ::testing::EndsWith(".part"));
  }
  EXPECT_FALSE(fs::exists(Path("a")));
}

TEST_F(NewFiles, APathWithoutAFolderIsInThisOne) {
  const fs::path before = fs::current_path();
  fs::current_path(folder_);
  NewFile file = NewFile::Create("a").value();
  file.Append("new");
  EXPECT_TRUE(file.Commit().ok());
  fs::current_path(before);
  EXPECT_EQ(Read(Path("a")), "new");
  EXPECT_EQ(NumFiles(), 1u);
}

TEST_F(NewFiles, ADiskThatIsFullLeavesNothing) {
  // A limit of the file's size is a disk that becomes full.
  signal(SIGXFSZ, SIG_IGN);
  rlimit before;
  getrlimit(RLIMIT_FSIZE, &before);
  const rlimit small = {1 << 20, before.rlim_max};
  NewFile file = NewFile::Create(Path("a")).value();
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  for (int i = 0; i < 4; ++i) file.Append(std::string(1 << 20, 'x'));
  const absl::Status status = file.Commit();
  setrlimit(RLIMIT_FSIZE, &before);
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(status.message(), HasSubstr(Path("a") + ": File too large"));
  EXPECT_EQ(NumFiles(), 0u);
}

TEST_F(NewFiles, DevicesAreWrittenDirectly) {
  NewFile null = NewFile::Create("/dev/null").value();
  null.Append("x");
  EXPECT_TRUE(null.Commit().ok());
  EXPECT_TRUE(fs::is_character_file("/dev/null"));
  NewFile full = NewFile::Create("/dev/full").value();
  full.Append("x");
  EXPECT_THAT(full.Commit().message(),
              HasSubstr("/dev/full: No space left on device"));
}

TEST_F(NewFiles, LinksStayLinks) {
  std::ofstream(Path("target")) << "old";
  fs::create_symlink("target", Path("link"));
  NewFile file = NewFile::Create(Path("link")).value();
  file.Append("new");
  ASSERT_TRUE(file.Commit().ok());
  EXPECT_TRUE(fs::is_symlink(Path("link")));
  EXPECT_EQ(Read(Path("target")), "new");
}

TEST_F(NewFiles, APathThatCannotBeWrittenIsNamed) {
  const absl::Status status = NewFile::Create("/no/such/folder/a").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kPermissionDenied);
  EXPECT_THAT(status.message(),
              HasSubstr("/no/such/folder/a: No such file or directory"));
}

}  // namespace
}  // namespace h2o
