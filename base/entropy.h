// Random numbers that no one can foretell: for seeds that a user did not give,
// for names and for nonces.
#pragma once

#include <cstdint>
#include <random>

namespace h2o {

// 64 bits from the operating system.  Any thread.
inline uint64_t RandomBits64() {
  std::random_device device;
  return uint64_t{device()} << 32 | device();
}

}  // namespace h2o
