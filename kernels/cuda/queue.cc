// Marks, recordings and the failure of a stream.
#include "kernels/cuda/queue.h"

#include "base/status_macros.h"
#include "kernels/cuda/cuda_status.h"
#include "kernels/device.h"

namespace h2o::cuda {

Queue::Queue(int ordinal)
    : ordinal_(ordinal), events_(Device::kMaxMarks, nullptr) {}

Queue::~Queue() {
  for (auto& [key, recording] : recordings_) {
    if (recording != nullptr) cudaGraphExecDestroy(recording);
  }
  for (cudaEvent_t event : events_) {
    if (event != nullptr) cudaEventDestroy(event);
  }
  if (stream_ != nullptr) cudaStreamDestroy(stream_);
}

absl::Status Queue::Init() {
  H2O_RETURN_IF_ERROR(ToStatus(cudaSetDevice(ordinal_), "device"));
  return ToStatus(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking),
                  "stream");
}

void Queue::UseDevice() { Note(cudaSetDevice(ordinal_), "device"); }

void Queue::Note(cudaError_t error, const char* operation) {
  if (error != cudaSuccess) Note(ToStatus(error, operation));
}

cudaEvent_t Queue::EventOf(int64_t mark) const {
  return events_[mark % Device::kMaxMarks];
}

int64_t Queue::Mark() {
  UseDevice();
  cudaEvent_t& event = events_[next_mark_ % Device::kMaxMarks];
  if (event == nullptr) Note(cudaEventCreate(&event), "event");
  Note(cudaEventRecord(event, stream_), "mark");
  return next_mark_++;
}

bool Queue::Reached(int64_t mark) const {
  return cudaEventQuery(EventOf(mark)) != cudaErrorNotReady;
}

absl::Status Queue::Wait(int64_t mark) {
  Note(cudaEventSynchronize(EventOf(mark)), "step");
  return failure_;
}

absl::Status Queue::Synchronize() {
  UseDevice();
  Note(cudaStreamSynchronize(stream_), "step");
  return failure_;
}

double Queue::SecondsBetween(int64_t earlier, int64_t later) {
  float ms = 0;
  Note(cudaEventElapsedTime(&ms, EventOf(earlier), EventOf(later)), "time");
  return 1e-3 * static_cast<double>(ms);
}

// The first run is not recorded, so that products choose their kernels; the
// second is.
absl::Status Queue::Replay(uint64_t key,
                           absl::FunctionRef<absl::Status()> work) {
  const auto [it, first] = recordings_.emplace(key, nullptr);
  if (first) return work();
  if (it->second == nullptr) {
    H2O_ASSIGN_OR_RETURN(it->second, Record(work));
  }
  Note(cudaGraphLaunch(it->second, stream_), "graph launch");
  return absl::OkStatus();
}

absl::StatusOr<cudaGraphExec_t> Queue::Record(
    absl::FunctionRef<absl::Status()> work) {
  H2O_RETURN_IF_ERROR(ToStatus(
      cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal),
      "begin of recording"));
  const absl::Status status = work();
  cudaGraph_t graph = nullptr;
  const cudaError_t ended = cudaStreamEndCapture(stream_, &graph);
  H2O_RETURN_IF_ERROR(status);
  H2O_RETURN_IF_ERROR(failure_);
  H2O_RETURN_IF_ERROR(ToStatus(ended, "end of recording"));
  cudaGraphExec_t recording = nullptr;
  const cudaError_t made = cudaGraphInstantiate(&recording, graph, 0);
  cudaGraphDestroy(graph);
  H2O_RETURN_IF_ERROR(ToStatus(made, "recording"));
  return recording;
}

}  // namespace h2o::cuda
