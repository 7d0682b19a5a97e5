// The Communicator of ranks that are processes of one host: numbers go through
// a shared memory segment, meetings through a Barrier in it.
//
// The segment has two small inboxes and a large one for each rank, and a place
// for sums.  Small messages are copied to a small inbox; after one meeting
// every rank reads all of them.  Large sums go piece by piece: copy in, meet,
// sum this rank's chunk of all ranks' data, meet, copy the other chunks out.
//
// The Mesh stays open so that a rank that dies is noticed: its connections
// close.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "parallel/communicator.h"
#include "parallel/mesh.h"

namespace h2o {

// A mapped segment; unmaps itself.
class ShmSegment {
 public:
  // Makes and maps a segment for `size` ranks under a new name.  All its memory
  // is allocated now, so no later access can find /dev/shm full.
  // Errors: RESOURCE_EXHAUSTED or UNAVAILABLE with the system's reason.
  static absl::StatusOr<ShmSegment> Create(int size, uint64_t nonce);

  // Errors: UNAVAILABLE if there is no such segment, or not of this group.
  static absl::StatusOr<ShmSegment> Open(const std::string& name, int size,
                                         uint64_t nonce);

  ShmSegment(ShmSegment&& other) noexcept;
  ShmSegment& operator=(ShmSegment&&) = delete;
  ~ShmSegment();

  // From now on the segment lives only as long as its mappings.
  void Unlink();

  const std::string& name() const { return name_; }
  void* data() const { return data_; }

 private:
  ShmSegment(std::string name, void* data, size_t bytes, bool linked)
      : name_(std::move(name)), data_(data), bytes_(bytes), linked_(linked) {}

  std::string name_;
  void* data_;
  size_t bytes_;
  bool linked_;  // and ours to unlink
};

// REQUIRES: `mesh` was formed with `options`; all ranks have mapped `segment`.
std::unique_ptr<Communicator> MakeShmCommunicator(ShmSegment segment, Mesh mesh,
                                                  const MeshOptions& options);

}  // namespace h2o
