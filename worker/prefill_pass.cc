// Runs one slice of a prefill: check, embed, layers, and at the end the head.
#include "worker/prefill_pass.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace h2o {
namespace {

// Layers of a step that are timed one by one: a device keeps kMaxMarks marks.
constexpr size_t kMaxTimedLayers = 1024;

// Times layers one after the other, each from the end of the one before.
class LayerTimer {
 public:
  LayerTimer(Device* device, StepInFlight* step)
      : device_(*device), step_(*step), before_(Full() ? 0 : device->Mark()) {}

  void EndLayer() {
    if (Full()) return;
    const int64_t after = device_.Mark();
    step_.layers.emplace_back(before_, after);
    before_ = after;
  }

 private:
  bool Full() const { return step_.layers.size() >= kMaxTimedLayers; }

  Device& device_;
  StepInFlight& step_;
  int64_t before_;
};

}  // namespace

absl::Status PrefillPass::Run(const PrefillSlice& slice, OpenSequences* open,
                              StepInFlight* step) {
  H2O_RETURN_IF_ERROR(Begin(slice, open));
  PausedPrefill& paused = open->paused;
  std::vector<OpenSequence*> prompts;
  for (uint64_t id : paused.sequence_ids) {
    prompts.push_back(id == 0 ? nullptr : &open->by_id.at(id));
  }
  const Matrix x = parts_.PrefillHidden(paused.starts.back());
  const PromptBatch batch = UploadBatch(prompts, paused);
  if (slice.layer_begin == 0) H2O_RETURN_IF_ERROR(Embed(prompts, x));

  const bool ends = slice.layer_end == parts_.config.num_layers;
  const EndRows rows = ends ? EndRowsOf(prompts, open) : EndRows();
  const Forward::LastRows last =
      ends ? LastRowsOf(rows, paused) : Forward::LastRows();
  H2O_RETURN_IF_ERROR(RunLayers(slice, batch, x, last, step));
  if (!ends) {
    paused.next_layer = slice.layer_end;
    return absl::OkStatus();
  }
  Forward& forward = *parts_.forward;
  const auto n = static_cast<int64_t>(rows.sequences.size());
  const Matrix features =
      last.rows != nullptr
          ? forward.Features(n)
          : forward.GatherFeatures(parts_.workspace.prompt_ends, n);
  const absl::Status status = End(rows, paused, features, step);
  paused = {};
  return status;
}

absl::Status PrefillPass::Begin(const PrefillSlice& slice,
                                OpenSequences* open) {
  PausedPrefill& paused = open->paused;
  std::vector<uint64_t> waiting = paused.sequence_ids;
  std::erase(waiting, uint64_t{0});
  bool follows = slice.layer_begin == paused.next_layer &&
                 slice.layer_end > slice.layer_begin &&
                 slice.layer_end <= parts_.config.num_layers &&
                 !slice.sequence_ids.empty() &&
                 (paused.next_layer == 0 || waiting == slice.sequence_ids);
  std::vector<int32_t> starts = {0};
  for (uint64_t id : slice.sequence_ids) {
    H2O_ASSIGN_OR_RETURN(OpenSequence * sequence, open->Find(id));
    follows &= !sequence->prefilled && sequence->spec.fork_of == 0;
    starts.push_back(starts.back() + sequence->prompt_length());
  }
  follows &= starts.back() <= parts_.config.max_positions &&
             static_cast<int64_t>(slice.sequence_ids.size()) <= parts_.max_rows;
  if (!follows) {
    return absl::InternalError(absl::StrCat(
        "prefill of layers ", slice.layer_begin, " to ", slice.layer_end,
        " of sequence ", slice.sequence_ids.empty() ? 0 : slice.sequence_ids[0],
        " and of ", slice.sequence_ids.size(), " in all does not follow"));
  }
  if (slice.layer_begin == 0) {
    paused = {slice.sequence_ids, std::move(starts), 0};
  }
  return absl::OkStatus();
}

PromptBatch PrefillPass::UploadBatch(Prompts prompts,
                                     const PausedPrefill& paused) {
  const StepWorkspace& w = parts_.workspace;
  PromptBatch batch;
  batch.starts = paused.starts;
  batch.device_starts = w.prompt_starts;
  batch.heads = w.prompt_heads;
  batch.scored = false;
  std::vector<KvHead*> heads;
  for (const OpenSequence* prompt : prompts) {
    heads.push_back(prompt == nullptr ? nullptr
                                      : parts_.cache->Heads(prompt->spec.id));
    batch.scored |= prompt != nullptr && prompt->KeepsScores();
  }
  parts_.backend->UploadAll(heads, w.prompt_heads);
  parts_.backend->UploadAll(paused.starts, w.prompt_starts);
  return batch;
}

