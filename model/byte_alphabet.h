// The alphabet of vocab.json and merges.txt, in which every byte is a character
// that can be printed.
#pragma once

#include <array>
#include <string>

#include "absl/container/flat_hash_map.h"

namespace h2o {

// GPT-2 writes a byte as a character: printable Latin-1 as itself, the others
// as U+0100 and up, in order.
class ByteAlphabet {
 public:
  ByteAlphabet() {
    int next = 256;
    for (int b = 0; b < 256; ++b) {
      const bool itself = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) ||
                          (b >= 174 && b <= 255);
      const int code_point = itself ? b : next++;
      if (code_point < 0x80) {
        characters_[b] = std::string(1, static_cast<char>(code_point));
      } else {  // none is above U+07FF
        characters_[b] = {static_cast<char>(0xc0 | (code_point >> 6)),
                          static_cast<char>(0x80 | (code_point & 0x3f))};
      }
      bytes_[characters_[b]] = static_cast<char>(b);
    }
  }
  const std::string& Character(int byte) const { return characters_[byte]; }

  // The bytes that `token` writes; a token with any other character (an added
  // one) stands for itself.
  std::string Bytes(const std::string& token) const {
    std::string bytes;
    for (size_t i = 0; i < token.size();) {
      const size_t length = static_cast<unsigned char>(token[i]) < 0x80 ? 1 : 2;
      const auto it = bytes_.find(token.substr(i, length));
      if (it == bytes_.end()) return token;
      bytes.push_back(it->second);
      i += length;
    }
    return bytes;
  }

 private:
  std::array<std::string, 256> characters_;
  absl::flat_hash_map<std::string, char> bytes_;
};

}  // namespace h2o
