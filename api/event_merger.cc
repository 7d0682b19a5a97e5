// Gathers events until the next message can be sent.
#include "api/event_merger.h"

#include <iterator>
#include <utility>
#include <vector>

#include "base/check.h"

namespace h2o {
namespace {

template <typename T>
void Append(std::vector<T> from, std::vector<T>* to) {
  to->insert(to->end(), std::make_move_iterator(from.begin()),
             std::make_move_iterator(from.end()));
}

}  // namespace

void EventMerger::Add(StreamEvent event) {
  if (!event.status.ok()) {
    error_ = std::move(event);
    return;
  }
  if (!merged_) {
    merged_ = std::move(event);
    return;
  }
  Append(std::move(event.tokens), &merged_->tokens);
  merged_->text += event.text;
  Append(std::move(event.trace), &merged_->trace);
  Append(std::move(event.logits), &merged_->logits);
  Append(std::move(event.logprobs), &merged_->logprobs);
  Append(std::move(event.prompt), &merged_->prompt);
  Append(std::move(event.prompt_logprobs), &merged_->prompt_logprobs);
  if (event.seed) merged_->seed = event.seed;
  merged_->stop_string = std::move(event.stop_string);
  merged_->stop_token = event.stop_token;
  merged_->done = event.done;
  merged_->finish = event.finish;
  merged_->usage = event.usage;
}

StreamEvent EventMerger::Take() {
  H2O_CHECK(!empty());
  std::optional<StreamEvent>& next = merged_ ? merged_ : error_;
  StreamEvent taken = *std::exchange(next, std::nullopt);
  return taken;
}

}  // namespace h2o
