// Writes .npy files: a header, then rows.
#include "clients/npy_file.h"

#include <string_view>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace h2o {

absl::StatusOr<NpyFile> NpyFile::Create(const std::string& path, int64_t rows,
                                        int64_t columns) {
  H2O_ASSIGN_OR_RETURN(NewFile file, NewFile::Create(path));
  // Magic, version 1.0, the header's length in two bytes, the header; the data
  // begins at a multiple of 64.
  std::string header =
      absl::StrCat("{'descr': '<f4', 'fortran_order': False, 'shape': (", rows,
                   ", ", columns, "), }");
  const size_t before = 10;
  header.append(63 - (before + header.size()) % 64, ' ');
  header += '\n';
  const char preamble[before] = {'\x93',
                                 'N',
                                 'U',
                                 'M',
                                 'P',
                                 'Y',
                                 1,
                                 0,
                                 static_cast<char>(header.size() & 0xff),
                                 static_cast<char>(header.size() >> 8)};
  file.Append({preamble, before});
  file.Append(header);
  return NpyFile(std::move(file));
}

void NpyFile::Append(absl::Span<const float> values) {
  file_.Append({reinterpret_cast<const char*>(values.data()),
                values.size() * sizeof(float)});
}

}  // namespace h2o
