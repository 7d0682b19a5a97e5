// The merges of byte-pair encoding (Sennrich et al. 2016), ranked by their
// place in merges.txt.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"

namespace h2o {

using Vocabulary = absl::flat_hash_map<std::string, int32_t>;  // token -> id

class Merges {
 public:
  // Errors: NOT_FOUND without the file, DATA_LOSS naming a malformed line.
  absl::Status Load(const std::string& path, const Vocabulary& vocabulary);

  // Appends to `ids` what the tokens of a word's bytes merge to: the pair of
  // the lowest rank first, of equal ones the leftmost, until no neighbours have
  // a merge.  n log n for n tokens, whatever the word.
  void Apply(const std::vector<int32_t>& bytes,
             std::vector<int32_t>* ids) const;

 private:
  struct Merge {
    int32_t rank;
    int32_t merged;
  };
  const Merge* Find(int32_t left, int32_t right) const {
    const auto it = merges_.find(Pair(left, right));
    return it == merges_.end() ? nullptr : &it->second;
  }
  static uint64_t Pair(int32_t left, int32_t right) {
    return static_cast<uint64_t>(left) << 32 | static_cast<uint32_t>(right);
  }

  absl::flat_hash_map<uint64_t, Merge> merges_;  // by Pair
};

}  // namespace h2o
