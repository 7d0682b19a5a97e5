// Calls oneDNN for products of many rows, from one thread at a time.
#include "kernels/cpu/matrix_product.h"

#include <dnnl.hpp>

#include "base/check.h"
#include "kernels/cpu/bf16_tiles.h"

// OpenMP's runtime, which oneDNN is linked with; no header of it is needed.
extern "C" void omp_set_num_threads(int);

namespace h2o::cpu {

namespace {

// The calling thread is one of a pool's: oneDNN must not start a team for it.
void UseOneMathThread() {
  thread_local const bool kOnce = (omp_set_num_threads(1), true);
  static_cast<void>(kOnce);
}

void CallSgemm(char op_a, char op_b, int64_t m, int64_t n, int64_t k,
               const float* a, int64_t lda, const float* b, int64_t ldb,
               float beta, float* c, int64_t ldc) {
  UseOneMathThread();
  const dnnl_status_t status =
      dnnl_sgemm(op_a, op_b, m, n, k, 1.0f, a, lda, b, ldb, beta, c, ldc);
  H2O_CHECK(status == dnnl_success)
      << "dnnl_sgemm " << m << " x " << n << " x " << k << ": " << status;
}

// Whether BFloat16Tiles does the products of few rows.  AMX is faster and
// oneDNN's, but from version 3 on the order of its sums depends on the number
// of rows (seen with 3.1): a row would change with the others of its batch.
bool UsesTiles(dnnl::cpu_isa isa) {
  return isa == dnnl::cpu_isa::avx512_core_bf16 ||
         (isa == dnnl::cpu_isa::avx512_core_amx && DNNL_VERSION_MAJOR >= 3);
}

}  // namespace

void Sgemm(bool transpose_b, int64_t m, int64_t n, int64_t k, const float* a,
           int64_t lda, const float* b, int64_t ldb, float* c, int64_t ldc,
           float beta) {
  CallSgemm('N', transpose_b ? 'T' : 'N', m, n, k, a, lda, b, ldb, beta, c,
            ldc);
}

void AddOuterProducts(int64_t m, int64_t n, int64_t k, const float* a,
                      int64_t lda, const float* b, int64_t ldb, float* c,
                      int64_t ldc) {
  CallSgemm('T', 'N', m, n, k, a, lda, b, ldb, 1.0f, c, ldc);
}

struct BFloat16Product::Impl {
  dnnl::engine engine{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream{engine};
  const bool has_tiles = UsesTiles(dnnl::get_effective_cpu_isa());
  const Buffer tile_scratch =
      has_tiles
          ? Buffer::AllocateHost(kTileProductScratch * sizeof(uint32_t)).value()
          : Buffer();

  // oneDNN keeps the primitives themselves in a cache of its own.
  dnnl::matmul::primitive_desc Describe(int64_t m, int64_t n, int64_t k,
                                        int64_t lda, int64_t ldb,
                                        int64_t ldc) const {
    using dnnl::memory;
    const memory::desc a({m, k}, memory::data_type::bf16, {lda, 1});
    const memory::desc b({k, n}, memory::data_type::bf16, {1, ldb});
    const memory::desc c({m, n}, memory::data_type::f32, {ldc, 1});
#if DNNL_VERSION_MAJOR >= 3
    return {engine, a, b, c};
#else
    return {{a, b, c}, engine};
#endif
  }
};

BFloat16Product::BFloat16Product() : impl_(std::make_unique<Impl>()) {}
BFloat16Product::~BFloat16Product() = default;

bool BFloat16Product::Supported() {
  const dnnl::cpu_isa isa = dnnl::get_effective_cpu_isa();
  return isa == dnnl::cpu_isa::avx512_core_bf16 ||
         isa == dnnl::cpu_isa::avx512_core_amx;
}

void BFloat16Product::Run(int64_t m, int64_t n, int64_t k, const uint16_t* a,
                          int64_t lda, const uint16_t* b, int64_t ldb, float* c,
                          int64_t ldc) {
  if (impl_->has_tiles && m <= kTileProductRows &&
      k % kTileProductInputs == 0) {
    BFloat16Tiles(m, n, k, a, lda, b, ldb, c, ldc,
                  reinterpret_cast<uint32_t*>(impl_->tile_scratch.data()));
    return;
  }
  try {
    const auto desc = impl_->Describe(m, n, k, lda, ldb, ldc);
    const auto at = [&](const dnnl::memory::desc& d, const void* data) {
      return dnnl::memory(d, impl_->engine, const_cast<void*>(data));
    };
    dnnl::matmul(desc).execute(impl_->stream,
                               {{DNNL_ARG_SRC, at(desc.src_desc(), a)},
                                {DNNL_ARG_WEIGHTS, at(desc.weights_desc(), b)},
                                {DNNL_ARG_DST, at(desc.dst_desc(), c)}});
    impl_->stream.wait();
  } catch (const dnnl::error& e) {
    H2O_CHECK(false) << "oneDNN bf16 " << m << " x " << n << " x " << k << ": "
                     << e.what();
  }
}

}  // namespace h2o::cpu
