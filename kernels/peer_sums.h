// Memory that the devices of a group map to each other, and how the addends of
// a sum over its ranks lie in it.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/kv_page.h"
#include "base/sum_way.h"

namespace h2o {

// Memory of every rank's device, of one size, that all of them map.
struct PeerMemory {
  static constexpr int kMaxRanks = 8;

  std::byte* of_rank[kMaxRanks] = {};  // as the device of this rank sees it
  int rank = 0;
  int size = 0;  // 0: the ranks cannot reach each other's memory
  // For the device to read: not zero once the group is aborted; kernels then
  // stop waiting for peers.
  const uint32_t* aborted = nullptr;
};

// Sums over ranks of matrices of up to max_rows rows.  Each rank's memory
// holds, in this order: flags by which ranks learn that addends are ready;
// row flags by which they learn that a share of a row has come; an inbox for
// the rows that peers push; two addends for peers to pull, or to share.
//
// A group's sums alternate between the two addends.  A rank that has finished a
// sum knows that its peers have finished the one before.  So it may write its
// next addend while they read the last one.
struct PeerSums {
  static constexpr int kPushRows = 32;
  static constexpr int64_t kControlBytes = 2048;
  // Of a row: a number from each rank.
  static constexpr int64_t kRowFlagBytes = PeerMemory::kMaxRanks * 4;

  PeerMemory memory;
  int64_t max_rows = 0;
  int64_t row_bytes = 0;
  int64_t row_flags_at = 0;
  int64_t inbox_at = 0;
  int64_t addend_at[2] = {};
  int64_t bytes = 0;  // of each rank

  explicit operator bool() const { return memory.size > 0; }
  std::byte* Addend(int turn) const {
    return memory.of_rank[memory.rank] + addend_at[turn];
  }
  // A pushed word lies beside an epoch of the same size that says it has come.
  // Sums alternate between two inboxes as well.
  static constexpr int64_t InboxRowBytes(int64_t row_bytes) {
    return 2 * row_bytes;
  }

  // Computes the layout; `memory` is set later.  REQUIRES: row_bytes is a
  // multiple of 16.
  static PeerSums Of(int ranks, int64_t max_rows, int64_t row_bytes) {
    PeerSums sums;
    sums.max_rows = max_rows;
    sums.row_bytes = row_bytes;
    sums.row_flags_at = kControlBytes;
    sums.inbox_at =
        sums.row_flags_at + CeilDiv(max_rows * kRowFlagBytes, 128) * 128;
    sums.addend_at[0] =
        sums.inbox_at + 2 * ranks * kPushRows * InboxRowBytes(row_bytes);
    sums.addend_at[1] = sums.addend_at[0] + max_rows * row_bytes;
    sums.bytes = sums.addend_at[1] + max_rows * row_bytes;
    return sums;
  }
};

}  // namespace h2o
