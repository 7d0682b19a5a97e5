// kernel_bench: measures the operations of a model's layer on a GPU, each
// beside its floor.
//
// Every operation is enqueued over and over on different memory (layers rotate,
// and together they are much larger than the cache), recorded as a CUDA graph
// and replayed, so launches follow each other as in a decode step.  The floor
// of an operation is the longer of its bytes over the read rate and its
// arithmetic over the rate of large matrix products, all measured in the same
// run.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/dummy_codes.h"
#include "base/status_macros.h"
#include "kv/kv_cache.h"
#include "model/model_spec.h"
#include "worker/cuda_options.h"

namespace h2o {
namespace {

struct Options {
  std::string model = "opt-30b";
  std::string only;  // a part of the names of the operations to run
  std::vector<int> rows = {1, 16, 64, 96, 128, 192, 256, 512, 2048};
  int tp = 1;
  int layers = 6;
  std::string weights = "bf16";
  WeightCoding coding;           // of `weights`
  bool fp8_activations = false;  // of products with fp8 weights
  std::string cache_directory;   // of choices of products
  bool json = false;
};

constexpr int kWarmups = 3, kReplays = 7;

// What an operation has to do, at the least.
struct Cost {
  double bytes = 0;
  double flops = 0;          // of bf16
  double product_flops = 0;  // of products with the layers' weights

  double all_flops() const { return flops + product_flops; }
};

class Bench {
 public:
  Bench(const Options& options, const ModelConfig& config)
      : options_(options),
        config_(config),
        shard_(config.Shard(0, options.tp)) {}

  absl::Status Run() {
    H2O_ASSIGN_OR_RETURN(rates_, MeasureGpuRates(0));
    CudaBackendOptions backend = CudaOptionsOf(config_, shard_);
    backend.max_prompt_rows = kMostRows;
    backend.cache_directory = options_.cache_directory;
    if (options_.fp8_activations) backend.fp8_rows = kMostRows;
    H2O_ASSIGN_OR_RETURN(backend_, NewCudaBackend(backend));
    H2O_RETURN_IF_ERROR(MakeMatrices());
    std::printf("%s, tp %d: %.0f GB/s read, %.0f TFLOP/s bf16, %.0f fp8\n",
                config_.name.c_str(), options_.tp,
                rates_.read_bytes_per_second / 1e9,
                rates_.bf16_flops_per_second / 1e12,
                rates_.fp8_flops_per_second / 1e12);
    std::printf("%-44s %10s %9s %9s %9s\n", "", "us", "GB/s", "TFLOP/s",
                "of floor");
    H2O_RETURN_IF_ERROR(TimeLinear());
    H2O_RETURN_IF_ERROR(TimeNorm());
    H2O_RETURN_IF_ERROR(TimeHead());
    H2O_RETURN_IF_ERROR(TimeDecodeAttention());
    H2O_RETURN_IF_ERROR(TimePrefillAttention());
    H2O_RETURN_IF_ERROR(TimeDecodeLayers());
    return TimePrefillLayers();
  }

 private:
  static constexpr int64_t kMostRows = 4096;

  struct Weight {
    const char* name;
    int64_t outputs, inputs;
    Epilogue epilogue;
    bool has_bias;
    Matrix in, out;
    StoredMatrix stored;  // but for its memory
    Buffer memory, scales, bias;

    int64_t scale_bytes() const {
      return IsPlain(stored.format) ? 0 : stored.scale_bytes();
    }
    double bytes_of_one() const {
      return static_cast<double>(stored.bytes() + scale_bytes());
    }
    LinearWeights Of(int layer) const {
      LinearWeights w;
      w.weight = stored;
      w.weight.data = memory.data() + layer * stored.bytes();
      w.weight.scales = scales.data() + layer * scale_bytes();
      if (has_bias) w.bias = bias.data();
      return w;
    }
  };

