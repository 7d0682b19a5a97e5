// Tests which headers count as a traceparent.
#include "base/traceparent.h"

#include <gtest/gtest.h>

#include <string>

namespace h2o {
namespace {

constexpr char kGood[] =
    "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

TEST(Traceparent, OfTheStandardsShape) {
  EXPECT_TRUE(IsTraceparent(kGood));
  EXPECT_EQ(TraceIdOf(kGood), "4bf92f3577b34da6a3ce929d0e0e4736");
}

TEST(Traceparent, OthersAreNone) {
  EXPECT_FALSE(IsTraceparent(""));
  EXPECT_FALSE(IsTraceparent(std::string(kGood) + "-x"));
  EXPECT_FALSE(IsTraceparent("01" + std::string(kGood).substr(2)));
  std::string upper = kGood;
  upper[5] = 'F';
  EXPECT_FALSE(IsTraceparent(upper));
  EXPECT_FALSE(IsTraceparent("00-" + std::string(32, '0') +
                             "-00f067aa0ba902b7-01"));
  EXPECT_FALSE(IsTraceparent("00-4bf92f3577b34da6a3ce929d0e0e4736-" +
                             std::string(16, '0') + "-01"));
}

}  // namespace
}  // namespace h2o
