// The tensor cores and what feeds them: copies into shared memory, 8x8
// matrices from there into registers, products.  One named function each.
//
// Fragments, of a warp of 32 lanes, with g = lane / 4 and t = lane % 4:
//
//   A [16 rows, 16]        a[0] (g, 2t..2t+1)      a[1] (g + 8, 2t..2t+1)
//                          a[2] (g, 2t+8..2t+9)    a[3] (g + 8, 2t+8..2t+9)
//   B [16, 8 columns]      b0 (2t..2t+1, g)        b1 (2t+8..2t+9, g)
//   C [16 rows, 8 columns] c[0], c[1] (g, 2t..)    c[2], c[3] (g + 8, 2t..)
//
// Two C fragments side by side, rounded to 16 bits, are one A fragment.  A warp
// group (4 warps) holds 64 rows of A and C: warp w of it rows 16 w and on.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

#include "kernels/cuda/ptx.cuh"

namespace h2o::cuda {

// Products of warp groups (wgmma) are of sm_90a alone.
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
inline constexpr bool kHasGroupProducts = true;
#else
inline constexpr bool kHasGroupProducts = false;
#endif

// ---- copies of 16 bytes into shared memory ----------------------------------

// Zeros instead, and `global` is not read, unless `wanted`.
__device__ __forceinline__ void CopyAsync(uint32_t shared, const void* global,
                                          bool wanted) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared),
               "l"(global), "r"(wanted ? 16 : 0)
               : "memory");
}
__device__ __forceinline__ void CommitCopies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
// Waits until no more than kPending of this thread's groups are under way.
template <int kPending>
__device__ __forceinline__ void WaitForCopies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// ---- matrices of 8 x 8 elements of 16 bits ----------------------------------

// Matrix i has its rows at the addresses that lanes 8 i to 8 i + 7 give; lane
// gets row g, columns 2t and 2t + 1 of each.
__device__ __forceinline__ void LoadMatrices(uint32_t shared,
                                             uint32_t (&r)[4]) {
  asm volatile(
      "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
      : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
      : "r"(shared)
      : "memory");
}
// The same, but rows 2t and 2t + 1 of column g.
__device__ __forceinline__ void LoadTransposed(uint32_t shared,
                                               uint32_t (&r)[4]) {
  asm volatile(
      "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
      : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
      : "r"(shared)
      : "memory");
}

// A matrix that lanes hold row by row, as LoadMatrices gives it, transposed.
__device__ __forceinline__ uint32_t Transpose(uint32_t pair) {
  uint32_t transposed;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;"
               : "=r"(transposed)
               : "r"(pair));
  return transposed;
}

// ---- products of a warp -----------------------------------------------------

// c += a b.
template <class T>
__device__ __forceinline__ void Multiply(float (&c)[4], const uint32_t (&a)[4],
                                         uint32_t b0, uint32_t b1) {
  if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  } else {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
}

// Two floats, rounded, in one register; `low` is the element before.
template <class T>
__device__ __forceinline__ uint32_t Pack(float low, float high) {
  uint32_t pair;
  if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  } else {
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  }
  return pair;
}

// 2^x to 2 units in the last place; 0 for minus infinity.
__device__ __forceinline__ float Exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// ---- products of a warp group -----------------------------------------------
//
// They are asynchronous.  Call FenceProducts, the products, CommitProducts,
// then WaitForProducts and Settle of what they wrote.  Only then may a thread
// touch the registers or overwrite the shared memory that they use.

// A warp group keeps so many registers a thread, or gets them once others have
// given theirs back; of sm_90a alone.
template <int kRegisters>
__device__ __forceinline__ void GiveRegistersBack() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ __forceinline__ void TakeRegisters() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

// How 16-byte chunks of shared memory are permuted: chunk number ^= row number,
// both counted from addresses.
enum class Swizzle : uint64_t {
  k128Bytes = 1,  // rows of 8 chunks: address bits 4-6 ^= bits 7-9
  k32Bytes = 3,   // rows of 2 chunks: address bit 4 ^= bit 7
};

// Names an operand in shared memory: rows as wide as `swizzle` says, in groups
// of 8 rows, `group_bytes` from one to the next.
__device__ __forceinline__ uint64_t OperandAt(uint32_t shared, Swizzle swizzle,
                                              uint32_t group_bytes) {
  return static_cast<uint64_t>((shared & 0x3ffff) >> 4) |
         uint64_t{1} << 16 |  // not used by layouts one swizzle wide
         static_cast<uint64_t>(group_bytes >> 4) << 32 |
         static_cast<uint64_t>(swizzle) << 62;
}