  Matrix Carve(int64_t rows, int64_t columns, Buffer* memory) {
    const Matrix m{nullptr, rows, columns, AlignedStride(columns),
                   DType::kBFloat16};
    *memory = backend_->Allocate(m.bytes()).value();
    Matrix out = m;
    out.data = memory->data();
    FillRandom(out.data, out.bytes() / 2);
    return out;
  }
  void FillRandom(void* data, int64_t elements) {
    DummyTensor t;
    t.seed = ++seed_;
    t.scale = 0.05f;
    t.rows = CeilDiv(elements, 4096);
    t.columns = std::min<int64_t>(elements, 4096);
    t.full_columns = 4096;
    if (elements % 4096 != 0 && t.rows > 1) --t.rows;
    backend_->FillDummy(t, DType::kBFloat16, data, 4096);
  }

  absl::Status MakeMatrices() {
    const int64_t h = config_.hidden_size;
    const int64_t width = shard_.qkv.query_columns();
    const int64_t ffn = shard_.ffn_columns.size();
    hidden_ = Carve(kMostRows, h, &memory_.emplace_back());
    qkv_ = Carve(kMostRows, shard_.qkv.columns(), &memory_.emplace_back());
    attention_ = Carve(kMostRows, width, &memory_.emplace_back());
    delta_ = Carve(kMostRows, h, &memory_.emplace_back());
    ffn_ = Carve(kMostRows, ffn, &memory_.emplace_back());
    weights_.push_back(
        {"qkv", shard_.qkv.columns(), h, Epilogue::kNone, true, hidden_, qkv_});
    weights_.push_back(
        {"out", h, width, Epilogue::kNone, false, attention_, delta_});
    weights_.push_back({"fc1", ffn, h, Epilogue::kRelu, true, hidden_, ffn_});
    weights_.push_back({"fc2", h, ffn, Epilogue::kNone, false, ffn_, delta_});
    for (Weight& w : weights_) H2O_RETURN_IF_ERROR(MakeWeights(&w));
    const int64_t stride = hidden_.stride;
    H2O_ASSIGN_OR_RETURN(residual_, backend_->Allocate(kMostRows * stride * 4));
    // Ones, and behind them zeros.
    H2O_ASSIGN_OR_RETURN(norm_, backend_->Allocate(2 * stride * 4));
    const std::vector<float> ones(stride, 1);
    backend_->Upload(ones.data(), stride * 4, norm_.data());
    return backend_->Synchronize();
  }

  // Random codes and equal scales.
  absl::Status MakeWeights(Weight* w) {
    const WeightFormat format = options_.coding.format;
    w->stored = {nullptr, format, w->outputs, w->inputs,
                 WeightStride(format, w->inputs)};
    w->stored.group = options_.coding.group;
    H2O_ASSIGN_OR_RETURN(
        w->memory, backend_->Allocate(options_.layers * w->stored.bytes()));
    H2O_ASSIGN_OR_RETURN(w->bias,
                         backend_->Allocate(2 * AlignedStride(w->outputs)));
    FillRandom(w->bias.data(), w->outputs);
    if (IsPlain(format)) {
      FillRandom(w->memory.data(), w->memory.bytes() / 2);
      return absl::OkStatus();
    }
    DummyTensor codes;
    codes.seed = ++seed_;
    codes.columns = codes.full_columns = w->stored.stride;
    codes.rows = w->stored.rows_with_room() * options_.layers;
    backend_->FillDummyCodes(codes, format, w->memory.data(),
                             w->stored.row_bytes());
    const float scale = 0.02f * UnitScale(format);
    const GroupScale group = {ToBFloat16(scale), kDummyZero};
    std::vector<std::byte> scales(options_.layers * w->scale_bytes());
    static_assert(sizeof(group) == sizeof(scale));
    const bool in_groups = format == WeightFormat::kInt4;
    for (size_t i = 0; i < scales.size(); i += sizeof(scale)) {
      std::memcpy(&scales[i],
                  in_groups ? static_cast<const void*>(&group) : &scale,
                  sizeof(scale));
    }
    const auto bytes = static_cast<int64_t>(scales.size());
    H2O_ASSIGN_OR_RETURN(w->scales, backend_->Allocate(bytes));
    backend_->Upload(scales.data(), bytes, w->scales.data());
    for (int layer = 0; layer < options_.layers; ++layer) {
      backend_->Arrange(w->stored, w->memory.data() + layer * w->stored.bytes(),
                        w->scales.data() + layer * w->scale_bytes());
    }
    return backend_->Synchronize();
  }

