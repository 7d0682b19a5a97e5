// Merges events of one choice of a stream while the message before them is
// under way, so that a slow reader costs no more memory than its own tokens and
// text.
#pragma once

#include <optional>

#include "api/request.h"

namespace h2o {

// Threads  not thread-safe.
class EventMerger {
 public:
  // REQUIRES: no event with `done` was added before.
  void Add(StreamEvent event);

  bool empty() const { return !merged_ && !error_; }

  // All that was added since the last Take as one event.  An error comes alone,
  // after the tokens that were added before it.  REQUIRES: !empty().
  StreamEvent Take();

 private:
  std::optional<StreamEvent> merged_;  // no error
  std::optional<StreamEvent> error_;
};

}  // namespace h2o
