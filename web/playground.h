// The playground: one page of HTML, which asks for nothing but the routes of
// the server that it comes from.
#pragma once

#include <string>
#include <string_view>

namespace h2o {

struct WebPage {
  std::string_view html;
  std::string etag;  // changes with the page; in quotes
  // Content-Security-Policy: the page's own style and script, by their hashes,
  // and requests to its own server; nothing else.
  std::string security_policy;
};

WebPage Playground();

}  // namespace h2o