  double FloorOf(const Cost& cost) const {
    const double bf16 = rates_.bf16_flops_per_second;
    const double products =
        options_.fp8_activations ? rates_.fp8_flops_per_second : bf16;
    return std::max(cost.bytes / rates_.read_bytes_per_second,
                    cost.flops / bf16 + cost.product_flops / products);
  }

  // `count` calls of work(i), recorded and replayed; the median of one call.
  template <class Work>
  absl::Status Time(const std::string& name, int count, const Cost& cost,
                    Work&& work) {
    if (name.find(options_.only) == std::string::npos) return absl::OkStatus();
    const uint64_t key = ++key_;
    std::vector<double> seconds;
    for (int replay = -kWarmups; replay < kReplays; ++replay) {
      const int64_t begin = backend_->Mark();
      H2O_RETURN_IF_ERROR(backend_->Replay(key, [&] {
        for (int i = 0; i < count; ++i) work(i);
        return absl::OkStatus();
      }));
      const int64_t end = backend_->Mark();
      H2O_RETURN_IF_ERROR(backend_->Wait(end));
      if (replay >= 0) seconds.push_back(backend_->SecondsBetween(begin, end));
    }
    std::nth_element(seconds.begin(), seconds.begin() + kReplays / 2,
                     seconds.end());
    const double s = seconds[kReplays / 2] / count;
    const double floor = FloorOf(cost), flops = cost.all_flops();
    if (options_.json) {
      const nlohmann::ordered_json line = {
          {"name", name},   {"us", 1e6 * s},         {"bytes", cost.bytes},
          {"flops", flops}, {"fraction", floor / s}, {"model", config_.name}};
      std::printf("%s\n", line.dump().c_str());
    } else {
      std::printf("%-44s %10.1f %9.0f %9.1f %9.3f\n", name.c_str(), 1e6 * s,
                  cost.bytes / s / 1e9, flops / s / 1e12, floor / s);
    }
    return absl::OkStatus();
  }

  void Product(const Weight& w, int layer, int64_t rows) {
    backend_->Linear(w.in.Rows(0, rows), w.Of(layer), w.epilogue,
                     w.out.Rows(0, rows));
  }
  static double Flops(const Weight& w, double rows) {
    return 2 * rows * static_cast<double>(w.inputs) *
           static_cast<double>(w.outputs);
  }
  double LayerBytes() const {
    double bytes = 0;
    for (const Weight& w : weights_) {
      bytes += w.bytes_of_one();
    }
    return bytes;
  }
  double LayerFlops(double rows) const {
    double flops = 0;
    for (const Weight& w : weights_) flops += Flops(w, rows);
    return flops;
  }

  absl::Status TimeLinear() {
    for (int rows : options_.rows) {
      for (const Weight& w : weights_) {
        const double bytes =
            w.bytes_of_one() +
            2.0 * rows * static_cast<double>(w.inputs + w.outputs);
        H2O_RETURN_IF_ERROR(
            Time(absl::StrCat("linear ", w.name, " ", rows, " x ", w.inputs,
                              " -> ", w.outputs),
                 options_.layers, {bytes, 0, Flops(w, rows)},
                 [&](int i) { Product(w, i, rows); }));
      }
      H2O_RETURN_IF_ERROR(Time(absl::StrCat("linear layer ", rows),
                               options_.layers,
                               {LayerBytes(), 0, LayerFlops(rows)}, [&](int i) {
                                 for (const Weight& w : weights_)
                                   Product(w, i, rows);
                               }));
    }
    return absl::OkStatus();
  }

