// What one collective operation is called, in messages and on the wire.
#pragma once

#include <cstdint>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/types/span.h"

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
    uint64_t hash = 14695981039346656037u;  // FNV-1a, a number at a time
    for (int64_t b : bytes) {
      total += b;
      hash = (hash ^ static_cast<uint64_t>(b)) * 1099511628211u;
    }
    return {"all-gather", total, (uint64_t{2} << 56) | (hash >> 8)};
  }

  std::string ToString() const {
    return absl::StrCat(name, " of ", bytes, " bytes");
  }
};

}  // namespace h2o
