// Two ranks prove to each other that they know the secret of their group, which
// they have from the coordinator, without sending it: HMAC-SHA256 (RFC 2104)
// over both ends' challenges and what they said about themselves.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace h2o {

using MeshChallenge = std::array<uint8_t, 16>;
using MeshProof = std::array<uint8_t, 32>;

MeshChallenge NewMeshChallenge();

// What both ends know of a connection once both have spoken.
struct MeshTalk {
  uint64_t nonce = 0;
  uint32_t caller = 0, listener = 0, size = 0;  // ranks, and their number
  MeshChallenge of_caller = {}, of_listener = {};
};

// An end's proof cannot be used as that of the other one.
enum class MeshEnd : uint8_t { kCaller = 1, kListener = 2 };
MeshProof ProofOf(std::string_view secret, MeshEnd end, const MeshTalk& talk);

// Takes the same time wherever they differ.
bool IsEqual(const MeshProof& a, const MeshProof& b);

}  // namespace h2o
