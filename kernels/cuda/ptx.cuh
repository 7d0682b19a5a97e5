// The instructions that C++ has no words for, one named function each.
//
// The target is sm_90.  What older devices lack has a substitute of the same
// name (a ring filled by cp.async instead of bulk copies, no dependent launch).
// Clusters have none: on older devices their functions trap, and no kernel with
// clusters is launched.
#pragma once

#include <cstdint>

namespace h2o::cuda {

// ---- mbarrier: threads and bulk copies meet in shared memory ----------------

__device__ __forceinline__ uint32_t SharedAddress(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// Worked out once and kept, rather than again at every use.
__device__ __forceinline__ uint32_t Held(uint32_t x) {
  uint32_t held;
  asm volatile("mov.u32 %0, %1;" : "=r"(held) : "r"(x));
  return held;
}
__device__ __forceinline__ uint32_t HeldSharedAddress(const void* p) {
  return Held(SharedAddress(p));
}
__device__ __forceinline__ uint4 LoadShared16(uint32_t address) {
  uint4 v;
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "r"(address)
               : "memory");
  return v;
}
__device__ __forceinline__ uint32_t LoadShared4(uint32_t address) {
  uint32_t v;
  asm volatile("ld.shared.u32 %0, [%1];" : "=r"(v) : "r"(address) : "memory");
  return v;
}
__device__ __forceinline__ uint32_t LoadShared2(uint32_t address) {
  uint16_t v;
  asm volatile("ld.shared.u16 %0, [%1];" : "=h"(v) : "r"(address) : "memory");
  return v;
}

__device__ __forceinline__ void InitBarrier(uint64_t* barrier,
                                            uint32_t arrivals) {
  asm volatile(
      "mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(SharedAddress(barrier)),
      "r"(arrivals)
      : "memory");
}

// Makes barrier inits visible to the copy engine.
__device__ __forceinline__ void FenceBarrierInit() {
#if __CUDA_ARCH__ >= 900
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
}

// Barriers, here and below, are named by pointer or by shared address.
__device__ __forceinline__ void Arrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier)
               : "memory");
}
__device__ __forceinline__ void Arrive(uint64_t* barrier) {
  Arrive(SharedAddress(barrier));
}

// One arrival, and `bytes` more to come from bulk copies.
__device__ __forceinline__ void ArriveExpect(uint64_t* barrier,
                                             uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(
                   SharedAddress(barrier)),
               "r"(bytes)
               : "memory");
}

#if __CUDA_ARCH__ >= 900
#define H2O_MBARRIER_WAIT "mbarrier.try_wait"
#else
#define H2O_MBARRIER_WAIT "mbarrier.test_wait"
#endif
// Waits until the phase of parity `parity` is complete.
__device__ __forceinline__ void Wait(uint32_t barrier, uint32_t parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n" H2O_MBARRIER_WAIT
      ".parity.shared::cta.b64 done, [%0], %1;\n"
      "@done bra over;\n"
      "bra again;\n"
      "over:\n"
      "}" ::"r"(barrier),
      "r"(parity)
      : "memory");
}
__device__ __forceinline__ void Wait(uint64_t* barrier, uint32_t parity) {
  Wait(SharedAddress(barrier), parity);
}
#undef H2O_MBARRIER_WAIT

// The first `threads` threads (whole warps) that come to block barrier `id`
// go on together.  Id 0 is __syncthreads.
__device__ __forceinline__ void SyncThreads(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
// The same without waiting: what is written before is seen by those that wait.
__device__ __forceinline__ void ArriveThreads(int barrier, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}

// ---- copies -----------------------------------------------------------------

// bytes (a multiple of 16) from global to shared memory by the copy engine,
// completing on `barrier`.
__device__ __forceinline__ void BulkCopy(void* shared, const void* global,
                                         uint32_t bytes, uint64_t* barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes "
      "[%0], [%1], %2, [%3];" ::"r"(SharedAddress(shared)),
      "l"(global), "r"(bytes), "r"(SharedAddress(barrier))
      : "memory");
}

