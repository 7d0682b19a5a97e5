// Communicators of ranks that are threads and share GPU 0: what a group of any
// size computes, on a machine with one GPU.
//
// Ranks put their numbers into one memory and meet before and after anybody
// reads them.  They map no memory to each other (MapPeers): a kernel that waits
// for peers lets the next one of its rank start, which could take the place
// that the peers need.
//
// While a rank waits for peers the driver may make these wait for that rank: to
// load a kernel, or to make a graph.  So a group rehearses first: one rank
// after the other does all that it will do later, and goes on with what it
// finds there.
#pragma once

#include <memory>

#include "parallel/communicator.h"

namespace h2o {

class OneGpuMeeting;

class OneGpuGroup {
 public:
  // To be called, and the first use of CUDA to be made, in a process whose
  // environment has CUDA_DEVICE_MAX_CONNECTIONS=32: else streams may share a
  // queue, and stand behind one that waits for them.
  explicit OneGpuGroup(int size);

  std::unique_ptr<Communicator> Rank(int rank);

  // With nothing under way.
  void EndRehearsal();

 private:
  std::shared_ptr<OneGpuMeeting> meeting_;
};

}  // namespace h2o
