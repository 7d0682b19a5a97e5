// Fingerprints of checkpoints, and the cache of them.
#include "model/fingerprint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/file.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <future>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>

#include "tests/model/safetensors_text.h"
#include "tests/model/temp_directory.h"

namespace h2o {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using ::testing::MatchesRegex;

std::string Bytes(int n) {
  std::string bytes;
  for (int i = 0; i < n; ++i) bytes += static_cast<char>(i * 37 + 11);
  return bytes;
}

std::string WithHeader(const json& tensors, const std::string& data) {
  return SafetensorsText(tensors.dump(), data);
}

json Tensor(const json& shape, int64_t begin, int64_t end) {
  return {{"dtype", "F32"}, {"shape", shape}, {"data_offsets", {begin, end}}};
}

class FingerprintTest : public ::testing::Test {
 protected:
  absl::StatusOr<std::string> Of(const FingerprintOptions& options = {}) const {
    const auto checkpoint = Checkpoint::Open(directory_.path(), "model.");
    if (!checkpoint.ok()) return checkpoint.status();
    return Fingerprint(**checkpoint, options);
  }
  FingerprintOptions Cached() const {
    return {.num_threads = 2, .cache_directory = directory_.File("cache")};
  }
  void WriteOne(const std::string& data) const {
    directory_.Write(
        "model.safetensors",
        WithHeader({{"a", Tensor({data.size() / 4}, 0, data.size())}}, data));
  }
  // The one file of the cache.
  std::string CacheFile() const {
    for (const auto& entry :
         fs::directory_iterator(directory_.File("cache/fingerprints"))) {
      return entry.path().string();
    }
    return "";
  }
  // What a file of the cache says, with another sum.
  void SpoilCache() const {
    std::string line;
    std::ifstream in(CacheFile());
    std::getline(in, line);
    std::ofstream(CacheFile())
        << line.substr(0, line.rfind(' ')) << " " << 77 << "\n";
  }

  TempDirectory directory_;
};

TEST_F(FingerprintTest, SeesContentButNotShards) {
  const std::string a = Bytes(400), b = Bytes(8);
  const auto two = [&](const std::string& prefix, const json& a_shape) {
    return WithHeader({{prefix + "a", Tensor(a_shape, 0, 400)},
                       {prefix + "b", Tensor({2}, 400, 408)}},
                      a + b);
  };
  directory_.Write("model.safetensors", two("", {100}));
  const std::string whole = Of().value();
  EXPECT_THAT(whole, MatchesRegex("[0-9a-f]{16}"));
  // A constant: every host must compute the same.
  EXPECT_EQ(whole, "40aa1d2c35c72e03");
  directory_.Write("model.safetensors", two("model.", {100}));
  EXPECT_EQ(Of().value(), whole);
  directory_.Write("model.safetensors", two("", {10, 10}));
  EXPECT_NE(Of().value(), whole);

  fs::remove(directory_.File("model.safetensors"));
  directory_.Write("one.safetensors",
                   WithHeader({{"a", Tensor({100}, 0, 400)}}, a));
  directory_.Write("two.safetensors",
                   WithHeader({{"b", Tensor({2}, 0, 8)}}, b));
  const json index = {
      {"weight_map", {{"a", "one.safetensors"}, {"b", "two.safetensors"}}}};
  directory_.Write("model.safetensors.index.json", index.dump());
  EXPECT_EQ(Of().value(), whole);
}

// A rank with one flipped bit must not join.
TEST_F(FingerprintTest, SeesEveryBit) {
  const std::string data = Bytes(400);
  WriteOne(data);
  const std::string whole = Of().value();
  for (size_t at = 0; at < data.size(); at += 7) {
    std::string other = data;
    other[at] = static_cast<char>(other[at] ^ (1 << at % 8));
    WriteOne(other);
    EXPECT_NE(Of().value(), whole) << at;
  }
  WriteOne(data.substr(0, 396));
  EXPECT_NE(Of().value(), whole);
}

TEST_F(FingerprintTest, IsTheSameForEveryNumberOfThreads) {
  std::string data(40 << 20, 'x');  // three chunks
  for (size_t i = 0; i < data.size(); i += 4099) data[i] = static_cast<char>(i);
  WriteOne(data);
  const std::string one = Of({.num_threads = 1}).value();
  EXPECT_EQ(Of({.num_threads = 3}).value(), one);
  EXPECT_EQ(Of({.num_threads = 64}).value(), one);
}

TEST_F(FingerprintTest, IsKeptWhileTheFileIsTheSame) {
  WriteOne(Bytes(400));
  const std::string first = Of(Cached()).value();
  EXPECT_EQ(first, Of().value());
  SpoilCache();
  EXPECT_EQ(Of(Cached()).value(), "000000000000004d");  // from the cache

  // Another time of the last change, another size, another inode.
  const std::string path = directory_.File("model.safetensors");
  fs::last_write_time(path,
                      fs::last_write_time(path) + std::chrono::seconds(5));
  EXPECT_EQ(Of(Cached()).value(), first);
  SpoilCache();
  WriteOne(Bytes(800));
  EXPECT_NE(Of(Cached()).value(), first);
  WriteOne(Bytes(400));
  EXPECT_EQ(Of(Cached()).value(), first);
  SpoilCache();
  fs::copy_file(path, path + ".new");
  fs::rename(path + ".new", path);
  EXPECT_EQ(Of(Cached()).value(), first);
}

TEST_F(FingerprintTest, ATornCacheCountsForNothing) {
  WriteOne(Bytes(400));
  const std::string right = Of(Cached()).value();
  std::string line;
  {
    std::ifstream in(CacheFile());
    std::getline(in, line);
  }
  for (const std::string& text :
       {std::string(), line, line.substr(0, line.size() / 2) + "\n",
        line + "x\n", std::string(4096, 'x')}) {
    std::ofstream(CacheFile()) << text;
    EXPECT_EQ(Of(Cached()).value(), right) << text;
  }
  // A folder that cannot be made costs the reading alone.
  EXPECT_EQ(Of({.cache_directory = "/proc/none"}).value(), right);
}

TEST_F(FingerprintTest, OthersWaitForTheFirst) {
  WriteOne(Bytes(400));
  ASSERT_TRUE(Of(Cached()).ok());
  const int fd = open(CacheFile().c_str(), O_RDWR);
  ASSERT_GE(fd, 0);
  ASSERT_EQ(flock(fd, LOCK_EX), 0);
  auto waiting = std::async(std::launch::async, [&] { return Of(Cached()); });
  EXPECT_EQ(waiting.wait_for(std::chrono::milliseconds(100)),
            std::future_status::timeout);
  SpoilCache();  // what the first has written
  close(fd);
  EXPECT_EQ(waiting.get().value(), "000000000000004d");
}

TEST_F(FingerprintTest, StopsWhenItIsTold) {
  WriteOne(Bytes(400));
  std::atomic<bool> stop = true;
  FingerprintOptions options;
  options.stop = &stop;
  EXPECT_EQ(Of(options).status().code(), absl::StatusCode::kCancelled);
}

TEST_F(FingerprintTest, NoticesAFileThatChangedSinceItWasOpened) {
  WriteOne(Bytes(400));
  const auto checkpoint = Checkpoint::Open(directory_.path(), "model.");
  ASSERT_TRUE(checkpoint.ok());
  fs::remove(directory_.File("model.safetensors"));
  WriteOne(Bytes(400));
  EXPECT_EQ(Fingerprint(**checkpoint, {}).status().code(),
            absl::StatusCode::kDataLoss);
}

}  // namespace
}  // namespace h2o
