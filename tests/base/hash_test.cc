// Checks FNV-1a against values that its authors publish.
#include "base/hash.h"

#include <gtest/gtest.h>

namespace h2o {
namespace {

TEST(Fnv1a, EqualsPublishedValues) {
  EXPECT_EQ(Fnv1a().value(), 0xcbf29ce484222325u);
  EXPECT_EQ(Fnv1a().AddBytes("a", 1).value(), 0xaf63dc4c8601ec8cu);
  EXPECT_EQ(Fnv1a().AddBytes("foobar", 6).value(), 0x85944171f73967e8u);
  EXPECT_EQ(Fnv1a().AddBytes("foobar", 6).Hex(), "85944171f73967e8");
}

TEST(Fnv1a, NumbersAreEightBytesLowestFirst) {
  EXPECT_EQ(Fnv1a().AddNumber(0x0102030405060708).value(),
            Fnv1a().AddBytes("\x08\x07\x06\x05\x04\x03\x02\x01", 8).value());
}

TEST(Fnv1a, TextsKeepTheirBounds) {
  EXPECT_NE(Fnv1a().AddText("ab").AddText("c").value(),
            Fnv1a().AddText("a").AddText("bc").value());
}

}  // namespace
}  // namespace h2o
