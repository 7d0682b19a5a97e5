// Which workers form a group.
#include "coordinator/member_choice.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace h2o {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

const WaitingWorker kCpuA = {"cpu", "a"}, kCpuB = {"cpu", "b"},
                    kGpuA = {"cuda:0", "a"}, kGpu1A = {"cuda:1", "a"};

TEST(MemberChoice, TooFewWait) {
  EXPECT_THAT(ChooseMembers({}, 1), IsEmpty());
  EXPECT_THAT(ChooseMembers({kCpuA}, 2), IsEmpty());
}

TEST(MemberChoice, TheLongestWaitingComeFirst) {
  EXPECT_THAT(ChooseMembers({kCpuA, kCpuA, kCpuA}, 2), ElementsAre(0, 1));
}

TEST(MemberChoice, DevicesAreOfOneKind) {
  EXPECT_THAT(ChooseMembers({kCpuA, kGpuA}, 2), IsEmpty());
  EXPECT_THAT(ChooseMembers({kCpuA, kGpuA, kGpu1A}, 2), ElementsAre(1, 2));
}

TEST(MemberChoice, OneHostIfItHasEnough) {
  EXPECT_THAT(ChooseMembers({kCpuA, kCpuB, kCpuB}, 2), ElementsAre(1, 2));
  EXPECT_THAT(ChooseMembers({kCpuB, kCpuA}, 2), ElementsAre(1, 0));
  EXPECT_THAT(ChooseMembers({kCpuA, kCpuB, kCpuA}, 3), ElementsAre(0, 2, 1));
}

}  // namespace
}  // namespace h2o