// The same in two halves: further into the operand, only the lower moves.
struct SplitOperand {
  uint32_t low, high;

  __device__ __forceinline__ SplitOperand(uint32_t shared, Swizzle swizzle,
                                          uint32_t group_bytes)
      : low((shared & 0x3ffff) >> 4 | 1 << 16),
        high(group_bytes >> 4 | static_cast<uint32_t>(swizzle) << 30) {}
  __device__ __forceinline__ uint64_t At(uint32_t bytes) const {
    return uint64_t{high} << 32 | (low + (bytes >> 4));
  }
};

// Makes this thread's writes to shared memory, and the copies it has waited
// for, visible to the tensor cores.  Every writer calls it before the barrier.
__device__ __forceinline__ void ShowToTensorCores() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
__device__ __forceinline__ void FenceProducts() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void CommitProducts() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
// Until no more than kPending commits are under way.
template <int kPending = 0>
__device__ __forceinline__ void WaitForProducts() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}
// Keeps the compiler from reading c before the wait.
template <int kTiles>
__device__ __forceinline__ void Settle(int32_t (&c)[kTiles][4]) {
#pragma unroll
  for (int j = 0; j < kTiles; ++j) {
#pragma unroll
    for (int e = 0; e < 4; ++e) asm volatile("" : "+r"(c[j][e])::"memory");
  }
}
template <int kTiles>
__device__ __forceinline__ void Settle(float (&c)[kTiles][4]) {
#pragma unroll
  for (int j = 0; j < kTiles; ++j) {
#pragma unroll
    for (int e = 0; e < 4; ++e) asm volatile("" : "+f"(c[j][e])::"memory");
  }
}

// The registers of C [64 rows, 16 to 256 columns]: a C fragment a warp for each
// 8 of them.
#define H2O_C(j) "+f"(c[j][0]), "+f"(c[j][1]), "+f"(c[j][2]), "+f"(c[j][3])
#define H2O_C16 H2O_C(0), H2O_C(1)
#define H2O_C32 H2O_C16, H2O_C(2), H2O_C(3)
#define H2O_C48 H2O_C32, H2O_C(4), H2O_C(5)
#define H2O_C64 H2O_C48, H2O_C(6), H2O_C(7)
#define H2O_C96 H2O_C64, H2O_C(8), H2O_C(9), H2O_C(10), H2O_C(11)
#define H2O_C128 H2O_C96, H2O_C(12), H2O_C(13), H2O_C(14), H2O_C(15)
#define H2O_C192                                                              \
  H2O_C128, H2O_C(16), H2O_C(17), H2O_C(18), H2O_C(19), H2O_C(20), H2O_C(21), \
      H2O_C(22), H2O_C(23)
#define H2O_C256                                                              \
  H2O_C192, H2O_C(24), H2O_C(25), H2O_C(26), H2O_C(27), H2O_C(28), H2O_C(29), \
      H2O_C(30), H2O_C(31)
#define H2O_8_NAMES "%0, %1, %2, %3, %4, %5, %6, %7"
#define H2O_16_NAMES H2O_8_NAMES ", %8, %9, %10, %11, %12, %13, %14, %15"
#define H2O_24_NAMES H2O_16_NAMES ", %16, %17, %18, %19, %20, %21, %22, %23"
#define H2O_32_NAMES H2O_24_NAMES ", %24, %25, %26, %27, %28, %29, %30, %31"
#define H2O_48_NAMES                                \
  H2O_32_NAMES                                      \
  ", %32, %33, %34, %35, %36, %37, %38, %39, %40, " \
  "%41, %42, %43, %44, %45, %46, %47"
#define H2O_64_NAMES                         \
  H2O_48_NAMES                               \
  ", %48, %49, %50, %51, %52, %53, %54, %55" \
  ", %56, %57, %58, %59, %60, %61, %62, %63"
#define H2O_96_NAMES                         \
  H2O_64_NAMES                               \
  ", %64, %65, %66, %67, %68, %69, %70, %71" \
  ", %72, %73, %74, %75, %76, %77, %78, %79" \
  ", %80, %81, %82, %83, %84, %85, %86, %87" \
  ", %88, %89, %90, %91, %92, %93, %94, %95"
#define H2O_128_NAMES                                \
  H2O_96_NAMES                                       \
  ", %96, %97, %98, %99, %100, %101, %102, %103"     \
  ", %104, %105, %106, %107, %108, %109, %110, %111" \
  ", %112, %113, %114, %115, %116, %117, %118, %119" \
  ", %120, %121, %122, %123, %124, %125, %126, %127"
