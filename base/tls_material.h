// What one end of TLS shows and whom it believes, as PEM texts.
#pragma once

#include <string>

namespace h2o {

struct TlsMaterial {
  std::string chain;  // this end's certificate, then its issuers; empty: none
  std::string key;    // its private key
  std::string roots;  // CAs of the other end; empty: it is not checked
  bool other_end_must_show = false;  // of a server: that clients have one

  friend bool operator==(const TlsMaterial&, const TlsMaterial&) = default;
};

}  // namespace h2o
