// The id of the wire is the same whenever it is asked for.
#include "proto/wire_id.h"

#include <gtest/gtest.h>

namespace h2o {
namespace {

TEST(WireIdTest, IsStable) {
  EXPECT_EQ(WireId(), WireId());
  EXPECT_EQ(WireId().size(), 16);
}

}  // namespace
}  // namespace h2o
