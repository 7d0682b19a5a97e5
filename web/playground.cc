// The page of the playground and what browsers are told of it.
#include "web/playground.h"

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "web/page.h"

namespace h2o {
namespace {

// As policies name a hash.
std::string Source(absl::string_view hash) {
  return absl::StrCat("'sha256-",
                      absl::Base64Escape(absl::HexStringToBytes(hash)), "'");
}

}  // namespace

WebPage Playground() {
  return {.html = kPage,
          .etag = absl::StrCat("\"", kPageHash, "\""),
          .security_policy = absl::StrCat(
              "default-src 'none'; script-src ", Source(kScriptHash),
              "; style-src ", Source(kStyleHash),
              "; connect-src 'self'; img-src data:; base-uri 'none'; "
              "form-action 'none'; frame-ancestors 'none'")};
}

}  // namespace h2o
