// Addresses that can be read, and others.
#include "base/host_port.h"

#include <gtest/gtest.h>

namespace h2o {
namespace {

TEST(HostPort, ComesBackAsItWas) {
  for (const char* text :
       {"10.0.0.1:4000", "name:0", "[::1]:65535", "a-b.c:50051", "[::]:0"}) {
    const auto parsed = ParseHostPort(text);
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    EXPECT_EQ(parsed->ToString(), text);
  }
  EXPECT_EQ(ParseHostPort("[::1]:7").value(), (HostPort{"::1", 7}));
}

TEST(HostPort, AnythingElseIsRefused) {
  for (const char* text : {"", ":", "nowhere", ":4000", "a:", "a:b", "a:65536",
                           "a:-1", "::1:4000", "[]:4000", "[::1]", "[:4000"}) {
    EXPECT_EQ(ParseHostPort(text).status().code(),
              absl::StatusCode::kInvalidArgument)
        << text;
  }
}

}  // namespace
}  // namespace h2o
