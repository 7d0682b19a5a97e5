// What Python does with texts, on UTF-8.  Characters are Unicode's code points;
// all texts given are valid UTF-8.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace h2o::jinja {

int64_t CountCharacters(std::string_view text);

// The byte at which the character number `index` begins; the text's end if it
// has fewer.
size_t OffsetOf(std::string_view text, int64_t index);

// The characters one by one, as parts of `text`.
std::vector<std::string_view> CharactersOf(std::string_view text);

// str.isspace of the character that `text` begins with; its bytes in `length`.
bool BeginsWithSpace(std::string_view text, size_t* length);

// str.lstrip, str.rstrip: of white space, or of any character in `characters`.
std::string_view StripLeft(std::string_view text);
std::string_view StripRight(std::string_view text);
std::string_view StripLeft(std::string_view text, std::string_view characters);
std::string_view StripRight(std::string_view text, std::string_view characters);

// str.upper and so on, one character for one.  (Python makes two of a few:
// "SS" of the German sharp s.)
std::string Upper(std::string_view text);
std::string Lower(std::string_view text);
std::string Capitalize(std::string_view text);
std::string Title(std::string_view text);

// repr(text): in quotes, with escapes.
std::string Quote(std::string_view text);

// json.dumps(text), with ensure_ascii or without.
std::string JsonQuote(std::string_view text, bool ascii);

// repr(number): the shortest digits that read back as the same number.
std::string FormatDouble(double number);

// str.split() at white space, and at `separator`; at most `most` times unless
// that is negative.  str.rsplit counts from the right.
std::vector<std::string_view> SplitAtSpace(std::string_view text, int64_t most);
std::vector<std::string_view> Split(std::string_view text,
                                    std::string_view separator, int64_t most);
std::vector<std::string_view> SplitFromRight(std::string_view text,
                                             std::string_view separator,
                                             int64_t most);
std::vector<std::string_view> SplitLines(std::string_view text);

// str.replace(from, to, most), all of them if `most` is negative.  An empty
// `from` stands between all characters.
std::string Replace(std::string_view text, std::string_view from,
                    std::string_view to, int64_t most);

// Appends the character in UTF-8; false for no character of Unicode.
bool AppendCharacter(uint32_t code, std::string* out);

}  // namespace h2o::jinja