#define H2O_C16_NAMES "{" H2O_8_NAMES "}"
#define H2O_C64_NAMES "{" H2O_32_NAMES "}"

// The product of `a` and `b` into `c`, if `add` onto it.  `registers`: of C;
// the others are the numbers of the operands.
#define H2O_GROUP_MULTIPLY(format, columns, registers, a_at, b_at, p_at) \
  asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, %" #p_at            \
               ", 0;\nwgmma.mma_async.sync.aligned.m64n" #columns        \
               "k16.f32." format "." format " {" H2O_##registers##_NAMES \
               "}, %" #a_at ", %" #b_at ", add, 1, 1, 0, 0;\n}"          \
               : H2O_C##columns                                          \
               : "l"(a), "l"(b), "r"(static_cast<int>(add)))
#define H2O_GROUP_MULTIPLIES(format)                  \
  do {                                                \
    if constexpr (kColumns == 16) {                   \
      H2O_GROUP_MULTIPLY(format, 16, 8, 8, 9, 10);    \
    } else if constexpr (kColumns == 32) {            \
      H2O_GROUP_MULTIPLY(format, 32, 16, 16, 17, 18); \
    } else if constexpr (kColumns == 64) {            \
      H2O_GROUP_MULTIPLY(format, 64, 32, 32, 33, 34); \
    } else {                                          \
      H2O_GROUP_MULTIPLY(format, 96, 48, 48, 49, 50); \
    }                                                 \
  } while (false)

// c [64, kColumns] = a b, or += if `add`; a [64, 16] and b [kColumns, 16] have
// their 16 side by side in shared memory.
template <class T, int kColumns = 64>
__device__ __forceinline__ void GroupMultiply(float (*c)[4], uint64_t a,
                                              uint64_t b, bool add) {
  static_assert(kColumns == 16 || kColumns == 32 || kColumns == 64 ||
                kColumns == 96);
  if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    H2O_GROUP_MULTIPLIES("bf16");
  } else {
    H2O_GROUP_MULTIPLIES("f16");
  }
}

#define H2O_GROUP_MULTIPLY_HELD(format, columns, registers, a0, a1, a2, a3, \
                                b_at, p_at)                                 \
  asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, %" #p_at               \
               ", 0;\nwgmma.mma_async.sync.aligned.m64n" #columns           \
               "k16.f32." format "." format " {" H2O_##registers##_NAMES    \
               "}, {%" #a0 ", %" #a1 ", %" #a2 ", %" #a3 "}, %" #b_at       \
               ", add, 1, 1, 0;\n}"                                         \
               : H2O_C##columns                                             \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b),        \
                 "r"(static_cast<int>(add)))
#define H2O_GROUP_MULTIPLIES_HELD(format)                                      \
  do {                                                                         \
    if constexpr (kColumns == 16) {                                            \
      H2O_GROUP_MULTIPLY_HELD(format, 16, 8, 8, 9, 10, 11, 12, 13);            \
    } else if constexpr (kColumns == 32) {                                     \
      H2O_GROUP_MULTIPLY_HELD(format, 32, 16, 16, 17, 18, 19, 20, 21);         \
    } else if constexpr (kColumns == 48) {                                     \
      H2O_GROUP_MULTIPLY_HELD(format, 48, 24, 24, 25, 26, 27, 28, 29);         \
    } else if constexpr (kColumns == 64) {                                     \
      H2O_GROUP_MULTIPLY_HELD(format, 64, 32, 32, 33, 34, 35, 36, 37);         \
    } else if constexpr (kColumns == 96) {                                     \
      H2O_GROUP_MULTIPLY_HELD(format, 96, 48, 48, 49, 50, 51, 52, 53);         \
    } else if constexpr (kColumns == 128) {                                    \
      H2O_GROUP_MULTIPLY_HELD(format, 128, 64, 64, 65, 66, 67, 68, 69);        \
    } else if constexpr (kColumns == 192) {                                    \
      H2O_GROUP_MULTIPLY_HELD(format, 192, 96, 96, 97, 98, 99, 100, 101);      \
    } else {                                                                   \
      H2O_GROUP_MULTIPLY_HELD(format, 256, 128, 128, 129, 130, 131, 132, 133); \
    }                                                                          \
  } while (false)

// The same with each warp's A fragment held in registers, which the warp must
// leave alone until it has waited for the product.
template <class T, int kColumns>
__device__ __forceinline__ void GroupMultiplyHeld(float (*c)[4],
                                                  const uint32_t (&a)[4],
                                                  uint64_t b, bool add) {
  static_assert(kColumns == 16 || kColumns == 32 || kColumns == 48 ||
                kColumns == 64 || kColumns == 96 || kColumns == 128 ||
                kColumns == 192 || kColumns == 256);
  if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    H2O_GROUP_MULTIPLIES_HELD("bf16");
  } else {
    H2O_GROUP_MULTIPLIES_HELD("f16");
  }
}

