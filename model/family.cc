// The table of families.
#include "model/family.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "model/families/opt.h"

namespace h2o {

std::vector<const Family*> Families() { return {&kOptFamily}; }

absl::StatusOr<const Family*> FindFamily(std::string_view model_type) {
  std::vector<std::string> known;
  for (const Family* family : Families()) {
    if (model_type == family->model_type) return family;
    known.push_back(absl::StrCat("\"", family->model_type, "\""));
  }
  return absl::InvalidArgumentError(
      absl::StrCat("no model family \"", std::string(model_type),
                   "\"; there is ", absl::StrJoin(known, ", ")));
}

}  // namespace h2o
