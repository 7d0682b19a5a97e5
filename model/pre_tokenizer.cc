// GPT-2's word pattern, run by PCRE2 with the letters of newer Unicode
// versions.
#include "model/pre_tokenizer.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <memory>

#include "base/check.h"

namespace h2o {
namespace {

// White_Space of Unicode.  PCRE2's own \s differs: it takes U+180E.
#define H2O_SPACES                                        \
  "\\x{9}-\\x{D}\\x{20}\\x{85}\\x{A0}\\x{1680}\\x{2000}-" \
  "\\x{200A}\\x{2028}\\x{2029}\\x{202F}\\x{205F}\\x{3000}"

// Letters and numbers of Unicode 15 and 16, which Hugging Face's tokenizer
// knows and the PCRE2 of Debian 12 (Unicode 14) does not.
#define H2O_LETTERS                                                           \
  "\\p{L}"                                                                    \
  "\\x{1C89}-\\x{1C8A}\\x{A7CB}-\\x{A7CD}\\x{A7DA}-\\x{A7DC}"                 \
  "\\x{105C0}-\\x{105F3}\\x{10D4A}-\\x{10D65}\\x{10D6F}-\\x{10D85}"           \
  "\\x{10EC2}-\\x{10EC4}\\x{1123F}-\\x{11240}\\x{11380}-\\x{11389}\\x{1138B}" \
  "\\x{1138E}\\x{11390}-\\x{113B5}\\x{113B7}\\x{113D1}\\x{113D3}"             \
  "\\x{11BC0}-\\x{11BE0}\\x{11F02}\\x{11F04}-\\x{11F10}\\x{11F12}-\\x{11F33}" \
  "\\x{1342F}\\x{13441}-\\x{13446}\\x{13460}-\\x{143FA}\\x{16100}-\\x{1611D}" \
  "\\x{16D40}-\\x{16D6C}\\x{18CFF}\\x{1B132}\\x{1B155}\\x{1DF25}-\\x{1DF2A}"  \
  "\\x{1E030}-\\x{1E06D}\\x{1E4D0}-\\x{1E4EB}\\x{1E5D0}-\\x{1E5ED}\\x{1E5F0}" \
  "\\x{2B739}\\x{2EBF0}-\\x{2EE5D}\\x{31350}-\\x{323AF}"
#define H2O_NUMBERS                                                 \
  "\\p{N}"                                                          \
  "\\x{10D40}-\\x{10D49}\\x{116D0}-\\x{116E3}\\x{11BF0}-\\x{11BF9}" \
  "\\x{11F50}-\\x{11F59}\\x{16130}-\\x{16139}\\x{16D70}-\\x{16D79}" \
  "\\x{1CCF0}-\\x{1CCF9}\\x{1D2C0}-\\x{1D2D3}\\x{1E4F0}-\\x{1E4F9}" \
  "\\x{1E5F1}-\\x{1E5FA}"

// GPT-2's pattern.  Possessive (++), which changes no match but needs no stack.
constexpr char kWordPattern[] =
    "'(?:s|t|re|ve|m|ll|d)"
    "| ?[" H2O_LETTERS
    "]++"
    "| ?[" H2O_NUMBERS
    "]++"
    "| ?[^" H2O_SPACES H2O_LETTERS H2O_NUMBERS
    "]++"
    "|[" H2O_SPACES "]+(?![^" H2O_SPACES
    "])"
    "|[" H2O_SPACES "]++";

#undef H2O_SPACES
#undef H2O_LETTERS
#undef H2O_NUMBERS

const pcre2_code* WordCode() {
  static const pcre2_code* const code = [] {
    int error = 0;
    PCRE2_SIZE offset = 0;
    pcre2_code* c = pcre2_compile(
        reinterpret_cast<PCRE2_SPTR>(kWordPattern), PCRE2_ZERO_TERMINATED,
        PCRE2_UTF | PCRE2_ANCHORED, &error, &offset, nullptr);
    H2O_CHECK(c != nullptr) << "PCRE2 error " << error << " at " << offset;
    // Without memory that may be executed, matching is slower, not wrong.
    pcre2_jit_compile(c, PCRE2_JIT_COMPLETE);
    return c;
  }();
  return code;
}

}  // namespace

void ForEachWord(std::string_view text,
                 absl::FunctionRef<void(std::string_view word)> fn) {
  const pcre2_code* code = WordCode();
  const std::unique_ptr<pcre2_match_data, decltype(&pcre2_match_data_free)>
      match(pcre2_match_data_create(1, nullptr), &pcre2_match_data_free);
  for (size_t begin = 0; begin < text.size();) {
    // Without NO_UTF_CHECK every match would read the whole text again.
    const int count = pcre2_match(
        code, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), begin,
        PCRE2_NO_UTF_CHECK, match.get(), nullptr);
    H2O_CHECK(count > 0) << "PCRE2 error " << count << " at " << begin;
    const size_t end = pcre2_get_ovector_pointer(match.get())[1];
    H2O_CHECK(end > begin);
    fn(text.substr(begin, end - begin));
    begin = end;
  }
}

}  // namespace h2o