// The same with each warp's A fragment in registers.  kTransposed: b is
// [16, 64 columns], a row's columns side by side in shared memory.
template <class T, bool kTransposed>
__device__ __forceinline__ void GroupMultiply(float (*c)[4],
                                              const uint32_t (&a)[4],
                                              uint64_t b, bool add) {
  if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    asm volatile(
        "{\n.reg .pred add;\nsetp.ne.b32 add, %37, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 " H2O_C64_NAMES
        ", {%32, %33, %34, %35}, %36, add, 1, 1, %38;\n}"
        : H2O_C64
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b),
          "r"(static_cast<int>(add)), "n"(kTransposed ? 1 : 0));
  } else {
    asm volatile(
        "{\n.reg .pred add;\nsetp.ne.b32 add, %37, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 " H2O_C64_NAMES
        ", {%32, %33, %34, %35}, %36, add, 1, 1, %38;\n}"
        : H2O_C64
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b),
          "r"(static_cast<int>(add)), "n"(kTransposed ? 1 : 0));
  }
}

// c [64, 16] += a b, b [16, 16 columns], a row's columns side by side.
template <class T>
__device__ __forceinline__ void GroupMultiplyNarrow(float (*c)[4],
                                                    const uint32_t (&a)[4],
                                                    uint64_t b) {
  if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    asm volatile(
        "{\n.reg .pred add;\nsetp.ne.b32 add, %13, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n16k16.f32.bf16.bf16 " H2O_C16_NAMES
        ", {%8, %9, %10, %11}, %12, add, 1, 1, 1;\n}"
        : H2O_C16
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(1));
  } else {
    asm volatile(
        "{\n.reg .pred add;\nsetp.ne.b32 add, %13, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n16k16.f32.f16.f16 " H2O_C16_NAMES
        ", {%8, %9, %10, %11}, %12, add, 1, 1, 1;\n}"
        : H2O_C16
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(1));
  }
}

// c [64, kColumns] = a b, or += if `add`, of whole numbers: a [64, 32] of 0 to
// 255, held as for GroupMultiplyHeld, a byte a number: a[0] (g, 4t..4t+3),
// a[1] (g + 8, 4t..), a[2] (g, 4t+16..), a[3] (g + 8, 4t+16..); b
// [kColumns, 32] of -128 to 127, side by side in shared memory.
#define H2O_D(j) "+r"(c[j][0]), "+r"(c[j][1]), "+r"(c[j][2]), "+r"(c[j][3])
template <int kColumns>
__device__ __forceinline__ void GroupMultiplyWhole(int32_t (*c)[4],
                                                   const uint32_t (&a)[4],
                                                   uint64_t b, bool add) {
  static_assert(kColumns == 16 || kColumns == 32);
  if constexpr (kColumns == 16) {
    asm volatile(
        "{\n.reg .pred add;\nsetp.ne.b32 add, %13, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n16k32.s32.u8.s8 {" H2O_8_NAMES
        "}, {%8, %9, %10, %11}, %12, add;\n}"
        : H2O_D(0), H2O_D(1)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b),
          "r"(static_cast<int>(add)));
  } else {
    asm volatile(
        "{\n.reg .pred add;\nsetp.ne.b32 add, %21, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n32k32.s32.u8.s8 {" H2O_16_NAMES
        "}, {%16, %17, %18, %19}, %20, add;\n}"
        : H2O_D(0), H2O_D(1), H2O_D(2), H2O_D(3)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b),
          "r"(static_cast<int>(add)));
  }
}
#undef H2O_D

#undef H2O_C
#undef H2O_C16
#undef H2O_C32
#undef H2O_C64
#undef H2O_C96
#undef H2O_C128
#undef H2O_C192
#undef H2O_C256
#undef H2O_8_NAMES
#undef H2O_16_NAMES
#undef H2O_32_NAMES
#undef H2O_48_NAMES
#undef H2O_64_NAMES
#undef H2O_96_NAMES
#undef H2O_128_NAMES
#undef H2O_C16_NAMES
#undef H2O_C64_NAMES
#undef H2O_GROUP_MULTIPLY
#undef H2O_GROUP_MULTIPLIES
#undef H2O_GROUP_MULTIPLY_HELD
#undef H2O_GROUP_MULTIPLIES_HELD

}  // namespace h2o::cuda
