// Runs a kernel test on every instruction set that this machine can run, not
// only the one it would pick.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <vector>

#include "hwy/highway.h"

namespace h2o {

// The targets kernels/CMakeLists.txt builds for and this machine has.
inline std::vector<int64_t> RunnableTargets() {
  std::vector<int64_t> targets;
  const int64_t supported = hwy::SupportedTargets();
  for (const int64_t target : {HWY_AVX3, HWY_AVX2, HWY_EMU128}) {
    if (target == HWY_EMU128 || (supported & target) != 0) {
      targets.push_back(target);
    }
  }
  return targets;
}

class EachTarget : public ::testing::TestWithParam<int64_t> {
 protected:
  void SetUp() override { hwy::SetSupportedTargetsForTest(GetParam()); }
  void TearDown() override { hwy::SetSupportedTargetsForTest(0); }
};

inline std::string TargetParamName(
    const ::testing::TestParamInfo<int64_t>& info) {
  return hwy::TargetName(info.param);
}

#define H2O_INSTANTIATE_EACH_TARGET(suite) \
  INSTANTIATE_TEST_SUITE_P(                \
      Targets, suite, ::testing::ValuesIn(RunnableTargets()), TargetParamName)

}  // namespace h2o
