// Finds added tokens in texts.
#include "model/added_tokens.h"

#include <algorithm>

namespace h2o {
namespace {

// The characters of Unicode's White_Space, in UTF-8.
constexpr std::string_view kSpaces[] = {
    "\x09",   "\x0a",   "\x0b",   "\x0c",   "\x0d",   " ",      "\u0085",
    "\u00a0", "\u1680", "\u2000", "\u2001", "\u2002", "\u2003", "\u2004",
    "\u2005", "\u2006", "\u2007", "\u2008", "\u2009", "\u200a", "\u2028",
    "\u2029", "\u202f", "\u205f", "\u3000"};

size_t LeadingSpaceBytes(std::string_view text) {
  size_t n = 0;
  const auto next = [&] {
    for (std::string_view s : kSpaces) {
      if (text.substr(n).starts_with(s)) return s.size();
    }
    return size_t{0};
  };
  while (const size_t more = next()) n += more;
  return n;
}

size_t TrailingSpaceBytes(std::string_view text) {
  size_t n = 0;
  const auto next = [&] {
    for (std::string_view s : kSpaces) {
      if (text.substr(0, text.size() - n).ends_with(s)) return s.size();
    }
    return size_t{0};
  };
  while (const size_t more = next()) n += more;
  return n;
}

}  // namespace

int64_t CountBytesBesideSpace(std::string_view text) {
  int64_t count = 0;
  for (size_t i = 0; i < text.size();) {
    const auto byte = static_cast<unsigned char>(text[i]);
    // Only these begin a character of kSpaces.
    const bool may_be_space =
        byte <= 0x20 || byte == 0xc2 || (byte >= 0xe1 && byte <= 0xe3);
    const size_t spaces =
        may_be_space ? LeadingSpaceBytes(text.substr(i)) : size_t{0};
    if (spaces == 0) ++count;
    i += std::max<size_t>(spaces, 1);
  }
  return count;
}

void AddedTokenFinder::Add(const AddedToken& token) {
  tokens_.push_back(token);
  std::stable_sort(tokens_.begin(), tokens_.end(),
                   [](const AddedToken& a, const AddedToken& b) {
                     return a.content.size() > b.content.size();
                   });
  may_begin_[static_cast<unsigned char>(token.content[0])] = true;
}

bool AddedTokenFinder::strips() const {
  return std::any_of(
      tokens_.begin(), tokens_.end(),
      [](const AddedToken& token) { return token.lstrip || token.rstrip; });
}

void AddedTokenFinder::Split(
    std::string_view text,
    absl::FunctionRef<void(std::string_view piece)> on_text,
    absl::FunctionRef<void(int32_t id)> on_token) const {
  size_t done = 0;
  for (size_t i = 0; i < text.size();) {
    const AddedToken* token = At(text.substr(i));
    if (token == nullptr) {
      ++i;
      continue;
    }
    size_t begin = i, end = i + token->content.size();
    i = end;
    if (token->lstrip) {
      // Never what the token before has taken.
      begin -= TrailingSpaceBytes(text.substr(done, begin - done));
    }
    if (token->rstrip) end += LeadingSpaceBytes(text.substr(end));
    if (done < begin) on_text(text.substr(done, begin - done));
    on_token(token->id);
    done = end;
    i = std::max(i, done);
  }
  if (done < text.size()) on_text(text.substr(done));
}

const AddedToken* AddedTokenFinder::At(std::string_view text) const {
  if (!may_begin_[static_cast<unsigned char>(text[0])]) return nullptr;
  for (const AddedToken& token : tokens_) {
    if (text.starts_with(token.content)) return &token;
  }
  return nullptr;
}

}  // namespace h2o