// The same, leaving in the L2 cache what `policy` says; of sm_90 alone.
__device__ __forceinline__ void BulkCopy(void* shared, const void* global,
                                         uint32_t bytes, uint64_t* barrier,
                                         uint64_t policy) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes."
      "L2::cache_hint [%0], [%1], %2, [%3], %4;" ::"r"(SharedAddress(shared)),
      "l"(global), "r"(bytes), "r"(SharedAddress(barrier)), "l"(policy)
      : "memory");
}

// The box of a matrix that begins at (row, column), as the CUtensorMap at
// `matrix` describes them, completing on `barrier` as all of its bytes; of
// sm_90 alone.  The second leaves in the L2 cache what `policy` says.
__device__ __forceinline__ void CopyBox(void* shared, const void* matrix,
                                        int column, int row,
                                        uint64_t* barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::"
      "bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(SharedAddress(shared)),
      "l"(matrix), "r"(column), "r"(row), "r"(SharedAddress(barrier))
      : "memory");
}
__device__ __forceinline__ void CopyBox(void* shared, const void* matrix,
                                        int column, int row, uint64_t* barrier,
                                        uint64_t policy) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::"
      "bytes.L2::cache_hint [%0], [%1, {%2, %3}], [%4], %5;" ::"r"(
          SharedAddress(shared)),
      "l"(matrix), "r"(column), "r"(row), "r"(SharedAddress(barrier)),
      "l"(policy)
      : "memory");
}
// True in one lane of a warp.  Only behind this does the compiler know that
// copies are one thread's; else it loops over the lanes at each.  Of sm_90
// alone.
__device__ __forceinline__ bool ElectOne() {
  uint32_t chosen;
  asm volatile(
      "{\n.reg .pred p;\nelect.sync _|p, 0xffffffff;\n"
      "selp.b32 %0, 1, 0, p;\n}"
      : "=r"(chosen));
  return chosen != 0;
}
// The policy for what is read once.
__device__ __forceinline__ uint64_t EvictFirst() {
  uint64_t policy;
  asm("createpolicy.fractional.L2::evict_first.b64 %0;" : "=l"(policy));
  return policy;
}

// The producing warp of a ring, on any device: its lanes below CopyLanes()
// each call BeginCopies, then Copy for every piece of the stage, then
// EndCopies.  `full` is initialized with CopyLanes() arrivals.
__device__ constexpr int CopyLanes() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
  return 32;
#else
  return 1;
#endif
}
// `bytes` of the whole stage.
__device__ __forceinline__ void BeginCopies(uint64_t* full, uint32_t bytes) {
#if __CUDA_ARCH__ >= 900
  ArriveExpect(full, bytes);
#endif
}
// Addresses and bytes are multiples of 16.
__device__ __forceinline__ void Copy(void* shared, const void* global,
                                     uint32_t bytes, uint64_t* full, int lane) {
#if __CUDA_ARCH__ >= 900
  BulkCopy(shared, global, bytes, full);
#else
  for (uint32_t i = 16 * lane; i < bytes; i += 16 * CopyLanes()) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(
                     SharedAddress(shared) + i),
                 "l"(static_cast<const char*>(global) + i)
                 : "memory");
  }
#endif
}
__device__ __forceinline__ void EndCopies(uint64_t* full) {
#if __CUDA_ARCH__ < 900
  asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(
                   SharedAddress(full))
               : "memory");
#endif
}

// Asks for the line of `global` to be brought into the L2 cache.
__device__ __forceinline__ void PrefetchLine(const void* global) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(global));
}

// This block's dynamic shared memory.
__device__ __forceinline__ unsigned char* DynamicShared() {
  extern __shared__ __align__(128) unsigned char h2o_dynamic_shared[];
  return h2o_dynamic_shared;
}

// ---- clusters ---------------------------------------------------------------

// The two halves of a barrier of all threads of the cluster.  What was written
// to any block's shared memory before ClusterArrive is seen after ClusterWait.
__device__ __forceinline__ void ClusterArrive() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.release;" ::: "memory");
#else
  __trap();
