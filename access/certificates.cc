// Reads and checks certificates with OpenSSL.
#include "access/certificates.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <openssl/x509_vfy.h>
#include <openssl/x509v3.h>

#include <ctime>
#include <mutex>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace h2o {
namespace {

template <auto Free>
struct Freed {
  template <typename T>
  void operator()(T* it) const {
    Free(it);
  }
};
using Certificate = std::unique_ptr<X509, Freed<X509_free>>;
using Key = std::unique_ptr<EVP_PKEY, Freed<EVP_PKEY_free>>;
using Bio = std::unique_ptr<BIO, Freed<BIO_free>>;

template <typename... Parts>
absl::Status Bad(const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat(parts...));
}

Bio Reader(const std::string& text) {
  return Bio(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
}

// All certificates of a text; other blocks are passed over.
absl::StatusOr<std::vector<Certificate>> CertificatesOf(
    const std::string& pem) {
  const Bio bio = Reader(pem);
  std::vector<Certificate> certificates;
  while (X509* const next =
             PEM_read_bio_X509(bio.get(), nullptr, nullptr, nullptr)) {
    certificates.emplace_back(next);
  }
  const bool torn =
      ERR_GET_REASON(ERR_peek_last_error()) != PEM_R_NO_START_LINE;
  ERR_clear_error();
  if (torn) return Bad("a certificate in it is torn");
  if (certificates.empty()) return Bad("it holds no certificate in PEM");
  return certificates;
}

absl::StatusOr<Key> KeyOf(const std::string& pem) {
  const Bio bio = Reader(pem);
  const auto no_passphrase = [](char*, int, int, void*) { return 0; };
  Key key(PEM_read_bio_PrivateKey(bio.get(), nullptr, +no_passphrase, nullptr));
  ERR_clear_error();
  if (key == nullptr) {
    return Bad("the key is no private key in PEM, or has a passphrase");
  }
  return key;
}

std::string NameOf(const X509& certificate) {
  char text[256];
  X509_NAME_oneline(X509_get_subject_name(&certificate), text, sizeof(text));
  return text;
}

int64_t SecondsOf(const ASN1_TIME* time) {
  tm parts = {};
  return ASN1_TIME_to_tm(time, &parts) == 1 ? timegm(&parts) : 0;
}

absl::Status CheckDates(const X509& certificate, int64_t now) {
  if (now < SecondsOf(X509_get0_notBefore(&certificate))) {
    return Bad("the certificate ", NameOf(certificate), " is not valid yet");
  }
  if (now > SecondsOf(X509_get0_notAfter(&certificate))) {
    return Bad("the certificate ", NameOf(certificate), " has expired");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<int64_t> CheckCertificate(const std::string& chain,
                                         const std::string& key, int64_t now) {
  H2O_ASSIGN_OR_RETURN(const std::vector<Certificate> certificates,
                       CertificatesOf(chain));
  H2O_ASSIGN_OR_RETURN(const Key its_key, KeyOf(key));
  const bool match =
      X509_check_private_key(certificates[0].get(), its_key.get()) == 1;
  ERR_clear_error();
  if (!match) {
    return Bad("the key belongs to another certificate than ",
               NameOf(*certificates[0]));
  }
  int64_t expires = 0;
  for (size_t i = 0; i < certificates.size(); ++i) {
    H2O_RETURN_IF_ERROR(CheckDates(*certificates[i], now));
    const int64_t end = SecondsOf(X509_get0_notAfter(certificates[i].get()));
    if (i == 0 || end < expires) expires = end;
    if (i > 0 && X509_check_issued(certificates[i].get(),
                                   certificates[i - 1].get()) != X509_V_OK) {
      return Bad("the chain is out of order: ", NameOf(*certificates[i]),
                 " did not issue ", NameOf(*certificates[i - 1]));
    }
  }
  return expires;
}

struct Issuers::Store {
  std::unique_ptr<X509_STORE, Freed<X509_STORE_free>> store{X509_STORE_new()};
};

absl::StatusOr<std::shared_ptr<const Issuers>> Issuers::Parse(
    const std::string& pem) {
  H2O_ASSIGN_OR_RETURN(const std::vector<Certificate> certificates,
                       CertificatesOf(pem));
  auto store = std::make_shared<Store>();
  for (const Certificate& certificate : certificates) {
    X509_STORE_add_cert(store->store.get(), certificate.get());
  }
  return std::shared_ptr<const Issuers>(new Issuers(std::move(store)));
}

bool Issuers::Vouch(const std::string& chain) const {
  const auto certificates = CertificatesOf(chain);
  if (!certificates.ok()) return false;
  const std::unique_ptr<X509_STORE_CTX, Freed<X509_STORE_CTX_free>> context(
      X509_STORE_CTX_new());
  const std::unique_ptr<STACK_OF(X509), decltype([](STACK_OF(X509) * stack) {
                          sk_X509_free(stack);
                        })>
      between(sk_X509_new_null());
  for (size_t i = 1; i < certificates->size(); ++i) {
    sk_X509_push(between.get(), (*certificates)[i].get());
  }
  const bool vouched =
      X509_STORE_CTX_init(context.get(), store_->store.get(),
                          (*certificates)[0].get(), between.get()) == 1 &&
      X509_STORE_CTX_set_purpose(context.get(), X509_PURPOSE_SSL_CLIENT) == 1 &&
      X509_verify_cert(context.get()) == 1;
  ERR_clear_error();
  return vouched;
}

}  // namespace h2o
