// Tests that keys follow their file, and that a broken file changes nothing.
#include "access/keys.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <chrono>
#include <filesystem>
#include <functional>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "tests/model/temp_directory.h"

namespace h2o {
namespace {

bool Becomes(const std::function<bool()>& condition) {
  for (int i = 0; i < 1000; ++i) {
    if (condition()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return false;
}

std::string FileOf(const std::string& key) {
  return absl::StrCat(R"({"keys": [)", KeyRowJson(key, {.name = "a"}), "]}");
}

constexpr double kOften = 0.01;

TEST(KeysTest, FollowTheFile) {
  const TempDirectory folder;
  const std::string path = folder.Write("keys.json", FileOf("one"));
  const auto keys = Keys::Load(path, kOften);
  ASSERT_TRUE(keys.ok()) << keys.status();
  EXPECT_NE((*keys)->Find("one"), nullptr);
  folder.Write("keys.json", FileOf("two"));
  EXPECT_TRUE(Becomes([&] { return (*keys)->Find("two") != nullptr; }));
  EXPECT_EQ((*keys)->Find("one"), nullptr);
  // A rename, as tools and Kubernetes replace files.
  std::filesystem::rename(folder.Write("next", FileOf("three")), path);
  EXPECT_TRUE(Becomes([&] { return (*keys)->Find("three") != nullptr; }));
}

TEST(KeysTest, ATornOrMissingFileKeepsTheOldKeys) {
  const TempDirectory folder;
  const std::string path = folder.Write("keys.json", FileOf("one"));
  const auto keys = Keys::Load(path, kOften);
  ASSERT_TRUE(keys.ok());
  testing::internal::CaptureStderr();
  folder.Write("keys.json", FileOf("two").substr(0, 50));
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  EXPECT_NE((*keys)->Find("one"), nullptr);
  std::filesystem::remove(path);
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  EXPECT_NE((*keys)->Find("one"), nullptr);
  EXPECT_EQ((*keys)->Find("two"), nullptr);
  folder.Write("keys.json", FileOf("two"));
  EXPECT_TRUE(Becomes([&] { return (*keys)->Find("two") != nullptr; }));
  testing::internal::GetCapturedStderr();
}

TEST(KeysTest, APipeThatNobodyWritesToHoldsNothing) {
  const TempDirectory folder;
  const std::string path = folder.Write("keys.json", FileOf("one"));
  auto keys = Keys::Load(path, kOften);
  ASSERT_TRUE(keys.ok());
  testing::internal::CaptureStderr();
  std::filesystem::remove(path);
  ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  EXPECT_NE((*keys)->Find("one"), nullptr);
  std::filesystem::remove(path);
  folder.Write("keys.json", FileOf("two"));
  EXPECT_TRUE(Becomes([&] { return (*keys)->Find("two") != nullptr; }));
  testing::internal::GetCapturedStderr();
}

TEST(KeysTest, ABadFileAtTheStartIsRefused) {
  const TempDirectory folder;
  for (const std::string& path :
       {folder.File("none"), folder.Write("bad", "{"), folder.path()}) {
    const absl::Status status = Keys::Load(path).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr(path));
  }
}

}  // namespace
}  // namespace h2o
