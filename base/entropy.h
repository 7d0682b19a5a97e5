// Random numbers that no one can foretell: for seeds that a user did not give,
// for names and for nonces.
#pragma once

#include <cstddef>
#include <cstdint>
#include <random>
#include <string>

namespace h2o {

// Both from the operating system, and by any thread.
inline uint64_t RandomBits64() {
  std::random_device device;
  return uint64_t{device()} << 32 | device();
}

inline std::string RandomBytes(size_t count) {
  std::string bytes(count, '\0');
  std::random_device device;
  for (char& byte : bytes) byte = static_cast<char>(device());
  return bytes;
}

}  // namespace h2o
