// Makes and compares the proofs of the mesh's handshake.
#include "parallel/mesh_proof.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>

#include <algorithm>
#include <string>

#include "base/check.h"
#include "base/entropy.h"

namespace h2o {
MeshChallenge NewMeshChallenge() {
  MeshChallenge challenge;
  const std::string bytes = RandomBytes(challenge.size());
  std::copy(bytes.begin(), bytes.end(), challenge.begin());
  return challenge;
}

MeshProof ProofOf(std::string_view secret, MeshEnd end, const MeshTalk& talk) {
  std::string said(1, static_cast<char>(end));
  const auto append = [&said](const auto& value) {
    said.append(reinterpret_cast<const char*>(&value), sizeof(value));
  };
  append(talk.nonce);
  append(talk.caller);
  append(talk.listener);
  append(talk.size);
  append(talk.of_caller);
  append(talk.of_listener);
  MeshProof proof;
  unsigned int size = 0;
  H2O_CHECK(HMAC(EVP_sha256(), secret.data(), static_cast<int>(secret.size()),
                 reinterpret_cast<const unsigned char*>(said.data()),
                 said.size(), proof.data(), &size) != nullptr &&
            size == proof.size());
  return proof;
}

bool IsEqual(const MeshProof& a, const MeshProof& b) {
  return CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

}  // namespace h2o