  // The sum of a delta and the residual, and the norm behind it.
  void AddNorm(int64_t rows) {
    const Matrix x{residual_.data(), rows, hidden_.columns, hidden_.stride,
                   DType::kFloat32};
    const float* const ones = norm_.As<float>();
    const float* const zeros = ones + hidden_.stride;
    backend_->AddNorm(x, {delta_.Rows(0, rows)}, zeros, NormPlace::kBefore,
                      {ones, zeros}, hidden_.Rows(0, rows));
  }

  absl::Status TimeNorm() {
    for (int rows : options_.rows) {
      H2O_RETURN_IF_ERROR(
          Time(absl::StrCat("add and norm ", rows), 40,
               {12.0 * rows * static_cast<double>(hidden_.columns)},
               [&](int) { AddNorm(rows); }));
    }
    return absl::OkStatus();
  }

  absl::Status TimeHead() {
    const int64_t vocabulary = shard_.vocabulary.size();
    Buffer table, logits, best;
    const Matrix w = Carve(vocabulary, config_.embed_dim, &table);
    const StoredMatrix stored{w.data, FormatOf(w.dtype), w.rows, w.columns,
                              w.stride};
    const int64_t stride = AlignedStride(vocabulary);
    H2O_ASSIGN_OR_RETURN(logits, backend_->Allocate(512 * stride * 4));
    H2O_ASSIGN_OR_RETURN(best, backend_->Allocate(512 * sizeof(BestLogit)));
    for (int rows : options_.rows) {
      if (rows > 512) continue;
      const Matrix y{logits.data(), rows, vocabulary, stride, DType::kFloat32};
      H2O_RETURN_IF_ERROR(
          Time(absl::StrCat("head ", rows), 4,
               {static_cast<double>(w.bytes()),
                2.0 * rows * static_cast<double>(w.rows * w.columns)},
               [&](int) {
                 backend_->Linear(hidden_.Rows(0, rows), {stored, nullptr},
                                  Epilogue::kNone, y);
               }));
      H2O_RETURN_IF_ERROR(
          Time(absl::StrCat("argmax ", rows), 10,
               {4.0 * rows * static_cast<double>(vocabulary)},
               [&](int) { backend_->ArgMax(y, 0, best.As<BestLogit>()); }));
    }
    return absl::OkStatus();
  }

  // A cache in which `sequences` sequences have seen `prompt` tokens.
  absl::StatusOr<std::unique_ptr<KvCache>> FillCache(int sequences, int prompt,
                                                     const KvSlots& slots,
                                                     Buffer* heads) {
    KvCacheOptions options;
    options.geometry = {options_.layers,
                        config_.qkv.kv_heads,
                        config_.qkv.head_dim,
                        {{DType::kBFloat16}}};
    options.heads = shard_.kv_heads;
    KvPolicy policy;
    policy.slots = {slots};
    options.num_slabs = sequences * options.geometry.SlabsNeeded(
                                        policy, prompt + 64, shard_.kv_heads);
    options.max_sequences = sequences;
    options.max_positions = prompt + 64;
    H2O_ASSIGN_OR_RETURN(std::unique_ptr<KvCache> cache,
                         KvCache::Create(options, backend_.get()));
    H2O_ASSIGN_OR_RETURN(*heads,
                         backend_->Allocate(sequences * sizeof(KvHead*)));
    std::vector<KvHead*> pointers;
    for (int s = 0; s < sequences; ++s) {
      H2O_RETURN_IF_ERROR(cache->Open(s + 1, policy, prompt + 64));
      pointers.push_back(cache->Heads(s + 1));
    }
    backend_->Upload(pointers.data(), sequences * sizeof(KvHead*),
                     heads->data());
    const std::vector<int32_t> starts = {0, prompt};
    H2O_ASSIGN_OR_RETURN(Buffer device_starts,
                         backend_->Allocate(2 * sizeof(int32_t)));
    backend_->Upload(starts.data(), 2 * sizeof(int32_t), device_starts.data());
    for (int s = 0; s < sequences; ++s) {
      for (int layer = 0; layer < options_.layers; ++layer) {
        PromptBatch batch;
        batch.starts = starts;
        batch.device_starts = device_starts.As<int32_t>();
        batch.heads = heads->As<KvHead*>() + s;
        batch.scored = slots.score_rule == ScoreRule::kSum;
        backend_->PrefillAttention(qkv_.Rows(0, prompt), batch, layer,
                                   cache->pool(), attention_.Rows(0, prompt));
      }
    }
    H2O_RETURN_IF_ERROR(backend_->Synchronize());
    return cache;
  }

