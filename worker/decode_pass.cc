// Plans a decode step, finds its shape, and enqueues or replays it.
#include "worker/decode_pass.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace h2o {

absl::Status DecodePass::Run(const std::vector<uint64_t>& ids,
                             OpenSequences* open, StepInFlight* step) {
  if (ids.empty()) return absl::OkStatus();
  std::vector<OpenSequence*> rows;
  H2O_RETURN_IF_ERROR(Plan(ids, open, &rows));
  const Shape shape = ShapeOf(rows);
  UploadSeats(rows, shape.rows);
  H2O_RETURN_IF_ERROR(
      parts_.backend->Replay(shape.Key(), [&] { return Enqueue(shape); }));
  H2O_RETURN_IF_ERROR(reports_.AddLogits(rows, step));
  if (std::any_of(rows.begin(), rows.end(),
                  [](const OpenSequence* s) { return s->spec.trace; })) {
    H2O_RETURN_IF_ERROR(reports_.AddDecodeTrace(rows, shape.rows, step));
  }
  head_.Fetch(rows, step);
  return absl::OkStatus();
}

absl::Status DecodePass::Plan(const std::vector<uint64_t>& ids,
                              OpenSequences* open,
                              std::vector<OpenSequence*>* rows) {
  if (ids.size() > static_cast<size_t>(parts_.max_sequences)) {
    return absl::InternalError(absl::StrCat("the plan decodes ", ids.size(),
                                            " rows of ", parts_.max_sequences));
  }
  for (uint64_t id : ids) {
    H2O_ASSIGN_OR_RETURN(OpenSequence * sequence, open->Find(id));
    if (!sequence->prefilled) {
      return absl::InternalError(
          absl::StrCat("decode of sequence ", id, " before its prefill"));
    }
    ++sequence->planned_tokens;
    rows->push_back(sequence);
  }
  return absl::OkStatus();
}

DecodePass::Shape DecodePass::ShapeOf(
    const std::vector<OpenSequence*>& rows) const {
  Shape shape;
  shape.rows = parts_.backend->BatchBucket(static_cast<int64_t>(rows.size()));
  DecodeBatch& batch = shape.batch;
  batch.heads = parts_.workspace.heads;
  batch.positions = parts_.workspace.positions;
  batch.scored = false;
  for (const OpenSequence* s : rows) {
    shape.needs.Add(*s);
    batch.scored |= s->KeepsScores() || s->Evicts();
    batch.max_slots = std::max(batch.max_slots,
                               std::min(s->position(), s->LargestCapacity()));
  }
  batch.max_slots =
      DecodeSlotClass(batch.max_slots, parts_.config.max_positions);
  return shape;
}

uint64_t DecodePass::Shape::Key() const {
  return static_cast<uint64_t>(rows) << 32 |
         static_cast<uint64_t>(batch.max_slots) << 8 |
         (needs.logprobs ? 16 : 0) | (needs.changes ? 8 : 0) |
         (batch.scored ? 4 : 0) | (needs.whole_logits ? 2 : 0) |
         (needs.sampling ? 1 : 0);
}

void DecodePass::UploadSeats(const std::vector<OpenSequence*>& rows,
                             int64_t padded) {
  std::vector<int32_t> seats;
  for (const OpenSequence* s : rows) seats.push_back(s->seat);
  seats.resize(padded, -1);
  if (seats == uploaded_seats_) return;
  parts_.backend->UploadAll(seats, parts_.workspace.seats);
  uploaded_seats_ = std::move(seats);
}

absl::Status DecodePass::Enqueue(const Shape& shape) {
  const StepWorkspace& w = parts_.workspace;
  Backend& backend = *parts_.backend;
  Forward& forward = *parts_.forward;
  const int64_t rows = shape.rows;
  const Matrix x = parts_.DecodeHidden(rows);
  backend.BeginDecode(w.states, w.seats, rows, w.row_tokens, w.positions,
                      w.heads);
  H2O_RETURN_IF_ERROR(forward.Embed(w.row_tokens, w.positions, x));
  H2O_RETURN_IF_ERROR(
      forward.Layers(0, parts_.config.num_layers, x,
                     [&](int layer, Matrix qkv, Matrix out) {
                       backend.DecodeAttention(
                           qkv, shape.batch, layer, parts_.cache->pool(), out,
                           w.evicted + layer * rows * parts_.num_local_heads());
                     },
                     {}));
  return head_.Emit(forward.Features(rows), w.seats, shape.needs);
}

int32_t DecodeSlotClass(int32_t slots, int64_t max_positions) {
  constexpr int32_t kSmallest = 256;
  const auto least = static_cast<uint32_t>(std::max(slots, kSmallest));
  return static_cast<int32_t>(std::min<int64_t>(
      std::bit_ceil(least), CeilDiv(max_positions, kPageSlots) * kPageSlots));
}

}  // namespace h2o
