// Directories appear complete or not at all.
#include "base/new_directory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <iterator>
#include <string>
#include <utility>

#include "tests/model/temp_directory.h"

namespace h2o {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class NewDirectories : public ::testing::Test {
 protected:
  size_t NumEntries() const {
    return std::distance(fs::directory_iterator(folder_.path()), {});
  }

  const TempDirectory folder_;
};

TEST_F(NewDirectories, AppearWhenTheyAreComplete) {
  const std::string place = folder_.File("a/b/");
  NewDirectory made = NewDirectory::Create(place).value();
  EXPECT_FALSE(fs::exists(place));
  fs::create_directory(made.path() + "/inner");
  ASSERT_TRUE(made.Commit().ok());
  EXPECT_TRUE(fs::exists(place + "inner"));
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_.File("a")), {}), 1);
}

TEST_F(NewDirectories, LeaveNothingBehindOtherwise) {
  {
    NewDirectory made = NewDirectory::Create(folder_.File("a")).value();
    const NewDirectory moved = std::move(made);
    fs::create_directory(moved.path() + "/inner");
    EXPECT_EQ(NumEntries(), 1);
  }
  EXPECT_EQ(NumEntries(), 0);
}

TEST_F(NewDirectories, TakeThePlaceOfEmptyOnes) {
  fs::create_directory(folder_.File("a"));
  NewDirectory made = NewDirectory::Create(folder_.File("a")).value();
  fs::create_directory(made.path() + "/inner");
  ASSERT_TRUE(made.Commit().ok());
  EXPECT_TRUE(fs::exists(folder_.File("a") + "/inner"));
}

TEST_F(NewDirectories, DoNotTakeThePlaceOfOthers) {
  folder_.Write("file", "x");
  fs::create_directory(folder_.File("a"));
  folder_.Write("a/file", "x");
  EXPECT_THAT(
      std::string(
          NewDirectory::Create(folder_.File("file")).status().message()),
      HasSubstr("is there and no directory"));
  EXPECT_THAT(
      std::string(NewDirectory::Create(folder_.File("a")).status().message()),
      HasSubstr("is there and not empty"));
  EXPECT_FALSE(NewDirectory::Create(folder_.File("file/b")).ok());
  // Somebody else came first.
  NewDirectory made = NewDirectory::Create(folder_.File("b")).value();
  fs::create_directory(folder_.File("b"));
  folder_.Write("b/file", "x");
  EXPECT_FALSE(made.Commit().ok());
}

}  // namespace
}  // namespace h2o
