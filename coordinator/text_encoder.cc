// The threads that turn text prompts into tokens.
#include "coordinator/text_encoder.h"

#include <utility>

#include "coordinator/request_spec.h"

namespace h2o {

TextEncoder::TextEncoder(const Tokenizer* tokenizer, int num_threads,
                         Encoded on_encoded)
    : tokenizer_(tokenizer), on_encoded_(std::move(on_encoded)) {
  for (int i = 0; i < num_threads; ++i) {
    threads_.emplace_back([this] { Run(); });
  }
}

TextEncoder::~TextEncoder() {
  {
    Monitor::Lock lock(monitor_);
    stopping_ = true;
  }
  for (std::thread& thread : threads_) thread.join();
}

void TextEncoder::Add(uint64_t id, Request request) {
  Monitor::Lock lock(monitor_);
  waiting_.push_back({id, std::move(request)});
}

void TextEncoder::Remove(uint64_t id) {
  Monitor::Lock lock(monitor_);
  std::erase_if(waiting_, [id](const Job& job) { return job.id == id; });
}

void TextEncoder::Run() {
  const auto work_or_end = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(monitor_) {
    return stopping_ || !waiting_.empty();
  };
  Monitor::Lock lock(monitor_);
  while (true) {
    lock.Await(work_or_end);
    if (stopping_) return;
    Job job = std::move(waiting_.front());
    waiting_.pop_front();
    lock.Release();
    const absl::Status status = EncodePrompt(tokenizer_, &job.request);
    if (status.ok()) {
      on_encoded_(job.id, std::move(job.request));
    } else {
      on_encoded_(job.id, status);
    }
    lock.Acquire();
  }
}

}  // namespace h2o
