// Which servers are reached without a proxy.
#include "proto/channel.h"

#include <gtest/gtest.h>

namespace h2o {
namespace {

TEST(GoesDirect, NeverThroughAProxyToThisHost) {
  for (const char* server :
       {"localhost:1", "LocalHost:1", "a.localhost:1", "127.0.0.1:1",
        "127.8.9.10:1", "[::1]:1", "[::ffff:127.0.0.1]:1"}) {
    EXPECT_TRUE(GoesDirect(server, "")) << server;
  }
  for (const char* server :
       {"128.0.0.1:1", "localhost.example.com:1", "notlocalhost:1", "[::2]:1",
        "127.example.com:1", "example.com:1"}) {
    EXPECT_FALSE(GoesDirect(server, "")) << server;
  }
}

TEST(GoesDirect, HonoursNoProxy) {
  const std::string list = "10.0.0.7, Example.com,.internal ,host:90,,";
  for (const char* server :
       {"10.0.0.7:1", "example.com:1", "EXAMPLE.COM:1", "a.b.example.com:1",
        "x.internal:1", "internal:1", "host:90"}) {
    EXPECT_TRUE(GoesDirect(server, list)) << server;
  }
  for (const char* server : {"10.0.0.70:1", "110.0.0.7:1", "notexample.com:1",
                             "example.com.org:1", "host:91", "other:1"}) {
    EXPECT_FALSE(GoesDirect(server, list)) << server;
  }
  EXPECT_TRUE(GoesDirect("other:1", "a, *"));
}

}  // namespace
}  // namespace h2o
