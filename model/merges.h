// The merges of byte-pair encoding (Sennrich et al. 2016), ranked by their
// place in merges.txt or tokenizer.json.  Only for the .cc files of model/.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "model/vocabulary.h"

namespace h2o {

class Merges {
 public:
  // From the lines of merges.txt.  Errors begin with `place`: DATA_LOSS naming
  // a malformed line.
  static absl::StatusOr<Merges> Parse(std::string_view text,
                                      const std::string& place,
                                      const Vocabulary& vocabulary);
  // From a list of ["a", "b"] or "a b".  Errors: likewise.
  static absl::StatusOr<Merges> Parse(const nlohmann::json& list,
                                      const std::string& place,
                                      const Vocabulary& vocabulary);

  bool empty() const { return merges_.empty(); }

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
  // Ranked behind those before.  Errors do not name the place.
  absl::Status Add(const std::string& left, const std::string& right,
                   const Vocabulary& vocabulary);
  absl::Status AddLine(std::string_view line, const Vocabulary& vocabulary);

  const Merge* Find(int32_t left, int32_t right) const {
    const auto it = merges_.find(Pair(left, right));
    return it == merges_.end() ? nullptr : &it->second;
  }
  static uint64_t Pair(int32_t left, int32_t right) {
    return static_cast<uint64_t>(left) << 32 | static_cast<uint32_t>(right);
  }

  absl::flat_hash_map<uint64_t, Merge> merges_;  // by Pair
  int32_t next_rank_ = 0;
};

}  // namespace h2o
