// The threads that turn text prompts into tokens.
#include "coordinator/text_encoder.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "coordinator/request_spec.h"

namespace h2o {

TextEncoder::TextEncoder(const Tokenizer* tokenizer, int num_threads)
    : tokenizer_(tokenizer) {
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
  for (Job& job : waiting_) {
    job.on_encoded(absl::UnavailableError("the server stops"));
  }
}

absl::Status TextEncoder::Add(uint64_t id, Request request,
                              Encoded on_encoded) {
  Monitor::Lock lock(monitor_);
  const size_t bytes = request.text.size();
  if (waiting_bytes_ + bytes > kMaxWaitingBytes) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the queue is full: texts of ", waiting_bytes_,
                     " bytes wait to be tokenised; try later"));
  }
  waiting_bytes_ += bytes;
  waiting_.push_back({id, std::move(request), std::move(on_encoded)});
  return absl::OkStatus();
}

void TextEncoder::Remove(uint64_t id) {
  const auto is_dropped = [this, id](const Job& job)
                              ABSL_EXCLUSIVE_LOCKS_REQUIRED(monitor_) {
                                if (job.id != id) return false;
                                waiting_bytes_ -= job.request.text.size();
                                return true;
                              };
  Monitor::Lock lock(monitor_);
  std::erase_if(waiting_, is_dropped);
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
      job.on_encoded(std::move(job.request));
    } else {
      job.on_encoded(status);
    }
    lock.Acquire();
  }
}

}  // namespace h2o
