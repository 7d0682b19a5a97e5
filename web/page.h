// The page of the playground as embed.cmake makes it: page.html with page.css
// and page.js inside.
#pragma once

namespace h2o {

extern const char kPage[];
// SHA-256 in hexadecimal: of the page, its style and its script.
extern const char kPageHash[];
extern const char kStyleHash[];
extern const char kScriptHash[];

}  // namespace h2o