absl::Status PrefillPass::Embed(Prompts prompts, Matrix x) {
  const StepWorkspace& w = parts_.workspace;
  std::vector<int32_t> tokens, positions;
  for (const OpenSequence* row : prompts) {
    const std::vector<int32_t>& prompt = row->spec.prompt;
    tokens.insert(tokens.end(), prompt.begin(), prompt.end());
    positions.resize(tokens.size());
    std::iota(positions.end() - prompt.size(), positions.end(), 0);
  }
  parts_.backend->UploadAll(tokens, w.prompt_tokens);
  parts_.backend->UploadAll(positions, w.prompt_positions);
  return parts_.forward->Embed(w.prompt_tokens, w.prompt_positions, x);
}

PrefillPass::EndRows PrefillPass::EndRowsOf(Prompts prompts,
                                            OpenSequences* open) {
  EndRows rows;
  const auto add = [&](OpenSequence* sequence, size_t prompt) {
    rows.sequences.push_back(sequence);
    rows.prompts.push_back(static_cast<int>(prompt));
  };
  for (size_t p = 0; p < prompts.size(); ++p) {
    if (prompts[p] != nullptr) add(prompts[p], p);
  }
  for (size_t p = 0; p < prompts.size(); ++p) {
    if (prompts[p] == nullptr) continue;
    for (OpenSequence* fork : open->WaitingForks(prompts[p]->spec.id)) {
      add(fork, p);
    }
  }
  return rows;
}

Forward::LastRows PrefillPass::LastRowsOf(const EndRows& rows,
                                          const PausedPrefill& paused) {
  std::vector<int32_t> ends;
  bool all = false;
  for (size_t r = 0; r < rows.sequences.size(); ++r) {
    ends.push_back(paused.starts[rows.prompts[r] + 1] - 1);
    const SequenceSpec& spec = rows.sequences[r]->spec;
    all |= spec.logits || spec.prompt_logprobs;
  }
  // Padded to the rows of a decode step: the same matrix products then give
  // the same bits as a decode step would.
  const int64_t padded =
      parts_.backend->BatchBucket(static_cast<int64_t>(ends.size()));
  ends.resize(padded, ends.back());
  int32_t* const device_ends = parts_.workspace.prompt_ends;
  parts_.backend->UploadAll(ends, device_ends);
  if (all) return {};
  return {device_ends, parts_.DecodeHidden(padded)};
}

absl::Status PrefillPass::RunLayers(const PrefillSlice& slice,
                                    const PromptBatch& batch, Matrix x,
                                    const Forward::LastRows& last,
                                    StepInFlight* step) {
  Backend& backend = *parts_.backend;
  LayerTimer timer(&backend, step);
  H2O_RETURN_IF_ERROR(parts_.forward->Layers(
      slice.layer_begin, slice.layer_end, x,
      [&](int layer, Matrix qkv, Matrix out) {
        if (layer > slice.layer_begin) timer.EndLayer();
        backend.PrefillAttention(qkv, batch, layer, parts_.cache->pool(), out);
      },
      last));
  timer.EndLayer();
  return absl::OkStatus();
}

absl::Status PrefillPass::End(const EndRows& rows, const PausedPrefill& paused,
                              Matrix features, StepInFlight* step) {
  std::vector<int32_t> seats;
  HeadNeeds needs;
  for (size_t r = 0; r < rows.sequences.size(); ++r) {
    OpenSequence* const sequence = rows.sequences[r];
    const SequenceSpec& spec = sequence->spec;
    seats.push_back(sequence->seat);
    sequence->prefilled = true;
    sequence->planned_tokens = 1;
    needs.Add(*sequence);
    if (spec.fork_of != 0) parts_.CopyCache(spec.fork_of, spec.id);
    if (spec.trace) {
      H2O_RETURN_IF_ERROR(reports_.AddPromptTrace(*sequence, step));
    }
    if (spec.logits) {
      H2O_RETURN_IF_ERROR(reports_.AddPromptLogits(
          *sequence, paused.starts[rows.prompts[r]], step));
    }
    if (spec.prompt_logprobs) {
      H2O_RETURN_IF_ERROR(reports_.AddPromptLogprobs(
          *sequence, paused.starts[rows.prompts[r]], step));
    }
  }
  int32_t* const device_seats = parts_.workspace.prompt_seats;
  parts_.backend->UploadAll(seats, device_seats);
  H2O_RETURN_IF_ERROR(head_.Emit(features, device_seats, needs));
  H2O_RETURN_IF_ERROR(reports_.AddLogits(rows.sequences, step));
  head_.Fetch(rows.sequences, step);
  return absl::OkStatus();
}

}  // namespace h2o