  // Sequences that decode, and the cache that has as many slots of each.
  struct Decode {
    std::unique_ptr<KvCache> cache;
    Buffer heads, positions, evicted;
    DecodeBatch batch;  // of the above
    int64_t rows = 0;
    double bytes = 0;  // of attention
  };
  absl::StatusOr<std::unique_ptr<Decode>> MakeDecode(int sequences, int slots,
                                                     bool h2o) {
    auto decode = std::make_unique<Decode>();
    // Either every head is full and evicts, or it has one slot more at each
    // replay, and `slots` at the median of the replays that count.
    const int prompt = h2o ? slots + 40 : slots - kWarmups - kReplays / 2;
    const KvSlots kept = h2o ? SlotsFor(KvPolicyName::kH2o, slots)
                             : SlotsFor(KvPolicyName::kFull, slots + kReplays);
    H2O_ASSIGN_OR_RETURN(decode->cache,
                         FillCache(sequences, prompt, kept, &decode->heads));
    const std::vector<int32_t> position(sequences, prompt);
    const int64_t bytes = sequences * int64_t{sizeof(int32_t)};
    H2O_ASSIGN_OR_RETURN(decode->positions, backend_->Allocate(bytes));
    H2O_ASSIGN_OR_RETURN(decode->evicted,
                         backend_->Allocate(bytes * shard_.heads.size()));
    backend_->Upload(position.data(), bytes, decode->positions.data());
    DecodeBatch& batch = decode->batch;
    batch.heads = decode->heads.As<KvHead*>();
    batch.positions = decode->positions.As<int32_t>();
    batch.max_slots = h2o ? slots : slots + kReplays;
    batch.scored = h2o;
    decode->rows = sequences;
    decode->bytes = static_cast<double>(sequences) * shard_.heads.size() *
                    slots * (4.0 * config_.qkv.head_dim + (h2o ? 10 : 0));
    return decode;
  }
  void Attend(const Decode& decode, int layer) {
    backend_->DecodeAttention(
        qkv_.Rows(0, decode.rows), decode.batch, layer, decode.cache->pool(),
        attention_.Rows(0, decode.rows), decode.evicted.As<int32_t>());
  }

  absl::Status TimeDecodeAttention() {
    const std::pair<int, int> shapes[] = {{128, 410}, {96, 204},  {280, 204},
                                          {32, 410},  {28, 2048}, {8, 410},
                                          {1, 576}};
    for (const auto& [sequences, slots] : shapes) {
      for (const bool h2o : {true, false}) {
        const std::string name = absl::StrCat("decode attention ", sequences,
                                              " x ", shard_.heads.size(), " x ",
                                              slots, h2o ? " h2o" : " full");
        if (name.find(options_.only) == std::string::npos) continue;
        H2O_ASSIGN_OR_RETURN(const std::unique_ptr<Decode> decode,
                             MakeDecode(sequences, slots, h2o));
        H2O_RETURN_IF_ERROR(Time(name, options_.layers, {decode->bytes},
                                 [&](int i) { Attend(*decode, i); }));
      }
    }
    return absl::OkStatus();
  }

