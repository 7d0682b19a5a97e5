// What one collective operation is called, in messages and on the wire.
#pragma once

#include <cstdint>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "base/hash.h"

namespace h2o {

struct Operation {
  const char* name;
  int64_t bytes;  // of the result
  uint64_t tag;   // equal on all ranks if they call the same operation

  static Operation AllReduce(int64_t count) {
    return {"all-reduce", count * 4, (uint64_t{1} << 56) | uint64_t(count)};
  }
  static Operation AllGather(absl::Span<const int64_t> bytes) {
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
