// What people and programs are told of a fault: who did what, and when.
#pragma once

#include <cstdint>
#include <string>

#include "coordinator/rank_place.h"

namespace h2o {

enum class FaultKind : uint8_t {
  kExit,        // the rank's process or its connection ended
  kSilence,     // it said nothing until a deadline
  kChecksum,    // its state is not that of its peers
  kCollective,  // it could not reach a peer; the words name that
  kNonFinite,   // logits were not finite, on all ranks alike
  kFailure,     // it reported an error of its own
  kProtocol,    // it said what it may not say
};
inline constexpr int kFaultKinds = 7;
const char* Name(FaultKind kind);

struct Fault {
  FaultKind kind = FaultKind::kExit;
  int group = 0;
  int rank = -1;    // -1: all ranks alike
  RankPlace place;  // of the rank
  double unix_seconds = 0;
  std::string words;
};

}  // namespace h2o
