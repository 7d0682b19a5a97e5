// Checks which names of devices are read, and how.
#include "base/device_name.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace h2o {
namespace {

TEST(DeviceName, ReadsTheNamesThereAre) {
  EXPECT_FALSE(ParseDeviceName("cpu")->cuda);
  EXPECT_TRUE(ParseDeviceName("cuda")->cuda);
  EXPECT_EQ(ParseDeviceName("cuda")->ordinal, 0);
  EXPECT_TRUE(ParseDeviceName("cuda:12")->cuda);
  EXPECT_EQ(ParseDeviceName("cuda:12")->ordinal, 12);
}

TEST(DeviceName, RefusesOthersWithTheText) {
  for (const char* text :
       {"", "CPU", "cpu:0", "gpu", "cuda:", "cuda0", "cuda:-1", "cuda:+1",
        "cuda: 1", "cuda:1x", "cuda:99999999999"}) {
    const absl::Status status = ParseDeviceName(text).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_EQ(status.message(),
              "device '" + std::string(text) +
                  "'; it must be cpu, cuda or cuda:N (0, 1, ...)");
  }
}

}  // namespace
}  // namespace h2o
