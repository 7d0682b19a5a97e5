// One collective operation: its name in messages and its tag on the wire.
#pragma once

#include <cstdint>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "base/check.h"
#include "base/dtype.h"
#include "base/hash.h"

namespace h2o {

struct Operation {
  const char* name;
  int64_t bytes;  // of the result
  uint64_t tag;   // equal on all ranks if they call the same operation

  // REQUIRES: count >= 0 and `dtype` is float32, which alone is summed in host
  // memory.
  static Operation AllReduce(int64_t count, DType dtype) {
    H2O_CHECK(count >= 0) << "count is " << count;
    H2O_CHECK(dtype == DType::kFloat32) << "sums of " << Name(dtype);
    return {"all-reduce", count * 4, (uint64_t{1} << 56) | uint64_t(count)};
  }
  // REQUIRES: `bytes` has a size for each of `ranks` ranks.
  static Operation AllGather(absl::Span<const int64_t> bytes, int ranks) {
    H2O_CHECK(static_cast<int>(bytes.size()) == ranks)
        << "sizes of " << bytes.size() << " ranks, the group has " << ranks;
    int64_t total = 0;
    Fnv1a hash;
    for (int64_t b : bytes) {
      total += b;
      hash.AddNumber(b);
    }
    return {"all-gather", total, (uint64_t{2} << 56) | (hash.value() >> 8)};
  }

  std::string ToString() const {
    return absl::StrCat(name, " of ", bytes, " bytes");
  }
};

}  // namespace h2o