  // Prompts of one length side by side, and the cache that keeps them.
  struct Pack {
    std::unique_ptr<KvCache> cache;
    std::vector<int32_t> starts;
    Buffer heads, device_starts;
    PromptBatch batch;  // of the above
    int64_t rows = 0;
    double flops = 0;  // of attention
  };
  absl::StatusOr<std::unique_ptr<Pack>> MakePack(int prompts, int length,
                                                 bool h2o) {
    auto pack = std::make_unique<Pack>();
    const KvSlots kept =
        h2o ? SlotsFor(KvPolicyName::kH2o, std::max(length / 5, 32))
            : SlotsFor(KvPolicyName::kFull, length + 64);
    H2O_ASSIGN_OR_RETURN(pack->cache,
                         FillCache(prompts, length, kept, &pack->heads));
    for (int p = 0; p <= prompts; ++p) pack->starts.push_back(p * length);
    const int64_t bytes = pack->starts.size() * sizeof(int32_t);
    H2O_ASSIGN_OR_RETURN(pack->device_starts, backend_->Allocate(bytes));
    backend_->Upload(pack->starts.data(), bytes, pack->device_starts.data());
    pack->batch = {pack->starts, pack->device_starts.As<int32_t>(),
                   pack->heads.As<KvHead*>(), h2o};
    pack->rows = int64_t{prompts} * length;
    // Causal: half of q k^T and of p v; the sums take another half.
    pack->flops = 2.0 * prompts * length * length *
                  static_cast<double>(attention_.columns);
    return pack;
  }
  void Attend(const Pack& pack, int layer) {
    backend_->PrefillAttention(qkv_.Rows(0, pack.rows), pack.batch, layer,
                               pack.cache->pool(),
                               attention_.Rows(0, pack.rows));
  }

  absl::Status TimePrefillAttention() {
    const std::pair<int, int> shapes[] = {
        {1, 2000}, {1, 512}, {4, 512}, {16, 128}};
    for (const auto& [prompts, length] : shapes) {
      for (const bool h2o : {true, false}) {
        const std::string name =
            absl::StrCat("prefill attention ", prompts, " x ", length,
                         h2o ? " h2o" : " full");
        if (name.find(options_.only) == std::string::npos) continue;
        H2O_ASSIGN_OR_RETURN(const std::unique_ptr<Pack> pack,
                             MakePack(prompts, length, h2o));
        H2O_RETURN_IF_ERROR(Time(name, options_.layers, {0, pack->flops},
                                 [&](int i) { Attend(*pack, i); }));
      }
    }
    return absl::OkStatus();
  }

  // One layer without its first norm, which belongs to the layer before.
  template <class Load>
  void Layer(const Load& load, int layer) {
    Product(weights_[0], layer, load.rows);  // qkv, out, fc1, fc2
    Attend(load, layer);
    Product(weights_[1], layer, load.rows);
    AddNorm(load.rows);
    Product(weights_[2], layer, load.rows);
    Product(weights_[3], layer, load.rows);
    AddNorm(load.rows);
  }

  // Whole layers show what lies between the operations.
  absl::Status TimeDecodeLayers() {
    const std::pair<int, int> shapes[] = {
        {1, 576}, {96, 204}, {128, 410}, {256, 204}};
    for (const auto& [sequences, slots] : shapes) {
      const bool h2o = sequences > 1;
      const std::string name = absl::StrCat("decode layer ", sequences, " x ",
                                            slots, h2o ? " h2o" : " full");
      if (name.find(options_.only) == std::string::npos) continue;
      H2O_ASSIGN_OR_RETURN(const std::unique_ptr<Decode> decode,
                           MakeDecode(sequences, slots, h2o));
      H2O_RETURN_IF_ERROR(Time(name, options_.layers,
                               {LayerBytes() + decode->bytes, 0,
                                LayerFlops(static_cast<double>(sequences))},
                               [&](int i) { Layer(*decode, i); }));
    }
    return absl::OkStatus();
  }