#endif
}
__device__ __forceinline__ void ClusterWait() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.wait.acquire;" ::: "memory");
#else
  __trap();
#endif
}

// Write to where block `rank` of the cluster has its `*shared`.
__device__ __forceinline__ uint32_t AddressInRank(const void* shared,
                                                  int rank) {
  uint32_t remote = 0;
#if __CUDA_ARCH__ >= 900
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;"
               : "=r"(remote)
               : "r"(SharedAddress(shared)), "r"(rank));
#endif
  return remote;
}
__device__ __forceinline__ void StoreToRank(float2* shared, int rank,
                                            float2 value) {
#if __CUDA_ARCH__ >= 900
  asm volatile("st.shared::cluster.v2.f32 [%0], {%1, %2};" ::"r"(
                   AddressInRank(shared, rank)),
               "f"(value.x), "f"(value.y)
               : "memory");
#else
  __trap();
#endif
}
__device__ __forceinline__ void StoreToRank(float4* shared, int rank,
                                            float4 value) {
#if __CUDA_ARCH__ >= 900
  asm volatile("st.shared::cluster.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(
                   AddressInRank(shared, rank)),
               "f"(value.x), "f"(value.y), "f"(value.z), "f"(value.w)
               : "memory");
#else
  __trap();
#endif
}
__device__ __forceinline__ void StoreToRank(uint64_t* shared, int rank,
                                            uint64_t value) {
#if __CUDA_ARCH__ >= 900
  asm volatile(
      "st.shared::cluster.u64 [%0], %1;" ::"r"(AddressInRank(shared, rank)),
      "l"(value)
      : "memory");
#else
  __trap();
#endif
}

// ---- memory that others write -----------------------------------------------

// Loads that ask memory every time, and stores that go there at once; each is
// whole, or for four words each half of it.
__device__ __forceinline__ uint32_t LoadVolatile(const uint32_t* p) {
  uint32_t x;
  asm volatile("ld.volatile.global.u32 %0, [%1];" : "=r"(x) : "l"(p));
  return x;
}
__device__ __forceinline__ uint4 LoadVolatile(const uint4* p) {
  uint4 x;
  asm volatile("ld.volatile.global.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
               : "l"(p));
  return x;
}
__device__ __forceinline__ void StoreVolatile(uint4* p, uint4 x) {
  asm volatile("st.volatile.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(p),
               "r"(x.x), "r"(x.y), "r"(x.z), "r"(x.w));
}
// Release and acquire across devices: a thread that acquires a released value
// also sees what was written before the release.
__device__ __forceinline__ void StoreRelease(uint32_t* p, uint32_t x) {
  asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(p), "r"(x)
               : "memory");
}
__device__ __forceinline__ uint32_t LoadAcquire(const uint32_t* p) {
  uint32_t x;
  asm volatile("ld.acquire.sys.global.u32 %0, [%1];"
               : "=r"(x)
               : "l"(p)
               : "memory");
  return x;
}

// The same within this device.
__device__ __forceinline__ void StoreReleaseGpu(uint32_t* p, uint32_t x) {
  asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(p), "r"(x)
               : "memory");
}
__device__ __forceinline__ uint32_t LoadAcquireGpu(const uint32_t* p) {
  uint32_t x;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];"
               : "=r"(x)
               : "l"(p)
               : "memory");
  return x;
}

// ---- programmatic dependent launch ------------------------------------------

// Waits until the kernels before this one are complete; returns at once where
// the launch was an ordinary one.
__device__ __forceinline__ void WaitForPrevious() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
// Lets the next kernel's blocks start.
//
// Most kernels call it after their own WaitForPrevious.  Then all kernels
// before this one are complete when the next one starts, so the next one may
// touch what they wrote even before its own wait.  StreamedProduct calls it
// first thing: the kernel before the product may still run beside the one after
// it.  Attention reads the cache before its own wait.  It follows a product,
// which follows AddNorm, and relies on AddNorm to wait before it calls
// AllowNext.
__device__ __forceinline__ void AllowNext() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

}  // namespace h2o::cuda
