// Certificates for tests, made on the spot.
#pragma once

#include <openssl/bio.h>
#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

#include <cstdint>
#include <memory>
#include <string>

#include "base/check.h"

namespace h2o {

// A certificate with its key; the PEM texts of both.
struct NewCertificate {
  std::shared_ptr<X509> certificate;
  std::shared_ptr<EVP_PKEY> key;
  std::string pem, key_pem;
};

inline std::string TakePem(BIO* bio) {
  char* text = nullptr;
  const long size = BIO_get_mem_data(bio, &text);
  const std::string pem(text, static_cast<size_t>(size));
  BIO_free(bio);
  return pem;
}

// Valid from `begin` to `end` seconds from now.  `issuer`: null: itself, and it
// is a CA.
inline NewCertificate MakeCertificate(const std::string& name,
                                      const NewCertificate* issuer = nullptr,
                                      int64_t begin = -60, int64_t end = 3600) {
  static int serial = 0;
  NewCertificate made;
  made.key = {EVP_EC_gen("P-256"), EVP_PKEY_free};
  made.certificate = {X509_new(), X509_free};
  X509* const x = made.certificate.get();
  X509_set_version(x, 2);
  ASN1_INTEGER_set(X509_get_serialNumber(x), ++serial);
  X509_gmtime_adj(X509_getm_notBefore(x), static_cast<long>(begin));
  X509_gmtime_adj(X509_getm_notAfter(x), static_cast<long>(end));
  X509_NAME_add_entry_by_txt(
      X509_get_subject_name(x), "CN", MBSTRING_ASC,
      reinterpret_cast<const unsigned char*>(name.c_str()), -1, -1, 0);
  const NewCertificate& by = issuer != nullptr ? *issuer : made;
  X509_set_issuer_name(x, X509_get_subject_name(by.certificate.get()));
  X509_set_pubkey(x, made.key.get());
  if (issuer == nullptr) {
    X509_EXTENSION* const ca = X509V3_EXT_conf_nid(
        nullptr, nullptr, NID_basic_constraints, "critical,CA:TRUE");
    X509_add_ext(x, ca, -1);
    X509_EXTENSION_free(ca);
  }
  H2O_CHECK(X509_sign(x, by.key.get(), EVP_sha256()) > 0);
  BIO* bio = BIO_new(BIO_s_mem());
  PEM_write_bio_X509(bio, x);
  made.pem = TakePem(bio);
  bio = BIO_new(BIO_s_mem());
  PEM_write_bio_PrivateKey(bio, made.key.get(), nullptr, nullptr, 0, nullptr,
                           nullptr);
  made.key_pem = TakePem(bio);
  return made;
}

}  // namespace h2o