  // Whole layers, as many in a row as the model has, so that the GPU's clock
  // and cache are as in a prefill.
  absl::Status TimePrefillLayers() {
    const std::pair<int, int> shapes[] = {{1, 2000}, {1, 512}, {16, 128}};
    for (const auto& [prompts, length] : shapes) {
      const std::string name =
          absl::StrCat("prefill layer ", prompts, " x ", length, " h2o");
      if (name.find(options_.only) == std::string::npos) continue;
      H2O_ASSIGN_OR_RETURN(const std::unique_ptr<Pack> pack,
                           MakePack(prompts, length, true));
      H2O_RETURN_IF_ERROR(
          Time(name, config_.num_layers,
               {LayerBytes(), pack->flops,
                LayerFlops(static_cast<double>(pack->rows))},
               [&](int i) { Layer(*pack, i % options_.layers); }));
    }
    return absl::OkStatus();
  }

  const Options options_;
  const ModelConfig config_;
  const ShardSpec shard_;
  MachineRates rates_;
  std::unique_ptr<Backend> backend_;
  std::vector<Buffer> memory_;
  std::vector<Weight> weights_;
  Matrix hidden_, qkv_, attention_, delta_, ffn_;
  Buffer residual_, norm_;  // float32
  uint64_t key_ = 0;
  uint64_t seed_ = 0;
};

absl::Status RunAll(const Options& options) {
  H2O_ASSIGN_OR_RETURN(const ModelConfig config,
                       BuiltInModelConfig(options.model));
  H2O_RETURN_IF_ERROR(ValidateTensorParallel(config, options.tp));
  return Bench(options, config).Run();
}

int Main(int argc, char** argv) {
  Options options;
  CLI::App app("Times the operations of a model's layer on a GPU");
  app.add_option("--model", options.model, "A built-in config's name")
      ->capture_default_str();
  app.add_option("--only", options.only, "Operations whose name has this text");
  app.add_option("--rows", options.rows, "Rows of matrix products")
      ->delimiter(',')
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  app.add_option("--tp", options.tp, "Shapes of one rank of this many")
      ->capture_default_str();
  app.add_option("--weights", options.weights,
                 "Format of the matrices: bf16, fp8, int8 or int4")
      ->check(CLI::IsMember({"bf16", "fp8", "int8", "int4"}))
      ->capture_default_str();
  app.add_option("--weight-group", options.coding.group,
                 "Inputs that share a scale, with --weights int4")
      ->check(CLI::IsMember({64, 128}))
      ->capture_default_str();
  app.add_option_function<std::string>(
         "--activations",
         [&](const std::string& text) {
           options.fp8_activations = text == "fp8";
         },
         "Inputs of products with --weights fp8: 16bit or fp8")
      ->check(CLI::IsMember({"16bit", "fp8"}))
      ->default_str("16bit");
  app.add_option("--layers", options.layers, "Layers that rotate")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  app.add_option("--cache-dir", options.cache_directory,
                 "Take the choices of kernels kept there, and keep new ones; "
                 "empty: neither")
      ->type_name("DIR");
  app.add_flag("--json", options.json, "A JSON line a figure");
  CLI11_PARSE(app, argc, argv);
  options.coding.format = *ParseWeightFormat(options.weights);
  if (options.fp8_activations && options.weights != "fp8") {
    std::fprintf(stderr,
                 "kernel_bench: --activations fp8 needs --weights fp8\n");
    return 2;
  }
  const absl::Status status = RunAll(options);
  if (status.ok()) return 0;
  std::fprintf(stderr, "kernel_bench: %s\n", status.ToString().c_str());
  return 1;
}

}  // namespace
}  // namespace h2o

int main(int argc, char** argv) { return h2o::Main(argc, argv); }
