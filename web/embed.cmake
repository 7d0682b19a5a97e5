# Writes TO, the source with the page: page.html of the folder FROM with its
# style and its script inside, and the hashes that browsers compare these with.
file(READ ${FROM}/page.html html)
file(READ ${FROM}/page.css style)
file(READ ${FROM}/page.js script)
string(REPLACE "@STYLE@" "${style}" html "${html}")
string(REPLACE "@SCRIPT@" "${script}" html "${html}")
string(SHA256 STYLE_HASH "${style}")
string(SHA256 SCRIPT_HASH "${script}")
string(SHA256 PAGE_HASH "${html}")
file(READ ${FROM}/page.cc.in source)
string(CONFIGURE "${source}" source @ONLY)
string(REPLACE "#PAGE#" "${html}" source "${source}")
file(WRITE ${TO} "${source}")
