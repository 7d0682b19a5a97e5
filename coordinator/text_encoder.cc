// The threads that turn text prompts into tokens.
#include "coordinator/text_encoder.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
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

absl::Status TextEncoder::Add(uint64_t id, Request request) {
  Monitor::Lock lock(monitor_);
  const size_t bytes = request.text.size();
  if (waiting_bytes_ + bytes > kMaxWaitingBytes) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the queue is full: texts of ", waiting_bytes_,
                     " bytes wait to be tokenised; try later"));
  }
  waiting_bytes_ += bytes;
  waiting_.push_back({id, std::move(request)});
  return absl::OkStatus();
}

void TextEncoder::Remove(uint64_t id) {
  Monitor::Lock lock(monitor_);
  const auto job = std::find_if(waiting_.begin(), waiting_.end(),
                                [id](const Job& job) { return job.id == id; });
  if (job == waiting_.end()) return;
  waiting_bytes_ -= job->request.text.size();
  waiting_.erase(job);
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
    waiting_bytes_ -= job.request.text.size();
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
