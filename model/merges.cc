// Reads merges and applies them to words.
#include "model/merges.h"

#include <algorithm>
#include <array>
#include <queue>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "model/json_file.h"

namespace h2o {

using nlohmann::json;

absl::Status Merges::Add(const std::string& left, const std::string& right,
                         const Vocabulary& vocabulary) {
  std::array<int32_t, 3> ids;
  const std::array<std::string, 3> names = {left, right, left + right};
  for (int i = 0; i < 3; ++i) {
    const auto it = vocabulary.find(names[i]);
    if (it == vocabulary.end()) {
      return absl::DataLossError(
          absl::StrCat("token ", Describe(json(names[i])), " of the merge ",
                       Describe(json(absl::StrCat(left, " ", right))),
                       " is not in the vocabulary"));
    }
    ids[i] = it->second;
  }
  merges_[Pair(ids[0], ids[1])] = {next_rank_++, ids[2]};
  return absl::OkStatus();
}

absl::Status Merges::AddLine(std::string_view line,
                             const Vocabulary& vocabulary) {
  const size_t space = line.find(' ');
  if (space == std::string_view::npos ||
      line.find(' ', space + 1) != std::string_view::npos) {
    return absl::DataLossError(
        absl::StrCat(Describe(json(line)),
                     " is no merge; it must be two tokens and a space between "
                     "them"));
  }
  return Add(std::string(line.substr(0, space)),
             std::string(line.substr(space + 1)), vocabulary);
}

absl::StatusOr<Merges> Merges::Parse(std::string_view text,
                                     const std::string& place,
                                     const Vocabulary& vocabulary) {
  Merges merges;
  int line_number = 0;
  for (size_t begin = 0; begin < text.size();) {
    ++line_number;
    const size_t end = std::min(text.find('\n', begin), text.size());
    std::string_view line = text.substr(begin, end - begin);
    begin = end + 1;
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.starts_with("#version")) continue;
    const absl::Status status = merges.AddLine(line, vocabulary);
    if (!status.ok()) {
      return absl::DataLossError(
          absl::StrCat(place, ": line ", line_number, ": ", status.message()));
    }
  }
  return merges;
}

absl::StatusOr<Merges> Merges::Parse(const json& list, const std::string& place,
                                     const Vocabulary& vocabulary) {
  if (!list.is_array()) {
    return absl::DataLossError(absl::StrCat(
        place, ": the merges are ", Describe(list), "; they must be a list"));
  }
  Merges merges;
  for (const json& merge : list) {
    absl::Status status = absl::DataLossError(
        absl::StrCat(Describe(merge), " is no merge; it must be two tokens"));
    if (merge.is_string()) {
      status = merges.AddLine(merge.get_ref<const std::string&>(), vocabulary);
    } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() &&
               merge[1].is_string()) {
      status = merges.Add(merge[0], merge[1], vocabulary);
    }
    if (!status.ok()) {
      return absl::DataLossError(absl::StrCat(
          place, ": merge ", merges.next_rank_, ": ", status.message()));
    }
  }
  return merges;
}

// A heap of candidates and a linked list of symbols.
void Merges::Apply(const std::vector<int32_t>& bytes,
                   std::vector<int32_t>* ids) const {
  struct Symbol {
    int32_t id;
    int32_t previous, next;  // -1: none
  };
  struct Candidate {
    int32_t rank;
    int32_t at;  // of the left symbol
    int32_t left, right;
    int32_t merged;
    bool operator<(const Candidate& other) const {  // the top is the lowest
      return std::pair(rank, at) > std::pair(other.rank, other.at);
    }
  };
  constexpr int32_t kGone = -1;

  const int32_t n = static_cast<int32_t>(bytes.size());
  std::vector<Symbol> symbols(n);
  for (int32_t i = 0; i < n; ++i) {
    symbols[i] = {bytes[i], i - 1, i + 1 < n ? i + 1 : -1};
  }
  std::priority_queue<Candidate> candidates;
  const auto consider = [&](int32_t at) {
    if (at < 0 || symbols[at].next < 0) return;
    const int32_t left = symbols[at].id;
    const int32_t right = symbols[symbols[at].next].id;
    if (const Merge* merge = Find(left, right)) {
      candidates.push({merge->rank, at, left, right, merge->merged});
    }
  };
  for (int32_t i = 0; i + 1 < n; ++i) consider(i);
  while (!candidates.empty()) {
    const Candidate c = candidates.top();
    candidates.pop();
    Symbol& left = symbols[c.at];
    // A symbol may have merged with another neighbour in the meantime.
    if (left.id != c.left || left.next < 0 ||
        symbols[left.next].id != c.right) {
      continue;
    }
    Symbol& right = symbols[left.next];
    left.id = c.merged;
    left.next = right.next;
    right.id = kGone;
    if (left.next >= 0) symbols[left.next].previous = c.at;
    consider(left.previous);
    consider(c.at);
  }
  for (int32_t i = 0; i >= 0; i = symbols[i].next) {
    ids->push_back(symbols[i].id);
  }
}

}  // namespace h2o
